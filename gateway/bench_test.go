//go:build unix

package gateway_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/tokens"
	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/auth"
)

// BenchmarkUnary_P2 is what the gateway itself costs a JSON call: no network, a grain
// that answers at once, a token that is remembered; with its quota check, and without.
func BenchmarkUnary_P2(b *testing.B) {
	b.Run("granary", func(b *testing.B) { benchUnary(b, counting(b)) })
	b.Run("unmetered", func(b *testing.B) { benchUnary(b, nil) })
}

// counting is a node's meter over an owner with tokens for all.
func counting(b *testing.B) gateway.Meters {
	h := tokens.New("n1", plenty{})
	b.Cleanup(func() { h.Close(context.Background()) })
	return metersOf{h}
}

// metersOf is the holder as the gateway wants it, as in cmd/internal/node.
type metersOf struct{ holder *tokens.Holder }

func (m metersOf) Account(tenant string, k kb.Meter) gateway.Account {
	return m.holder.Account(tenant, k)
}

type plenty struct{}

func (plenty) Lease(_ context.Context, _ string, _ kb.Meter, _ string, q kb.TokenRequest) (kb.TokenLease, string, error) {
	return kb.TokenLease{Seq: q.Seq, Window: 1, Left: time.Hour, Held: q.Held + 1<<30, Base: 1 << 30, Remaining: 1 << 30}, "all", nil
}

func benchUnary(b *testing.B, meters gateway.Meters) {
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
		Grains: g, Blobs: newBlobs(), Meters: meters, Verifier: authority, UploadKey: gateway.Secret(strings.Repeat("k", 32)),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	start := cpuTime(b)
	defer func() { b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op") }()
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

// cpuTime is what this process has used: other programs of the machine do not count.
func cpuTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
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
