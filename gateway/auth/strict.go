package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep the JSON of a token may nest.
const maxDepth = 8

// parsed is a token in its parts, read once and strictly: what is checked and what
// is used cannot differ. Nothing in it is proven yet.
type parsed struct {
	header map[string]any
	claims map[string]any
	signed string // what the signature is over
	sig    []byte
}

// parse reads a token in compact form: three parts in canonical base64url, two of
// them JSON objects in which no name comes twice. Every error is [ErrToken].
func parse(token string) (parsed, error) {
	if len(token) > maxTokenBytes {
		return parsed{}, errShape("too long")
	}
	head, rest, ok := strings.Cut(token, ".")
	body, sig, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || strings.Contains(sig, ".") {
		return parsed{}, errShape("not three parts")
	}
	out := parsed{signed: token[:len(head)+1+len(body)]}
	var err error
	if out.header, err = part(head); err != nil {
		return parsed{}, err
	}
	if out.claims, err = part(body); err != nil {
		return parsed{}, err
	}
	out.sig, err = canonical(sig)
	return out, err
}

// canonical decodes base64url, of each value one text only.
func canonical(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") { // which the decoder would skip
		return nil, errShape("base64")
	}
	out, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errShape("base64")
	}
	return out, nil
}

func part(text string) (map[string]any, error) {
	raw, err := canonical(text)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(raw) || !json.Valid(raw) {
		return nil, errShape("not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := value(d, 0)
	if err != nil {
		return nil, err
	}
	object, ok := v.(map[string]any)
	if _, err := d.Token(); !ok || err != io.EOF {
		return nil, errShape("not an object")
	}
	return object, nil
}

// value reads one value. Two readers may take two of the same name differently,
// so there are none.
func value(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, errShape("not JSON")
	}
	if depth > maxDepth {
		return nil, errShape("too deep")
	}
	switch t {
	case json.Delim('{'):
		object := make(map[string]any)
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, errShape("not JSON")
			}
			key, _ := name.(string)
			if _, twice := object[key]; twice {
				return nil, errShape("a name comes twice")
			}
			if object[key], err = value(d, depth+1); err != nil {
				return nil, err
			}
		}
		return object, end(d)
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, err := value(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, end(d)
	}
	return t, nil
}

func end(d *json.Decoder) error {
	if _, err := d.Token(); err != nil {
		return errShape("not JSON")
	}
	return nil
}
