package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/audit"
	"granary.dev/granary/gateway/auth"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	"granary.dev/granary/storage/embedded"
)

// BenchmarkAudited compares calls whose record is durable before their answer leaves
// with calls that are not recorded, in turns of one run, at 1, 16 and 64 callers. The
// figure to keep is the ratio; how it comes out is the disk's fsync.
func BenchmarkAudited(b *testing.B) {
	store, err := embedded.Open(b.Context(), embedded.Config{Dir: filepath.Join(b.TempDir(), "data")})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	log, err := audit.Open(audit.Config{Dir: filepath.Join(b.TempDir(), "audit"), Node: "n", Store: store})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = log.Close(context.Background()) }()
	authority, err := auth.Open(filepath.Join(b.TempDir(), "key.pem"))
	if err != nil {
		b.Fatal(err)
	}
	token, err := authority.Issue(auth.Grant{Tenant: "acme", Subject: "ada", Roles: []string{"viewer"}, Life: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	g := quickGrains{}
	open := func(a gateway.Auditor) http.Handler {
		door, err := gateway.New(gateway.Config{Grains: g, Blobs: newBlobs(), Verifier: authority, UploadKey: gateway.Secret(strings.Repeat("k", 32)), Audit: a})
		if err != nil {
			b.Fatal(err)
		}
		return door.Handler()
	}
	doors := [2]http.Handler{open(log), open(nil)}
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			var took [2][]time.Duration
			const turns = 6
			per := max(b.N/turns/callers, 1)
			b.ResetTimer()
			for range turns {
				for i, door := range doors {
					start := time.Now()
					var all sync.WaitGroup
					for range callers {
						all.Go(func() {
							for range per {
								call(b, door, token.Reveal())
							}
						})
					}
					all.Wait()
					took[i] = append(took[i], time.Since(start))
				}
			}
			slices.Sort(took[0])
			slices.Sort(took[1])
			with, without := took[0][turns/2], took[1][turns/2]
			b.ReportMetric(float64(with.Nanoseconds())/float64(per*callers), "ns/audited")
			b.ReportMetric(float64(without.Nanoseconds())/float64(per*callers), "ns/bare")
			b.ReportMetric(with.Seconds()/without.Seconds(), "ratio")
		})
	}
}

func call(b *testing.B, door http.Handler, token string) {
	req := httptest.NewRequest(http.MethodPost, getKB, strings.NewReader(`{"name":"handbook"}`))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	door.ServeHTTP(w, req)
	if w.Code != http.StatusOK {
		b.Error(w.Body)
	}
}

// quickGrains answers at once and remembers nothing.
type quickGrains struct{}

func (quickGrains) Ask(_ context.Context, kind, _, _ string, _ proto.Message) (proto.Message, error) {
	if kind == "tenant" {
		return &nodev1.TenantReply{Result: &nodev1.TenantReply_Access{Access: &nodev1.Access{}}}, nil
	}
	return knowledgeBaseReply("handbook", 1), nil
}
