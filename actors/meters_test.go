package actors_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/tokens"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// meters is what the node counts with, if the test wants it to.
func (w *world) meters() actors.Meters {
	if !w.setup.metered {
		return nil
	}
	return tokens.New(fmt.Sprint("node-1#", w.boot), lessor{w})
}

// lessor asks the test's tenant, as the node's wiring does.
type lessor struct{ w *world }

func (l lessor) Lease(ctx context.Context, _ string, m kb.Meter, from string, q kb.TokenRequest) (kb.TokenLease, string, error) {
	r, err := l.w.ask(ctx, actors.KindTenant, tenant, &nodev1.TenantCall{Operation: &nodev1.TenantCall_LeaseTokens{LeaseTokens: &nodev1.LeaseTokens{
		Meter: string(m), Holder: q.Holder, Lessor: from, Seq: q.Seq, Window: q.Window, Held: q.Held, Used: q.Used, Want: q.Want,
		Background: q.Background, Credit: q.Credit, Charged: q.Charged}}})
	if err != nil {
		return kb.TokenLease{}, "", err
	}
	a := r.(*nodev1.TenantReply).GetTokenLease()
	return kb.TokenLease{Seq: a.GetSeq(), Window: a.GetWindow(), Left: a.GetLeft().AsDuration(), Held: a.GetHeld(), Base: a.GetBase(),
		Remaining: a.GetRemaining(), Charged: a.GetCharged(), RetryAfter: a.GetRetryAfter().AsDuration()}, a.GetLessor(), nil
}

// nextMinute waits for a window to begin.
func nextMinute() { time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute))) }

func (c *client) searchBy(mode granaryv1.SearchMode) (*granaryv1.SearchResponse, error) {
	m := searchCall("alpha", 0)
	m.GetSearch().Retrieval.Mode = &mode
	r, err := c.call(m)
	return r.GetSearch(), err
}

// B4: documents beyond the tenant's vector operations wait, say why, and are not failed;
// searches have a part of each minute for themselves.
func TestDocumentsWaitForVectorOperationsAndSayWhy_B4(t *testing.T) {
	bubble(t, setup{metered: true, children: 8}, func(t *testing.T, w *world) { // starter: 100 a minute
		c := w.created("notes")
		nextMinute()
		began := time.Now()
		for i := range 130 {
			c.mustAdd(fmt.Sprint("d", i), page(fmt.Sprint("alpha", i), 1))
		}
		waits := c.waitFor("d129", func(*granaryv1.Document) bool {
			list, err := c.call(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ListDocuments{
				ListDocuments: &granaryv1.ListDocumentsRequest{PageSize: 1000}}})
			if err != nil {
				t.Fatal(err)
			}
			ready, waiting := 0, 0
			for _, d := range list.GetDocuments().GetDocuments() {
				switch {
				case d.GetState() == granaryv1.DocumentState_DOCUMENT_STATE_READY:
					ready++
				case d.GetWaitReason() == kb.ReasonVectorLimit:
					waiting++
					if d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_EMBEDDING || d.GetError() != nil ||
						!d.GetKeywordSearchable() || d.GetWaitUntil().AsTime().Before(time.Now()) {
						t.Errorf("waits as %v", d)
					}
				}
			}
			return ready == 80 && waiting == 5 // as many as a starter tenant processes at a time
		})
		if time.Since(began) >= time.Minute || waits == nil {
			t.Fatalf("80 were ready and 5 waited after %v", time.Since(began))
		}
		for i := range 20 { // the part of searches
			if r, err := c.searchBy(granaryv1.SearchMode_SEARCH_MODE_HYBRID); err != nil || r.GetFallbackUsed() != "" {
				t.Fatalf("search %d: %v, %v", i, r, err)
			}
		}
		for i := range 130 {
			d := c.ready(fmt.Sprint("d", i))
			if d.GetWaitReason() != "" || d.GetAttempts() != 1 {
				t.Fatalf("ended as %v", d)
			}
		}
		if took := time.Since(began); took < time.Minute || took > 70*time.Second {
			t.Fatalf("130 documents took %v", took)
		}
	})
}

func TestSearchesWithoutAVectorOperationSaySoOrAreRefused_B4(t *testing.T) {
	bubble(t, setup{metered: true}, func(t *testing.T, w *world) {
		c := w.created("notes")
		c.mustAdd("d", page("alpha", 1))
		c.ready("d")
		nextMinute()
		for i := range 100 + 99/4 { // and a quarter of what it left before
			mode := []granaryv1.SearchMode{granaryv1.SearchMode_SEARCH_MODE_HYBRID, granaryv1.SearchMode_SEARCH_MODE_VECTOR}[i%2]
			if r, err := c.searchBy(mode); err != nil || r.GetFallbackUsed() != "" {
				t.Fatalf("search %d: %v, %v", i, r, err)
			}
			if r, err := c.searchBy(granaryv1.SearchMode_SEARCH_MODE_KEYWORD); err != nil || r.GetFallbackUsed() != "" {
				t.Fatalf("by words: %v, %v", r, err) // costs nothing
			}
		}
		embedded := w.faults.count("Query")
		r, err := c.searchBy(granaryv1.SearchMode_SEARCH_MODE_HYBRID)
		if err != nil || r.GetFallbackUsed() != "keyword_search" || !strings.Contains(r.GetMessage(), "limit of 100 vector operations a minute") || len(r.GetHits()) == 0 {
			t.Fatalf("beyond the limit: %v, %v", r, err)
		}
		_, err = c.searchBy(granaryv1.SearchMode_SEARCH_MODE_VECTOR)
		if !kb.Is(err, kb.ReasonVectorLimit) {
			t.Fatal(err)
		}
		if n := w.faults.count("Query"); n != embedded {
			t.Fatalf("%d queries embedded for nothing", n-embedded)
		}
		nextMinute()
		if r, err := c.searchBy(granaryv1.SearchMode_SEARCH_MODE_HYBRID); err != nil || r.GetFallbackUsed() != "" {
			t.Fatal(r, err)
		}
	})
}
