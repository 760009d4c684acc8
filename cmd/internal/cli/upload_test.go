package cli

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// E2: UNAVAILABLE and BUSY are tried again with the same request id, at the time the server names.
func TestAddTriesAgainWithTheSameRequestID(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.md", "alpha")
	var calls atomic.Int32
	f := &fake{upload: func(s *granaryv1.DocumentSpec, d []byte) (*granaryv1.UploadDocumentResponse, error) {
		switch calls.Add(1) {
		case 1:
			return nil, rpcError(t, connect.CodeUnavailable, "UNAVAILABLE", "restarting", 0)
		case 2:
			return nil, rpcError(t, connect.CodeResourceExhausted, "BUSY", "mailbox full", 700*time.Millisecond)
		}
		return accept(nil)(s, d)
	}}
	var sleeps []time.Duration
	r := granary(t, f.serve(t, false), world{sleeps: &sleeps}, "doc", "add", "handbook", dir)
	wantCode(t, r, ExitOK)
	reqs := got[*granaryv1.UploadDocumentRequest](f)
	if len(reqs) != 3 || reqs[0].GetSpec().GetRequestId() == "" || reqs[2].GetSpec().GetRequestId() != reqs[0].GetSpec().GetRequestId() {
		t.Errorf("requests %v", reqs)
	}
	if len(sleeps) != 2 || sleeps[0] < firstPause/2 || sleeps[0] > firstPause || sleeps[1] != 700*time.Millisecond {
		t.Errorf("pauses %v", sleeps)
	}
}

// What trying again cannot mend, or not within the budget, fails at once.
func TestAddGivesUpWhereRetryingDoesNotHelp(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.md", "alpha")
	cases := map[string]struct {
		err   error
		tries int // at most, 0 for once
	}{
		"a full knowledge base": {rpcError(t, connect.CodeResourceExhausted, "DOCUMENT_LIMIT", "full", 0), 1},
		"a conflict":            {rpcError(t, connect.CodeAborted, "ETAG_MISMATCH", "changed", time.Second), 1},
		"a wait too long":       {rpcError(t, connect.CodeUnavailable, "UNAVAILABLE", "later", time.Minute), 1},
		"never back":            {rpcError(t, connect.CodeUnavailable, "UNAVAILABLE", "down", 0), 40},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := &fake{upload: func(*granaryv1.DocumentSpec, []byte) (*granaryv1.UploadDocumentResponse, error) { return nil, c.err }}
			var sleeps []time.Duration
			r := granary(t, f.serve(t, false), world{sleeps: &sleeps}, "doc", "add", "handbook", dir)
			wantCode(t, r, ExitFailed)
			wantContains(t, r.stderr, "failed       a.md: ", "1 of 1 sources were not added")
			total := time.Duration(0)
			for _, s := range sleeps {
				total += s
			}
			n := len(got[*granaryv1.UploadDocumentRequest](f))
			if n > c.tries || total > retryBudget || c.tries > 1 && total < retryBudget/2 {
				t.Errorf("%d tries in %s", n, total)
			}
		})
	}
}

// What would meet every source ends the command instead of failing each of them.
func TestAddStopsAtWhatConcernsAllSources(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		write(t, dir, fmt.Sprintf("%02d.md", i), "x")
	}
	for _, c := range []struct {
		code   connect.Code
		reason string
	}{{connect.CodeUnauthenticated, "UNAUTHENTICATED"}, {connect.CodeNotFound, "KNOWLEDGE_BASE_NOT_FOUND"}} {
		f := &fake{upload: func(*granaryv1.DocumentSpec, []byte) (*granaryv1.UploadDocumentResponse, error) {
			return nil, rpcError(t, c.code, c.reason, "no", 0)
		}}
		r := granary(t, f.serve(t, false), world{}, "doc", "add", "handbook", dir)
		wantCode(t, r, ExitFailed)
		if !strings.HasPrefix(r.stderr, "granary: "+c.reason+": no\n") || len(got[*granaryv1.UploadDocumentRequest](f)) > 4 {
			t.Errorf("%d requests, stderr %q", len(got[*granaryv1.UploadDocumentRequest](f)), r.stderr)
		}
	}
}

// Where streamed requests do not get through, files go in parts.
func TestAddFallsBackToParts(t *testing.T) {
	dir := t.TempDir()
	content := strings.Repeat("0123456789abcdef", 150_000)
	write(t, dir, "a.md", content)
	write(t, dir, "b.md", "")
	for name, wrap := range map[string]func(*testing.T, string) string{
		"the method is not there":     func(_ *testing.T, server string) string { return server },
		"a proxy wants to know sizes": sizeProxy,
	} {
		t.Run(name, func(t *testing.T) {
			parts := map[string]string{"": ""}
			created := map[string]string{}
			fails := 1
			f := &fake{answer: func(req proto.Message) (proto.Message, error) {
				switch r := req.(type) {
				case *granaryv1.AppendUploadRequest:
					if fails--; fails == 0 {
						return nil, rpcError(t, connect.CodeUnavailable, "UNAVAILABLE", "again", 0)
					}
					token := fmt.Sprintf("t%d", len(parts))
					parts[token] = parts[r.GetUploadToken()] + string(r.GetData())
					return &granaryv1.AppendUploadResponse{UploadToken: token}, nil
				case *granaryv1.CreateDocumentRequest:
					created[r.GetSpec().GetDisplayName()] = parts[r.GetUploadToken()]
					return &granaryv1.CreateDocumentResponse{Document: &granaryv1.Document{Name: "knowledgeBases/h/documents/x", Version: 1}}, nil
				}
				return nil, connect.NewError(connect.CodeInternal, "unexpected")
			}}
			r := granary(t, wrap(t, f.serve(t, false)), world{}, "doc", "add", "handbook", dir, "--concurrency", "1")
			wantCode(t, r, ExitOK)
			if created["a.md"] != content || len(created) != 2 {
				t.Errorf("created %d documents, %d bytes", len(created), len(created["a.md"]))
			}
			if n := len(got[*granaryv1.UploadDocumentRequest](f)); n > 1 {
				t.Errorf("streaming was tried %d times", n)
			}
		})
	}
}

// sizeProxy refuses requests without a Content-Length, as some proxies do.
func sizeProxy(t *testing.T, target string) string {
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	proxy := &httputil.ReverseProxy{Transport: tr, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength < 0 {
			w.WriteHeader(http.StatusLengthRequired)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { srv.Close(); tr.CloseIdleConnections() })
	return srv.URL
}
