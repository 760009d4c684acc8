//go:build unix

package e2e

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// canary is a secret that was planted somewhere, and every form in which it would
// be recognised.
type canary struct {
	name    string
	needles [][]byte
	// content is a tenant's own: its answers to its owner have it. The others are
	// nobody's to see.
	content bool
}

// newCanary makes the forms of a secret: as it is, in hexadecimal, escaped for URLs
// and JSON, and in base64 and base32 wherever it begins in the text that is encoded.
func newCanary(name string, secret []byte, content bool) canary {
	c := canary{name: name, content: content}
	seen := map[string]bool{}
	add := func(needle []byte) {
		if len(needle) >= 8 && !seen[string(needle)] {
			seen[string(needle)] = true
			c.needles = append(c.needles, needle)
		}
	}
	add(secret)
	add([]byte(hex.EncodeToString(secret)))
	add([]byte(strings.ToUpper(hex.EncodeToString(secret))))
	add([]byte(url.QueryEscape(string(secret))))
	add([]byte(url.PathEscape(string(secret))))
	if quoted, err := json.Marshal(string(secret)); err == nil {
		add(quoted[1 : len(quoted)-1])
	}
	add([]byte(strings.Trim(fmt.Sprintf("%q", secret), `"`)))
	for lead := range 5 {
		padded := append(bytes.Repeat([]byte{'.'}, lead), secret...)
		for _, enc := range []struct {
			encode func([]byte) string
			bytes  int // of input in a group
			chars  int // of output
		}{
			{base64.RawStdEncoding.EncodeToString, 3, 4}, {base64.RawURLEncoding.EncodeToString, 3, 4},
			{base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString, 5, 8},
		} {
			if lead >= enc.bytes {
				continue
			}
			text := enc.encode(padded)
			first := (lead + enc.bytes - 1) / enc.bytes * enc.chars // the group the padding spoils
			last := len(padded) / enc.bytes * enc.chars             // the group what follows would change
			if first < last {
				add([]byte(text[first:last]))
			}
		}
	}
	return c
}

// in tells in which form the canary is in data, "" if in none.
func (c canary) in(data []byte) string {
	for _, needle := range c.needles {
		if at := bytes.Index(data, needle); at >= 0 {
			return fmt.Sprintf("%q", data[max(0, at-60):min(len(data), at+len(needle)+20)])
		}
	}
	return ""
}

// search looks for all canaries, also in what zstd has packed.
func search(t *testing.T, where string, data []byte, canaries []canary) (bytesRead int) {
	t.Helper()
	look := func(where string, data []byte) {
		bytesRead += len(data)
		for _, c := range canaries {
			if found := c.in(data); found != "" {
				t.Errorf("%s has the canary %s: %s", where, c.name, found)
			}
		}
	}
	look(where, data)
	unpack(data, func(plain []byte) { look(where+", unpacked", plain) })
	return bytesRead
}

// unpack gives the contents of whatever looks like a frame of zstd.
func unpack(data []byte, look func(plain []byte)) {
	for frames := 0; frames < 1000; frames++ {
		at := bytes.Index(data, []byte{0x28, 0xb5, 0x2f, 0xfd})
		if at < 0 {
			return
		}
		if r, err := zstd.NewReader(bytes.NewReader(data[at:]), zstd.WithDecoderConcurrency(1)); err == nil {
			plain, _ := io.ReadAll(io.LimitReader(r, 64<<20)) // what follows the frame is none
			r.Close()
			look(plain)
		}
		data = data[at+4:]
	}
}

// The search finds what it is for, in each form and place.
func TestCanariesAreFoundInEveryForm(t *testing.T) {
	secret := []byte("s3cret/näme+with=odd chars")
	c := newCanary("test", secret, false)
	packed := func(data []byte) []byte {
		var b bytes.Buffer
		w, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(data)
		_ = w.Close()
		return b.Bytes()
	}
	for _, lead := range []string{"", "a", "ab", "abc", "abcd"} {
		around := []byte(lead + string(secret) + "xyz")
		for form, data := range map[string][]byte{
			"plain": around, "hex": []byte(hex.EncodeToString(around)), "query": []byte(url.QueryEscape(string(around))),
			"base64": []byte(base64.StdEncoding.EncodeToString(around)), "base64url": []byte(base64.RawURLEncoding.EncodeToString(around)),
			"base32": []byte(base32.StdEncoding.EncodeToString(around)), "go": fmt.Appendf(nil, "%q", around),
		} {
			if c.in(data) == "" {
				t.Errorf("%s after %q is not found", form, lead)
			}
		}
		found := 0
		unpack(append([]byte("before"), packed(around)...), func(plain []byte) {
			if c.in(plain) != "" {
				found++
			}
		})
		if found != 1 {
			t.Errorf("packed after %q is found %d times", lead, found)
		}
	}
	if found := c.in([]byte("nothing of the kind")); found != "" {
		t.Errorf("found %s", found)
	}
}
