package node_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"

	"granary.dev/granary/actors/kb"
	"granary.dev/granary/cmd/internal/node"
	"granary.dev/granary/cmd/internal/nodetest"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func ofTier(tier string) func(*node.Config) { return func(c *node.Config) { c.Tier = tier } }

// outcomes counts the answers to calls of one tenant.
type outcomes struct {
	client   http.Client
	ok       atomic.Int64
	counted  atomic.Int64 // took a token: what a refused call's answer does not say
	refused  atomic.Int64
	unserved atomic.Int64
}

// call asks for the tenant through one node.
func (o *outcomes) call(ctx context.Context, s *nodetest.Server) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/granary.v1.KnowledgeBaseService/ListKnowledgeBases", strings.NewReader("{}"))
	if err != nil {
		return
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+s.Token)
	res, err := o.client.Do(req)
	if err != nil {
		o.unserved.Add(1)
		return
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	switch res.StatusCode {
	case http.StatusTooManyRequests:
		o.refused.Add(1)
		return
	case http.StatusOK:
		o.ok.Add(1)
	default:
		o.unserved.Add(1)
	}
	if res.Header.Get("RateLimit") != "" {
		o.counted.Add(1)
	}
}

// sameHour skips a test that the end of an hour came into.
func sameHour(t *testing.T) func() {
	hour := time.Now().UTC().Truncate(time.Hour)
	return func() {
		if !time.Now().UTC().Truncate(time.Hour).Equal(hour) {
			t.Skip("the hour ended during the test")
		}
	}
}

// until calls through servers at once until each was refused for a while: what
// others hold in vain comes back within seconds.
func (o *outcomes) until(ctx context.Context, servers ...*nodetest.Server) {
	var wg sync.WaitGroup
	for _, s := range servers {
		for range 4 {
			wg.Go(func() {
				for in := 0; in < 8; {
					before := o.refused.Load()
					if o.call(ctx, s); o.refused.Load() > before {
						in++
						time.Sleep(time.Second)
					}
				}
			})
		}
	}
	wg.Wait()
}

func TestATenantHasExactlyItsCallsOfAnHour_B4(t *testing.T) {
	check := sameHour(t)
	s := nodetest.Start(t, ofTier("starter"))
	o := &outcomes{}
	for range 400 {
		o.call(t.Context(), s)
	}
	s.Restart() // an orderly one loses nothing
	o.until(t.Context(), s)
	check()
	if o.ok.Load() != 1000 || o.counted.Load() != 1000 {
		t.Fatalf("%d calls were answered and %d counted, of 1,000", o.ok.Load(), o.counted.Load())
	}
	if _, err := s.KBs.ListKnowledgeBases(t.Context(), &granaryv1.ListKnowledgeBasesRequest{}); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Fatal(err)
	}
	if _, err := s.Tenants.GetUsage(t.Context(), &granaryv1.GetUsageRequest{}); err != nil { // why, is told still
		t.Fatal(err)
	}
}

func TestSearchesBeyondTheLimitAreAnsweredByWordsAndSaySo_B4(t *testing.T) {
	s := nodetest.Start(t, ofTier("starter"))
	s.CreateKB(t, "notes")
	s.Settle(t, s.AddText(t, "notes", "a", "The quick brown fox jumps over the lazy dog.").GetName())
	search := func(mode granaryv1.SearchMode) (*granaryv1.SearchResponse, error) {
		return s.Search.Search(t.Context(), &granaryv1.SearchRequest{KnowledgeBase: "notes", Query: "fox",
			Retrieval: &granaryv1.RetrievalConfig{Mode: &mode}})
	}
	vectors := 0
	for {
		r, err := search(granaryv1.SearchMode_SEARCH_MODE_HYBRID)
		if err != nil {
			t.Fatal(err)
		}
		if r.GetFallbackUsed() != "" {
			if r.GetFallbackUsed() != "keyword_search" || !strings.Contains(r.GetMessage(), "100 vector operations a minute") || len(r.GetHits()) == 0 {
				t.Fatalf("answer is %v", r)
			}
			break
		}
		if vectors++; vectors > 210 {
			t.Fatal("no limit is reached")
		}
	}
	_, err := search(granaryv1.SearchMode_SEARCH_MODE_VECTOR)
	if connect.CodeOf(err) == connect.CodeResourceExhausted {
		if got := reason(t, err); got != kb.ReasonVectorLimit {
			t.Fatal(got, err)
		}
	} else if err != nil { // the minute may just have ended
		t.Fatal(err)
	}
	if r, err := search(granaryv1.SearchMode_SEARCH_MODE_KEYWORD); err != nil || r.GetFallbackUsed() != "" {
		t.Fatal(r, err)
	}
	u, err := s.Tenants.GetUsage(t.Context(), &granaryv1.GetUsageRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range u.GetUsage().GetQuotas() {
		if q.GetMetric() == "api_calls_per_hour" && (q.GetBase() != 1000 || q.GetUsed()+q.GetGrantedUnused()+q.GetRemaining() != 1000 || q.GetUsed() < int64(vectors)/2) {
			t.Errorf("usage is %v", q)
		}
	}
}

func TestThreeNodesAdmitExactlyTheLimitThoughTheOwnerDies_B4(t *testing.T) {
	check := sameHour(t)
	c := nodetest.StartCluster(t, pg.Database(t), 3, ofTier("starter"))
	place, err := c.Nodes[0].Operator.Cluster.GetPlacement(t.Context(), &granaryv1.GetPlacementRequest{Tenant: "dev"})
	if err != nil {
		t.Fatal(err)
	}
	var dies *nodetest.Member
	var live []*nodetest.Server
	for _, m := range c.Nodes {
		if "nodes/"+m.Name == place.GetPlacement().GetNode() {
			dies = m
		} else {
			live = append(live, m.Server)
		}
	}
	o := &outcomes{}
	var wg sync.WaitGroup
	for _, m := range c.Nodes { // all hold blocks
		wg.Go(func() {
			for range 120 {
				o.call(t.Context(), m.Server)
			}
		})
	}
	wg.Wait()
	before := o.ok.Load()
	dies.Crash()
	o.until(t.Context(), live...)
	check()
	t.Logf("%d answered before the owner died, %d in all; %d refused, %d not served", before, o.ok.Load(), o.refused.Load(), o.unserved.Load())
	if n := o.ok.Load(); n > 1000 || o.counted.Load() > 1000 {
		t.Errorf("%d calls were answered, %d counted, of 1,000", n, o.counted.Load())
	}
	// Lost are what the owner had reserved ahead and the block of its node: 1/32 and 1/64.
	if n := o.counted.Load(); n < 1000-1000/32-1000/64-2 {
		t.Errorf("only %d calls of 1,000", n)
	}
}
