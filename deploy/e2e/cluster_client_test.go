//go:build unix

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/auth"
)

// tenant is one customer of the cluster. Everything it writes carries its
// marker; no other tenant may ever be sent it.
type tenant struct {
	name, token, marker string
}

// tenants makes n tenants with tokens signed by the cluster's development key.
func (c *cluster) tenants(t *testing.T, n int) []tenant {
	t.Helper()
	path := filepath.Join(c.dir, "key")
	if err := os.WriteFile(path, c.signingKey(t), 0o600); err != nil {
		t.Fatal(err)
	}
	authority, err := auth.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]tenant, n)
	for i := range out {
		name := fmt.Sprintf("tenant-%d", i+1)
		token, err := authority.Issue(auth.Grant{Tenant: name, Subject: "chaos", Roles: []string{gateway.RoleAdmin}})
		if err != nil {
			t.Fatal(err)
		}
		out[i] = tenant{name: name, token: token.Reveal(), marker: fmt.Sprintf("zq%dmark%dqz", i+1, c.seed%1e9)}
	}
	return out
}

// leaks counts and collects what tenants saw of each other.
type leaks struct {
	answers, bytes atomic.Int64

	mu    sync.Mutex
	found []string
}

// look searches an answer to one tenant for the markers of the others.
func (l *leaks) look(mine tenant, all []tenant, what string, body []byte) {
	l.answers.Add(1)
	l.bytes.Add(int64(len(body)))
	for _, other := range all {
		if other.name != mine.name && bytes.Contains(body, []byte(other.marker)) {
			l.mu.Lock()
			l.found = append(l.found, fmt.Sprintf("%s was sent bytes of %s by %s", mine.name, other.name, what))
			l.mu.Unlock()
		}
	}
}

// try is what became of one request to one node.
type try struct {
	sent   bool // the request may have left this process
	answer answer
	err    error // no answer came
}

// client sends requests of one tenant to the nodes. It never repeats a request
// by itself: whoever calls must know what was sent how often.
type client struct {
	cluster *cluster
	tenant  tenant
	all     []tenant
	leaks   *leaks
	http    []*http.Client // by node
}

func (c *cluster) client(mine tenant, all []tenant, l *leaks) *client {
	out := &client{cluster: c, tenant: mine, all: all, leaks: l}
	for _, m := range c.members {
		out.http = append(out.http, &http.Client{Transport: &http.Transport{
			DialContext: m.dial, MaxIdleConnsPerHost: 16, IdleConnTimeout: 10 * time.Second, DisableCompression: true,
		}})
	}
	return out
}

func (c *client) close() {
	for _, h := range c.http {
		h.CloseIdleConnections()
	}
}

// send makes one request. id is its request id and, for writes, the idempotency key.
func (c *client) send(ctx context.Context, node int, method, id string, keyed bool, req, res proto.Message) try {
	body, err := proto.Marshal(req)
	if err != nil {
		return try{err: err}
	}
	var out try
	var sent atomic.Bool
	trace := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	r, err := http.NewRequestWithContext(trace, http.MethodPost, "http://"+c.cluster.members[node].api+"/granary.v1."+method, bytes.NewReader(body))
	if err != nil {
		return try{err: err}
	}
	r.GetBody = nil // Go repeats a request with an idempotency key by itself if it can
	r.Header.Set("Content-Type", "application/proto")
	r.Header.Set("Connect-Protocol-Version", "1")
	r.Header.Set("Authorization", "Bearer "+c.tenant.token)
	r.Header.Set("X-Request-Id", id)
	if keyed {
		r.Header.Set("Idempotency-Key", id)
	}
	if end, ok := ctx.Deadline(); ok {
		r.Header.Set("Connect-Timeout-Ms", strconv.FormatInt(max(1, time.Until(end).Milliseconds()), 10))
	}
	reply, err := c.http[node].Do(r)
	if err != nil {
		out.sent, out.err = sent.Load(), err
		return out
	}
	defer reply.Body.Close()
	out.sent = true
	raw, err := io.ReadAll(reply.Body)
	c.leaks.look(c.tenant, c.all, method, raw)
	if err != nil {
		out.err = err
		return out
	}
	out.answer = answer{status: reply.StatusCode, body: string(raw), header: reply.Header}
	if reply.StatusCode == http.StatusOK {
		out.err = proto.Unmarshal(raw, res)
		return out
	}
	out.answer.decode(raw)
	if out.answer.code == "" {
		out.err = fmt.Errorf("not an answer of this API: %s", out.answer)
	}
	return out
}

// verdict is what a client may conclude from a try.
type verdict uint8

const (
	verdictOK      verdict = iota
	verdictRefused         // the knowledge base decided against it
	verdictAgain           // nothing was applied: it may be sent again
	verdictUnknown         // it may have been applied, now or later
	verdictBroken          // an answer that no client should ever get
)

// again are the codes after which a client tries another time.
var again = []string{"unavailable", "deadline_exceeded", "resource_exhausted", "canceled"}

func (t try) verdict() verdict {
	switch {
	case t.err != nil && !t.sent:
		return verdictAgain
	case t.err != nil:
		return verdictUnknown
	case t.answer.status == http.StatusOK:
		return verdictOK
	case slices.Contains(again, t.answer.code):
		return verdictUnknown // nothing in the answer promises that it was not applied
	case t.answer.code == "internal", t.answer.code == "unknown", t.answer.code == "unauthenticated", t.answer.code == "data_loss":
		return verdictBroken
	}
	return verdictRefused
}

// why names the failure for the counts.
func (t try) why() string {
	switch {
	case t.err != nil && !t.sent:
		return "not sent"
	case errors.Is(t.err, context.DeadlineExceeded), t.err != nil && strings.Contains(t.err.Error(), "Client.Timeout"):
		return "no answer in time"
	case t.err != nil:
		return "connection lost"
	case t.answer.status == http.StatusOK:
		return "ok"
	}
	return t.answer.code + " " + t.answer.reason
}
