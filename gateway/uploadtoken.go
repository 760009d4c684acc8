package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/google/uuid"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// uploadLife is how long an upload in parts may take; unclaimed blobs are
// collected when they are as old.
const uploadLife = 24 * time.Hour

// uploadToken is an upload in parts, as its client carries it. At 64 KiB a part
// and 64 MiB in all it stays below the 64 KiB its field may have.
type uploadToken struct {
	Tenant  string       `json:"t"`
	Subject string       `json:"u"`
	Parts   []uploadPart `json:"p"`
	Issued  int64        `json:"i"` // Unix seconds, of the first part
	Expires int64        `json:"e"`
}

// uploadPart is one unclaimed blob.
type uploadPart struct {
	Blob string `json:"b"` // UUIDs in 22 characters; other ids as they are
	Size int64  `json:"s"`
}

func newPart(b journal.BlobInfo) uploadPart {
	id := b.ID
	if u, err := uuid.Parse(id); err == nil && u.String() == id {
		id = base64.RawURLEncoding.EncodeToString(u[:])
	}
	return uploadPart{Blob: id, Size: b.Size}
}

func (p uploadPart) id() string {
	if len(p.Blob) == 22 {
		if raw, err := base64.RawURLEncoding.DecodeString(p.Blob); err == nil {
			if u, err := uuid.FromBytes(raw); err == nil {
				return u.String()
			}
		}
	}
	return p.Blob
}

func (t uploadToken) size() (n int64) {
	for _, p := range t.Parts {
		n += p.Size
	}
	return n
}

func (t uploadToken) ids() (ids []string) {
	for _, p := range t.Parts {
		ids = append(ids, p.id())
	}
	return ids
}

// uploadSealer makes and checks tokens. All nodes of a cluster hold the same key.
type uploadSealer struct{ key Secret }

func (s uploadSealer) start(p Principal, now time.Time) uploadToken {
	return uploadToken{
		Tenant: p.Tenant, Subject: p.Subject,
		Issued: now.Unix(), Expires: now.Add(uploadLife).Unix(),
	}
}

func (s uploadSealer) seal(t uploadToken) (string, error) {
	payload, err := json.Marshal(t)
	if err != nil {
		return "", err
	}
	body := base64.RawURLEncoding.EncodeToString(payload)
	return body + "." + base64.RawURLEncoding.EncodeToString(s.mac(body)), nil
}

// open reads a token of p. Forged, foreign and mangled ones answer alike.
func (s uploadSealer) open(p Principal, token string, now time.Time) (uploadToken, error) {
	notValid := invalid(kb.ReasonUploadInvalid, "upload_token", "The upload token is not valid.")
	body, sum, ok := strings.Cut(token, ".")
	if !ok {
		return uploadToken{}, notValid
	}
	// As texts: a decoder reads more than one as the same bytes.
	if want := base64.RawURLEncoding.EncodeToString(s.mac(body)); !hmac.Equal([]byte(sum), []byte(want)) {
		return uploadToken{}, notValid
	}
	payload, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return uploadToken{}, notValid
	}
	var t uploadToken
	if err := json.Unmarshal(payload, &t); err != nil || t.Tenant != p.Tenant || t.Subject != p.Subject {
		return uploadToken{}, notValid
	}
	if now.Unix() >= t.Expires {
		return uploadToken{}, invalid(kb.ReasonUploadInvalid, "upload_token", "The upload is older than 24 hours.")
	}
	return t, nil
}

func (s uploadSealer) mac(body string) []byte {
	h := hmac.New(sha256.New, s.key)
	// The label keeps the key's other uses apart from this one.
	h.Write([]byte("granary upload v1\x00"))
	h.Write([]byte(body))
	return h.Sum(nil)
}
