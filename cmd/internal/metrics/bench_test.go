//go:build unix

package metrics

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/auth"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// quick answers at once.
type quick struct{ gateway.Blobs }

func (quick) Ask(_ context.Context, kind, _, _ string, _ proto.Message) (proto.Message, error) {
	if kind == "tenant" {
		return &nodev1.TenantReply{Result: &nodev1.TenantReply_Access{Access: &nodev1.Access{}}}, nil
	}
	return &nodev1.KnowledgeBaseReply{Revision: 1, Result: &nodev1.KnowledgeBaseReply_KnowledgeBase{
		KnowledgeBase: &granaryv1.KnowledgeBase{Name: "knowledgeBases/handbook"}}}, nil
}

// BenchmarkCalled is what counting one call costs.
func BenchmarkCalled(b *testing.B) {
	r, err := New("v", "n", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		r.Calls.Called(gateway.Outcome{Method: "granary.v1.KnowledgeBaseService/GetKnowledgeBase", Tenant: "acme", Code: "ok", Took: 40 * time.Microsecond})
	}
}

// BenchmarkObserved_P2 compares calls that are counted with calls that are not, in turns
// of one run, by the processor time they take.
func BenchmarkObserved_P2(b *testing.B) {
	authority, err := auth.Open(filepath.Join(b.TempDir(), "key.pem"))
	if err != nil {
		b.Fatal(err)
	}
	token, err := authority.Issue(auth.Grant{Tenant: "acme", Subject: "ada", Roles: []string{"viewer"}, Life: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	r, err := New("v", "n", nil)
	if err != nil {
		b.Fatal(err)
	}
	var doors [2]http.Handler
	for i, o := range []gateway.Observer{nil, r.Calls} {
		g, err := gateway.New(gateway.Config{Grains: quick{}, Blobs: quick{}, Verifier: authority, Observer: o, UploadKey: gateway.Secret(strings.Repeat("k", 32))})
		if err != nil {
			b.Fatal(err)
		}
		doors[i] = g.Handler()
	}
	const turns = 21
	per := max(b.N/turns, 1)
	var took [2][]float64
	for range turns {
		for i, door := range doors {
			start := cpu(b)
			for range per {
				q := httptest.NewRequest(http.MethodPost, "/granary.v1.KnowledgeBaseService/GetKnowledgeBase", strings.NewReader(`{"name":"knowledgeBases/handbook"}`))
				q.Header.Set("Content-Type", "application/json")
				q.Header.Set("Authorization", "Bearer "+token.Reveal())
				w := httptest.NewRecorder()
				if door.ServeHTTP(w, q); w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
			took[i] = append(took[i], float64(cpu(b)-start)/float64(per))
		}
	}
	ratios := make([]float64, turns)
	for i := range turns {
		ratios[i] = took[1][i] / took[0][i]
	}
	slices.Sort(ratios)
	slices.Sort(took[0])
	slices.Sort(took[1])
	b.ReportMetric(took[0][turns/2], "cpu-ns/bare")
	b.ReportMetric(took[1][turns/2], "cpu-ns/counted")
	b.ReportMetric(ratios[turns/2], "ratio")
}

// cpu is what this process has used: other programs of the machine do not count.
func cpu(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
