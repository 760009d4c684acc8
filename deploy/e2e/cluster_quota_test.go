//go:build unix

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"granary.dev/granary/gateway/auth"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// C2, B4: of a thousand uploads through three nodes with one place left, or room for
// exactly one, exactly one wins, while a node is killed; a recount finds no drift.
func TestOneOfAThousandUploadsTakesTheLastRoom_B4_C2(t *testing.T) {
	c := newCluster(t, clusterOptions{nodes: 3, seed: 1})
	who := c.tenants(t, 2)
	authority, err := auth.Open(filepath.Join(c.dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := authority.IssueOperator(auth.OperatorGrant{Subject: "olga"})
	if err != nil {
		t.Fatal(err)
	}
	const size = 2000
	for i, limits := range []*v1.TenantLimits{{DocumentsPerKnowledgeBase: 1}, {StorageBytes: size}} {
		reason := []string{"DOCUMENT_LIMIT", "STORAGE_LIMIT"}[i]
		operator := c.client(tenant{name: who[i].name, token: token.Reveal(), marker: who[i].marker}, who, &leaks{})
		mine := c.client(who[i], who, &leaks{})
		defer operator.close()
		defer mine.close()
		operator.insist(t, "TenantAdminService/CreateTenant", "", &v1.CreateTenantRequest{TenantId: who[i].name, LimitOverrides: limits}, &v1.CreateTenantResponse{})
		mine.insist(t, "KnowledgeBaseService/CreateKnowledgeBase", "create", &v1.CreateKnowledgeBaseRequest{KnowledgeBaseId: "last"}, &v1.CreateKnowledgeBaseResponse{})
		won, lost := mine.rush(t, 1000, size, reason, func() { _ = c.members[i].kill() })
		if won != 1 || lost != 999 {
			t.Errorf("%s: %d won, %d lost", reason, won, lost)
		}
		recount := &v1.RecountUsageResponse{}
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(500 * time.Millisecond) {
			mine.insist(t, "TenantService/RecountUsage", "", &v1.RecountUsageRequest{}, recount)
			drift := false
			for _, l := range recount.GetRecounts() {
				drift = drift || l.GetDrift() != 0 || l.GetNote() != ""
			}
			if !drift {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", reason, recount)
			}
		}
		if err := c.members[i].start(); err != nil {
			t.Fatal(err)
		}
		if err := c.members[i].awaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// insist sends a request until it is answered.
func (c *client) insist(t *testing.T, method, key string, req, res proto.Message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for i := 0; ; i++ {
		got := c.send(ctx, i%3, method, fmt.Sprint(key, method, c.tenant.name), key != "", req, res)
		if got.verdict() == verdictOK {
			return
		}
		if ctx.Err() != nil || got.verdict() == verdictRefused || got.verdict() == verdictBroken {
			t.Fatalf("%s: %s", method, got.why())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// rush uploads n documents at once through all nodes, each until it is told what became of
// it, and calls harm when some are on their way.
func (c *client) rush(t *testing.T, n, size int, reason string, harm func()) (won, lost int) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var mu sync.Mutex
	var all sync.WaitGroup
	room := make(chan struct{}, 128) // connections at a time
	for i := range n {
		all.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			text := fmt.Sprintf("%0*d", size, i)
			for try := i; ctx.Err() == nil; try++ {
				got := c.send(ctx, try%3, "DocumentService/CreateDocument", fmt.Sprint(reason, i), true, &v1.CreateDocumentRequest{
					Spec: &v1.DocumentSpec{KnowledgeBase: "last"}, Source: &v1.CreateDocumentRequest_Text{Text: text}}, &v1.CreateDocumentResponse{})
				mu.Lock()
				switch {
				case got.verdict() == verdictOK:
					won++
				case got.answer.reason == reason:
					lost++
				default:
					mu.Unlock()
					time.Sleep(100 * time.Millisecond)
					continue
				}
				if won+lost == n/10 {
					go harm()
				}
				mu.Unlock()
				return
			}
		})
	}
	all.Wait()
	return won, lost
}
