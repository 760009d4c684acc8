package kb

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Receipt says what was erased: ids and counts only. It is kept and handed out as
// a signed DSSE envelope (https://github.com/secure-systems-lab/dsse).
type Receipt struct {
	Name         string        `json:"name"` // erasureReceipts/{id}
	Target       string        `json:"target"`
	UID          string        `json:"uid,omitempty"`
	Tenant       string        `json:"tenant"`
	RequestedBy  string        `json:"requested_by"`
	RequestTime  time.Time     `json:"request_time"`
	CompleteTime time.Time     `json:"complete_time"`
	Reason       string        `json:"reason"`
	Counts       ErasureCounts `json:"counts"`
	KeyDestroyed bool          `json:"key_destroyed"`
	Node         string        `json:"node"`
}

// Why something was erased.
const (
	ErasedByRequest = "REQUESTED"
	ErasedExpired   = "EXPIRED"
)

// ReceiptPrefix begins the names of receipts.
const ReceiptPrefix = "erasureReceipts/"

// receiptType is the payload type of envelopes.
const receiptType = "application/vnd.granary.erasure-receipt.v1+json"

// envelope is DSSE; bytes are base64 in JSON.
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"`
}

// ErrReceipt is a receipt that is not what its signature says, or none at all.
var ErrReceipt = errors.New("kb: the receipt is not valid")

// SigningKeyID names a key in envelopes.
func SigningKeyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return "ed25519:" + hex.EncodeToString(sum[:8])
}

// toSign is DSSE's pre-authentication encoding.
func toSign(payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(receiptType), receiptType, len(payload), payload)
}

// SealReceipt signs a receipt.
func SealReceipt(key ed25519.PrivateKey, r Receipt) ([]byte, error) {
	payload, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("kb: encode receipt: %w", err)
	}
	id := SigningKeyID(key.Public().(ed25519.PublicKey))
	return json.Marshal(envelope{receiptType, payload, []signature{{id, ed25519.Sign(key, toSign(payload))}}})
}

// maxReceipt bounds what is read as a receipt, in bytes.
const maxReceipt = 64 << 10

// ReadReceipt reads a receipt without checking who signed it.
func ReadReceipt(data []byte) (Receipt, error) {
	_, r, err := parseReceipt(data)
	return r, err
}

// VerifyReceipt reads a receipt and checks that one of these keys signed it.
func VerifyReceipt(data []byte, keys ...ed25519.PublicKey) (Receipt, error) {
	e, r, err := parseReceipt(data)
	if err != nil {
		return Receipt{}, err
	}
	for _, s := range e.Signatures {
		for _, k := range keys {
			if ed25519.Verify(k, toSign(e.Payload), s.Sig) {
				return r, nil
			}
		}
	}
	return Receipt{}, fmt.Errorf("%w: the key did not sign it", ErrReceipt)
}

func parseReceipt(data []byte) (e envelope, r Receipt, err error) {
	if len(data) > maxReceipt {
		return e, r, fmt.Errorf("%w: it is too long", ErrReceipt)
	}
	if err := strictly(data, &e); err != nil {
		return e, r, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	if e.PayloadType != receiptType || len(e.Signatures) == 0 {
		return e, r, fmt.Errorf("%w: it is something else", ErrReceipt)
	}
	if err := strictly(e.Payload, &r); err != nil {
		return e, r, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	return e, r, nil
}

// strictly decodes one JSON value with no unknown names and nothing behind it.
func strictly(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("there is more behind it")
	}
	return nil
}
