package apikey_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/apikey"
)

func newKey(t testing.TB, tenant string) apikey.Key {
	t.Helper()
	k, err := apikey.New(tenant, []byte("p"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAKeyIsReadAsItWasMadeAndFitsAHeader_B1(t *testing.T) {
	for _, tenant := range []string{"a", "acme", "a-b-c", strings.Repeat("t", 63)} {
		k := newKey(t, tenant)
		got, err := apikey.Parse(k.Reveal())
		if err != nil || got != k || got.Tenant != tenant || !got.Matches(k.MAC([]byte("p")), []byte("p")) {
			t.Errorf("%s: %v", tenant, err)
		}
		if text, ok := gateway.BearerToken("Bearer " + k.Reveal()); !ok || text != k.Reveal() {
			t.Errorf("%s does not fit a header", tenant)
		}
		if other := newKey(t, tenant); other.ID == k.ID || other.Matches(k.MAC([]byte("p")), []byte("p")) || k.Matches(k.MAC([]byte("p")), []byte("q")) {
			t.Error("another key, or another pepper, matches")
		}
	}
	for _, tenant := range []string{"", "A", "a_b", "-a", "a-", strings.Repeat("t", 64)} {
		if _, err := apikey.New(tenant, []byte("p")); err == nil {
			t.Errorf("a key for tenant %q", tenant)
		}
	}
}

func TestAnyOtherTextIsNoKey_B1(t *testing.T) {
	text := newKey(t, "acme").Reveal()
	for i := range text {
		for _, c := range []byte{'a', 'b', '_', 'A', '0', 0} {
			if c == text[i] {
				continue
			}
			if _, err := apikey.Parse(text[:i] + string(c) + text[i+1:]); err == nil {
				t.Fatalf("with %q at %d it is a key", c, i)
			}
		}
	}
	for _, bad := range []string{"", "grnk_", text[1:], text[:len(text)-1], text + "a", " " + text, strings.ToUpper(text), text + "\n",
		strings.Replace(text, "acme", "acme2", 1), "grnk___"} {
		if _, err := apikey.Parse(bad); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
}

func TestOnlyAHolderOfThePepperMakesIDs_B1(t *testing.T) {
	k := newKey(t, "acme")
	if !k.Issued([]byte("p")) || k.Issued([]byte("q")) {
		t.Error("an id is known to be made here, and elsewhere is not")
	}
	moved := k
	moved.Tenant = "umbrella"
	if moved.Issued([]byte("p")) || (apikey.Key{Tenant: "acme", ID: "x"}).Issued([]byte("p")) {
		t.Error("an id is good in another tenant, or odd")
	}
	if forged, err := apikey.New("acme", []byte("guess")); err != nil || forged.Issued([]byte("p")) {
		t.Error("whoever has no pepper makes an id")
	}
}

func TestAKeyDoesNotPrint_B1(t *testing.T) {
	k := newKey(t, "acme")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k, "in", struct{ K apikey.Key }{k})
	raw, err := json.Marshal(map[string]any{"k": k})
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %s %q %x %#v %+v", k, k, k, k, k, struct{ K apikey.Key }{k}) + log.String() + string(raw)
	if secret := k.Reveal()[strings.LastIndexByte(k.Reveal(), '_')+1:]; strings.Contains(all, secret[:12]) || !strings.Contains(all, "[redacted]") {
		t.Error(all)
	}
}

// FuzzParse: no text panics, and what is read says the same again.
func FuzzParse(f *testing.F) {
	f.Add(newKey(f, "acme").Reveal())
	f.Add("grnk_acme__")
	f.Add("grnk_a_aaaaaaaaaaaaaaaa_" + strings.Repeat("a", 58))
	for _, tenant := range []string{" ", "aA", "0\xdd", "a\n", "a_b", ""} {
		f.Add("grnk_" + tenant + "_0000000000000000_2222222222222222" + strings.Repeat("0", 42))
	}
	f.Add("grnk_0_0000000000000000_" + strings.Repeat("0", 52) + "\r00000")
	f.Add(newKey(f, "acme").Reveal() + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := apikey.Parse(text)
		if err == nil && (k.Reveal() != text || !strings.HasPrefix(text, apikey.Prefix+k.Tenant+"_"+k.ID+"_") || !gateway.ValidTenant(k.Tenant)) {
			t.Errorf("%q is read as %s %s", text, k.Tenant, k.ID)
		}
	})
}
