package kb_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"granary.dev/granary/actors/kb"
)

func someReceipt() kb.Receipt {
	return kb.Receipt{Name: kb.ReceiptPrefix + kb.ReceiptID("acme", "u", "d", 7), Target: "knowledgeBases/k/documents/d", UID: "u", Tenant: "acme",
		RequestedBy: "olga", RequestTime: epoch, CompleteTime: epoch, Reason: kb.ErasedByRequest, Node: "n1",
		Counts: kb.ErasureCounts{Documents: 1, Chunks: 2, Vectors: 3, Blobs: 4}}
}

func seal(f failer, seed byte, r kb.Receipt) (sealed []byte, public ed25519.PublicKey) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	sealed, err := kb.SealReceipt(key, r)
	if err != nil {
		f.Fatalf("seal: %v", err)
	}
	return sealed, key.Public().(ed25519.PublicKey)
}

// I3: a receipt is checked offline; nothing of it can be changed, and no other key signs it.
func TestAReceiptCannotBeForged_I3(t *testing.T) {
	sealed, public := seal(t, 1, someReceipt())
	_, other := seal(t, 2, someReceipt())
	if r, err := kb.VerifyReceipt(sealed, other, public); err != nil || r != someReceipt() {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := kb.VerifyReceipt(sealed, other); !errors.Is(err, kb.ErrReceipt) {
		t.Errorf("another key: %v", err)
	}
	if _, err := kb.VerifyReceipt(sealed); !errors.Is(err, kb.ErrReceipt) {
		t.Errorf("no key: %v", err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if r, err := kb.VerifyReceipt(bad, public); err == nil && r != someReceipt() {
			t.Errorf("with byte %d changed it says %+v", i, r)
		}
	}
	for _, bad := range [][]byte{nil, []byte("{}"), sealed[:len(sealed)-1], append(bytes.Clone(sealed), sealed...)} {
		if _, err := kb.VerifyReceipt(bad, public); !errors.Is(err, kb.ErrReceipt) {
			t.Errorf("%.40q is taken: %v", bad, err)
		}
	}
	// The payload of another kind, signed by the right key for another use, is none.
	var e map[string]any
	if err := json.Unmarshal(sealed, &e); err != nil {
		t.Fatal(err)
	}
	e["payloadType"] = "application/json"
	swapped, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kb.VerifyReceipt(swapped, public); !errors.Is(err, kb.ErrReceipt) {
		t.Errorf("another type: %v", err)
	}
}

func FuzzReceipt(f *testing.F) {
	sealed, public := seal(f, 1, someReceipt())
	f.Add(sealed)
	f.Add([]byte(`{"payloadType":"application/vnd.granary.erasure-receipt.v1+json","payload":"e30=","signatures":[{"keyid":"","sig":""}]}`))
	text := string(sealed) // names and values twice, in capitals, and what comes after
	for _, other := range []string{text + text, text + " {", strings.Replace(text, `"payload":`, `"payload":"e30=","payload":`, 1),
		strings.Replace(text, `"payload"`, `"PAYLOAD"`, 1), strings.Replace(text, `"signatures":[`, `"signatures":[{},`, 1)} {
		f.Add([]byte(other))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := kb.VerifyReceipt(data, public); err == nil && r != someReceipt() {
			t.Fatalf("forged: %+v", r)
		}
	})
}
