//go:build unix

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/types/known/durationpb"

	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/auth"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// crashBinary is the binary with crash points, built when a test first needs it.
var crashBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(binary), "granary-crashpoints")
	out, err := exec.Command("go", "build", "-tags", "crashpoints", "-o", path, "granary.dev/granary/cmd/granary").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// party is somebody with a token at one node.
type party struct {
	clients
	erasures   granaryv1connect.ErasureServiceClient
	tenants    granaryv1connect.TenantAdminServiceClient
	tombstones granaryv1connect.ErasureAdminServiceClient
}

func partyAt(api, token string) party {
	hc := &http.Client{Timeout: 15 * time.Second, Transport: bearer(token)}
	c := connect.NewClient(connecthttp.NewTransport(hc, "http://"+api))
	return party{clients{granaryv1connect.NewKnowledgeBaseServiceClient(c), granaryv1connect.NewDocumentServiceClient(c), granaryv1connect.NewSearchServiceClient(c)},
		granaryv1connect.NewErasureServiceClient(c), granaryv1connect.NewTenantAdminServiceClient(c), granaryv1connect.NewErasureAdminServiceClient(c)}
}

// tokens issues tokens with a development key.
func tokens(t *testing.T, keyFile string, tenants ...string) (operator string, of map[string]string) {
	t.Helper()
	authority, err := auth.Open(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	o, err := authority.IssueOperator(auth.OperatorGrant{Subject: "olga"})
	if err != nil {
		t.Fatal(err)
	}
	of = make(map[string]string)
	for _, name := range tenants {
		g, err := authority.Issue(auth.Grant{Tenant: name, Subject: "ada", Roles: []string{gateway.RoleAdmin}})
		if err != nil {
			t.Fatal(err)
		}
		of[name] = g.Reveal()
	}
	return o.Reveal(), of
}

// until repeats what may fail while a server is away or catches up.
func until(t *testing.T, what string, within time.Duration, do func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for {
		err := do(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s, for %v: %v", what, within, err)
		case <-time.After(50 * time.Millisecond): // polling another process
		}
	}
}

// bulky is a document that is kept in a file of its own and has few words.
func bulky(words string) []byte {
	return []byte("<html><!-- " + strings.Repeat("ballast ", 20_000) + "--><body><h1>Bulky</h1><p>" + words + "</p></body></html>")
}

// fill makes a knowledge base with documents, and waits until all are found. Each has two
// versions, and their words are its own and those of a version.
func (p party) fill(t *testing.T, kb string, docs ...string) {
	t.Helper()
	until(t, "create "+kb, 30*time.Second, func(ctx context.Context) error {
		_, err := p.kbs.CreateKnowledgeBase(ctx, &v1.CreateKnowledgeBaseRequest{KnowledgeBaseId: kb})
		if connect.CodeOf(err) == connect.CodeAlreadyExists {
			return nil
		}
		return err
	})
	for _, id := range docs {
		for version := 1; version <= 2; version++ {
			words := strings.Repeat(fmt.Sprintf("Granaries keep barley %s %d. ", id, version), 40)
			key := fmt.Sprint(kb, id, version, time.Now().UnixNano()) // a document of the same name may have been there
			until(t, "add "+id, 30*time.Second, func(ctx context.Context) error {
				_, err := p.docs.CreateDocument(ctx, &v1.CreateDocumentRequest{Source: &v1.CreateDocumentRequest_Data{Data: bulky(words)},
					Spec: &v1.DocumentSpec{KnowledgeBase: kb, DocumentId: id, DisplayName: id + ".html", RequestId: key}})
				return err
			})
			p.settled(t, kb, id, int64(version))
		}
	}
}

func (p party) settled(t *testing.T, kb, id string, version int64) {
	t.Helper()
	until(t, id+" is not ready", 60*time.Second, func(ctx context.Context) error {
		r, err := p.docs.GetDocument(ctx, &v1.GetDocumentRequest{Name: "knowledgeBases/" + kb + "/documents/" + id})
		if d := r.GetDocument(); err == nil && (d.GetState() != v1.DocumentState_DOCUMENT_STATE_READY || d.GetVersion() != version) {
			return fmt.Errorf("version %d is %v", d.GetVersion(), d.GetState())
		}
		return err
	})
}

// found gives the documents a search finds, each once.
func (p party) found(ctx context.Context, kb, query string) (map[string]bool, error) {
	r, err := p.search.Search(ctx, &v1.SearchRequest{KnowledgeBase: kb, Query: query})
	out := make(map[string]bool)
	for _, h := range r.GetHits() {
		out[h.GetDisplayName()] = true
	}
	return out, err
}

// verified checks a receipt as its owner would: with the command line, without the server.
func verified(t *testing.T, keyFile string, r *v1.ErasureReceipt) {
	t.Helper()
	cmd := exec.Command(binary, "receipt", "verify", "-", "--public-key", keyFile)
	cmd.Stdin = strings.NewReader(string(r.GetEnvelope()))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("receipt of %s: %v\n%s", r.GetTarget(), err, out)
	}
}

// receiptKey keeps the server's public key in a file.
func (p party) receiptKey(t *testing.T) string {
	t.Helper()
	r, err := p.erasures.GetReceiptKey(t.Context(), &v1.GetReceiptKeyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "receipts.pem")
	if err := os.WriteFile(path, []byte(r.GetPublicKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// receipts are those of a target, in a tenant's list or in the operators'.
func (p party) receipts(ctx context.Context, target string) (out []*v1.ErasureReceipt, err error) {
	var all []*v1.ErasureReceipt
	if strings.HasPrefix(target, "tenants/") {
		r, err := p.tombstones.ListTenantErasures(ctx, &v1.ListTenantErasuresRequest{Tenant: target, PageSize: 1000})
		if err != nil {
			return nil, err
		}
		all = r.GetReceipts()
	} else {
		r, err := p.erasures.ListErasureReceipts(ctx, &v1.ListErasureReceiptsRequest{PageSize: 1000})
		if err != nil {
			return nil, err
		}
		all = r.GetReceipts()
	}
	for _, r := range all {
		if r.GetTarget() == target {
			out = append(out, r)
		}
	}
	return out, nil
}

// erase asks for the deletion of a target.
func (p party) erase(ctx context.Context, target string) error {
	var err error
	switch {
	case strings.HasPrefix(target, "tenants/"):
		_, err = p.tenants.DeleteTenant(ctx, &v1.DeleteTenantRequest{Name: target, UndeleteFor: durationpb.New(0)})
	case strings.Contains(target, "/documents/"):
		_, err = p.docs.DeleteDocument(ctx, &v1.DeleteDocumentRequest{Name: target})
	default:
		_, err = p.kbs.DeleteKnowledgeBase(ctx, &v1.DeleteKnowledgeBaseRequest{Name: target})
	}
	return err
}

// died reads at which step a process ended itself; "" when it did not.
func died(file string) string {
	step, err := os.ReadFile(file + ".died")
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	return string(step)
}

// arm has a process end itself at the nth step from now.
func arm(t *testing.T, file string, n int) {
	t.Helper()
	_ = os.Remove(file + ".died")
	if err := os.WriteFile(file+".new", []byte(fmt.Sprint(n)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func disarm(file string) { _ = os.Remove(file) }
