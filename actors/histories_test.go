package actors_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// documents is what a document must look like to those who use it: package
// porcupine finds an order of the operations that explains every answer.
var documents = (&porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byDoc := make(map[string][]porcupine.Operation)
		for _, o := range history {
			doc := o.Input.(step).doc
			byDoc[doc] = append(byDoc[doc], o)
		}
		var out [][]porcupine.Operation
		for _, h := range byDoc {
			out = append(out, h)
		}
		return out
	},
	Init: func() []any { return []any{docModel{}} },
	Step: func(state, input, _ any) []any {
		var out []any
		for _, next := range state.(docModel).after(input.(step)) {
			out = append(out, next)
		}
		return out
	},
}).ToModel()

// history is what clients did and were told.
type history struct {
	t     *testing.T
	order atomic.Int64
	mu    sync.Mutex
	steps []step
	added map[string]string // result by the hash of the text
}

// I1–I7, I10, I14: two nodes whose statements get lost, that are cut off, frozen,
// killed and have their grains moved: every document's history is linearizable,
// revisions never go back, what was acknowledged is in the journal once, what was
// refused is not, and in the end everything is served and finished.
func TestHistoriesOfTwoNodes_I6(t *testing.T) {
	seeds, first := 8, uint64(1)
	if n, err := strconv.Atoi(os.Getenv("GRANARY_HISTORIES")); err == nil {
		seeds = n
	}
	if n, err := strconv.ParseUint(os.Getenv("GRANARY_SEED"), 10, 64); err == nil {
		seeds, first = 1, n
	}
	for seed := first; seed < first+uint64(seeds); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			pair(t, func(t *testing.T, r *realm, a, b *peer) { playHistory(t, r, seed, a, b) })
		})
	}
}

func playHistory(t *testing.T, r *realm, seed uint64, a, b *peer) {
	kbs := []string{"one", "two"}
	for _, id := range kbs {
		a.created(id)
	}
	n := newNemesis(t, r, seed)
	live, stop := context.WithCancel(t.Context())
	var nodes, trouble, clients sync.WaitGroup
	for _, p := range []*peer{a, b} {
		p.faults.every(n.hook(p))
		nodes.Go(func() { p.run(live) })
	}
	troubled, calm := context.WithCancel(t.Context())
	trouble.Go(func() {
		n.run(troubled, []journal.Identity{identity("one"), identity("two"), tenantIdentity()}, a, b)
	})
	h := &history{t: t, added: make(map[string]string)}
	for i := range 6 {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		clients.Go(func() {
			for k := range 25 {
				p := []*peer{a, b}[rng.IntN(2)]
				doc := fmt.Sprintf("%s/d%d", kbs[rng.IntN(2)], rng.IntN(2))
				h.do(rng, p, doc, fmt.Sprintf("text %d of %d", k, i))
				time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
			}
		})
	}
	clients.Wait()
	calm()
	trouble.Wait()
	time.Sleep(10 * time.Second)
	h.checkEnd(a, kbs)
	h.check(r, kbs)
	stop()
	nodes.Wait()
	synctest.Wait()
	results := make(map[string]int)
	for _, s := range h.steps {
		results[s.kind+" "+s.result]++
		results["hits"] += len(s.found)
	}
	t.Logf("%v, %v", n.counts, results)
}

// do carries one random operation out.
func (h *history) do(rng *rand.Rand, p *peer, doc, text string) {
	kbID, id := doc[:3], doc[4:]
	c := &client{p: p, t: h.t, id: kbID}
	s := step{doc: doc, text: text, begin: h.order.Add(1)}
	var m *nodev1.KnowledgeBaseCall
	tries := 1
	switch n := rng.IntN(12); {
	case n < 5:
		s.kind, m = "get", getCall(id)
	case n >= 10:
		s.kind, m = "search", searchCall("text", 0)
	case n < 9:
		s.kind, m = "add", c.addCall(id, text)
		m.GetAddDocument().GetSpec().OnDuplicate = granaryv1.OnDuplicate_ON_DUPLICATE_NEW_VERSION
		s.hash = m.GetAddDocument().GetSource().GetSha256()
	default:
		s.kind, m = "remove", removeCall(id)
	}
	if s.kind != "get" && s.kind != "search" && rng.IntN(2) == 0 {
		m, tries = keyed(m, text), 4
	}
	var r *nodev1.KnowledgeBaseReply
	for try := range tries {
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		reply, err := c.callCtx(ctx, m)
		cancel()
		was := s.result
		if s.result = resultOf(h.t, s.kind, err); was == "unknown" && s.result == "none" {
			s.result = "unknown" // of the former try
		}
		r = reply
		if s.result != "unknown" || try == tries-1 {
			break
		}
		c.p = p.others([]string{"n1", "n2"}[rng.IntN(2)])
	}
	s.end = h.order.Add(1)
	if s.result == "unknown" {
		s.end = math.MaxInt64
	}
	s.revision = r.GetRevision()
	s.version = r.GetDocument().GetVersion() + r.GetAddDocument().GetDocument().GetVersion()
	for _, hit := range r.GetSearch().GetHits() {
		s.found = append(s.found, hit.GetText())
	}
	h.mu.Lock()
	h.steps = append(h.steps, s)
	h.mu.Unlock()
}

// resultOf says in the model's words what a client was told.
func resultOf(t *testing.T, kind string, err error) string {
	e, _ := errors.AsType[*kb.Error](err)
	switch {
	case err == nil:
		return "ok"
	case kb.Is(err, kb.ReasonDocumentNotFound):
		return "missing"
	case kb.Is(err, kb.ReasonDocumentState):
		return "leaving"
	case kb.Is(err, kb.ReasonUnavailable) && e.Code == kb.CodeUnavailable:
		return "none"
	case kb.Is(err, kb.ReasonInDoubt), errors.Is(err, context.DeadlineExceeded):
		return "unknown"
	}
	t.Errorf("%s: %v", kind, err)
	return "unknown"
}

// checkEnd waits until every document is at rest: nothing is forgotten. A run that
// failed often while there was trouble is tried again after five minutes at most.
func (h *history) checkEnd(p *peer, kbs []string) {
	for _, id := range kbs {
		c := &client{p: p, t: h.t, id: id}
		for _, doc := range []string{"d0", "d1"} {
			deadline := time.Now().Add(10 * time.Minute)
			for {
				d, err := c.get(doc)
				if kb.Is(err, kb.ReasonDocumentNotFound) || err == nil && d.GetState() >= granaryv1.DocumentState_DOCUMENT_STATE_READY {
					break
				}
				if time.Now().After(deadline) {
					h.t.Errorf("%s/%s does not come to rest: %v, %v", id, doc, d, err)
					break
				}
				time.Sleep(time.Second)
			}
		}
	}
}

// check compares what clients were told with each other and with the journals.
func (h *history) check(r *realm, kbs []string) {
	var ops []porcupine.Operation
	for i, s := range h.steps {
		if s.kind == "search" {
			h.checkFound(s)
			continue
		}
		ops = append(ops, porcupine.Operation{ClientId: i, Input: s, Call: s.begin, Return: s.end})
	}
	if got := porcupine.CheckOperationsTimeout(documents, ops, 30*time.Second); got != porcupine.Ok {
		h.t.Errorf("the histories are not linearizable (%v): %+v", got, h.steps)
	}
	for _, b := range h.steps {
		for _, a := range h.steps {
			if a.doc[:3] == b.doc[:3] && a.end < b.begin && a.revision > b.revision && b.revision > 0 {
				h.t.Errorf("the revision went back: %+v, then %+v", a, b)
			}
		}
	}
	there := make(map[string]int)
	for _, id := range kbs {
		h.readJournal(r, id, there)
	}
	for _, s := range h.steps {
		if s.kind != "add" {
			continue
		}
		n := there[s.doc+s.hash]
		if n > 1 || s.result == "ok" && n != 1 || s.result != "ok" && s.result != "unknown" && n != 0 {
			h.t.Errorf("%+v is in the journal %d times", s, n)
		}
	}
}

// checkFound checks that a search shows nothing that was deleted before it began,
// and nothing that was never added.
func (h *history) checkFound(s step) {
	for _, text := range s.found {
		i := slices.IndexFunc(h.steps, func(a step) bool { return a.kind == "add" && a.text == text })
		if i < 0 || h.steps[i].begin > s.end {
			h.t.Errorf("%+v found what nobody had added", s)
			continue
		}
		for _, d := range h.steps {
			if d.kind == "remove" && d.result == "ok" && d.doc == h.steps[i].doc && d.begin > h.steps[i].end && d.end < s.begin {
				h.t.Errorf("%+v found what %+v had deleted", s, d)
			}
		}
	}
}

// readJournal counts the documents added, and checks that nothing is missing.
func (h *history) readJournal(r *realm, id string, there map[string]int) {
	head := owner(h.t, r, id).Head // first: work that goes on may add events
	events, err := r.disk.Events(h.t.Context(), identity(id), 0, 100_000)
	if err != nil {
		h.t.Fatal(err)
	}
	if int64(len(events)) < head {
		h.t.Errorf("%s: %d events, head %d", id, len(events), head)
	}
	for i, e := range events {
		if e.Seq != int64(i)+1 {
			h.t.Fatalf("%s: event %d has the number %d", id, i+1, e.Seq)
		}
		ev, err := kb.DecodeEvent(e.Type, e.Data)
		if err != nil {
			h.t.Fatal(err)
		}
		if added, ok := ev.(*kb.DocumentAdded); ok {
			there[id+"/"+added.ID+added.Source.SHA256]++
		}
	}
}
