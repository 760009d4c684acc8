//go:build unix

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// knocker calls one node with one credential, over and over and in every way there is,
// whether earlier calls are answered or not, and holds a stream open.
type knocker struct {
	node int
	kb   string
	gets []granaryv1connect.KnowledgeBaseServiceClient // by way
	see  granaryv1connect.EventServiceClient

	mu    sync.Mutex
	calls []probe
	shown time.Time // when the last event was committed that the open stream was sent
	ended time.Time // when the open stream ended for good; zero: it is open
}

// probe is one call.
type probe struct {
	begin, end time.Time
	way        string
	why        string // the reason it failed for, "" if it did not
}

// ways a credential is tried.
var ways = []string{"POST", "GET", "gRPC", "stream"}

const (
	probeEach = 100 * time.Millisecond // between two calls of a knocker
	probeTime = 20 * time.Second       // a call waits as long: longer than a node is frozen
)

func (c *cluster) newKnocker(node int, token, kb string, one, two http.RoundTripper) *knocker {
	base := "http://" + c.members[node].api
	kbs := func(next http.RoundTripper, o ...connecthttp.Option) granaryv1connect.KnowledgeBaseServiceClient {
		return granaryv1connect.NewKnowledgeBaseServiceClient(connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: asTenant{next, token}}, base, o...)))
	}
	return &knocker{node: node, kb: kb,
		gets: []granaryv1connect.KnowledgeBaseServiceClient{kbs(one), kbs(one, connecthttp.WithHTTPGet()), kbs(two, connecthttp.WithGRPC())},
		see:  granaryv1connect.NewEventServiceClient(connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: asTenant{one, token}}, base)))}
}

// run calls until stop is closed, and waits for all answers.
func (p *knocker) run(ctx context.Context, stop <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var calls, stream sync.WaitGroup
	stream.Go(func() { p.hold(ctx) })
	tick := time.NewTicker(probeEach)
	defer tick.Stop()
	for i := p.node; ; i++ {
		calls.Go(func() { p.call(ctx, i%len(ways)) })
		select {
		case <-tick.C:
			continue
		case <-stop:
		}
		calls.Wait()
		cancel()
		stream.Wait()
		return
	}
}

func (p *knocker) call(ctx context.Context, way int) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	c := probe{begin: time.Now(), way: ways[way]}
	var err error
	if way < len(p.gets) {
		_, err = p.gets[way].GetKnowledgeBase(ctx, &v1.GetKnowledgeBaseRequest{Name: "knowledgeBases/" + p.kb})
	} else if s, open := p.see.WatchEvents(ctx, &v1.WatchEventsRequest{KnowledgeBase: p.kb, FromStart: true}); open != nil {
		err = open
	} else {
		_, err = s.Receive()
		_ = s.Close()
	}
	if c.end = time.Now(); err != nil {
		c.why = reasonOf(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, c)
}

// hold keeps one stream open until it is refused for good.
func (p *knocker) hold(ctx context.Context) {
	token := ""
	for ctx.Err() == nil {
		s, err := p.see.WatchEvents(ctx, &v1.WatchEventsRequest{KnowledgeBase: p.kb, FromStart: token == "", ResumeToken: token, Heartbeat: durationpb.New(time.Second)})
		if err == nil {
			for m, failed := s.Receive(); ; m, failed = s.Receive() {
				if err = failed; err != nil {
					break
				}
				token = m.GetResumeToken()
				p.show(m.GetEvent())
			}
			_ = s.Close()
		}
		if final(reasonOf(err)) {
			p.mu.Lock()
			p.ended = time.Now()
			p.mu.Unlock()
			return
		}
		sleep(ctx, 20*time.Millisecond)
	}
}

func (p *knocker) show(e *v1.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at := e.GetTime().AsTime(); e != nil && at.After(p.shown) {
		p.shown = at
	}
}

// final tells the answers of who knows from those of trouble.
func final(why string) bool {
	switch why {
	case "UNAUTHENTICATED", "PERMISSION_DENIED", "TENANT_SUSPENDED", "TENANT_DELETED":
		return true
	}
	return false
}

// refused tells whether the credential is refused on the node in
// every way, and the open stream has ended.
func (p *knocker) refused(why string, since time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := make(map[string]bool)
	for _, c := range p.calls {
		if c.begin.After(since) && c.why == why {
			seen[c.way] = true
		}
	}
	return len(seen) == len(ways) && !p.ended.IsZero()
}

// check tells how long after what was taken a call began that still went through.
func (p *knocker) check(t *testing.T, what string, at time.Time) (longest, shown, stream time.Duration) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	longest = -time.Hour
	before, late := 0, 0
	for _, c := range p.calls {
		switch d := c.begin.Sub(at); {
		case c.why != "":
		case d > time.Second:
			if late++; late <= 3 {
				t.Errorf("%s, %s at node %d: a call that began %v after it went through, answered %v after it", what, c.way, p.node+1, d, c.end.Sub(at))
			}
		default:
			before++
			longest = max(longest, d)
		}
	}
	if before == 0 {
		t.Errorf("%s, node %d: no call ever went through: this shows nothing", what, p.node+1)
	}
	if shown = p.shown.Sub(at); shown > time.Second {
		t.Errorf("%s, node %d: an open stream showed an event of %v after it", what, p.node+1, shown)
	}
	return longest, shown, p.ended.Sub(at)
}

// last tells how the last call of each way ended.
func (p *knocker) last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := make(map[string]string)
	for _, c := range p.calls {
		last[c.way] = c.why
	}
	return fmt.Sprintf("%q, stream ended %v", last, p.ended)
}
