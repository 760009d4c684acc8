package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/auth"
)

// BenchmarkUnary is what the gateway itself costs a JSON call: no network, a grain
// that answers at once, a token that is remembered.
func BenchmarkUnary(b *testing.B) {
	authority, err := auth.Open(filepath.Join(b.TempDir(), "key.pem"))
	if err != nil {
		b.Fatal(err)
	}
	token, err := authority.Issue(auth.Grant{Tenant: "acme", Subject: "ada", Roles: []string{"viewer"}, Life: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	g := &grains{}
	g.answer(knowledgeBaseReply("handbook", 1))
	door, err := gateway.New(gateway.Config{
		Grains: g, Blobs: newBlobs(), Verifier: authority, UploadKey: gateway.Secret(strings.Repeat("k", 32)),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		req := httptest.NewRequest(http.MethodPost, getKB, strings.NewReader(`{"name":"handbook"}`))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+token.Reveal())
		w := httptest.NewRecorder()
		door.Handler().ServeHTTP(w, req)
		if w.Code != http.StatusOK {
			b.Fatal(w.Body)
		}
	}
}

// BenchmarkNew is what a start pays for compiling the rules of all requests.
func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		_, err := gateway.New(gateway.Config{
			Grains: &grains{}, Blobs: newBlobs(), UploadKey: gateway.Secret(strings.Repeat("k", 32)),
			Verifier: verifierFunc(nil),
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
