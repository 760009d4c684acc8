package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	quietKBs    = 19
	quietDocs   = 60
	noisyFactor = 10
)

// p3Fairness gives one knowledge base ten times the documents of the others of
// its tenant, added first, and looks at who got what until the first of the
// others has all of its documents: until then all of them wait for service.
func p3Fairness(ctx context.Context, embedder *fixedEmbedder) error {
	slots := actors.NewScheduler(0)
	open, err := occupy(ctx, slots)
	if err != nil {
		return err
	}
	f := &fairRun{served: make([]int, quietKBs+1), done: make(chan struct{})}
	err = withRig(ctx, rigConfig{embedder: embedder, slots: slots, onEvent: f.event}, func(r *rig) error {
		defer open()
		if err := f.fill(ctx, r); err != nil {
			return err
		}
		open()
		select {
		case <-f.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err != nil {
		return err
	}
	note("P3 fairness: documents served to the noisy KB and the %d others until the first of those was done: %v", quietKBs, f.atFirst)
	row("P3 fairness, one KB with 10 × the documents", fmt.Sprintf("Jain %.3f", jain(f.atFirst)), "goal ≥ 0.95", fmt.Sprintf("%.2f", jain(f.atFirst)/0.95),
		fmt.Sprintf("%d KBs of one tenant, %d documents each, the noisy one's first; %s", quietKBs+1, quietDocs, machine()))
	return nil
}

// fairRun counts the documents that each knowledge base was served; the first
// is the noisy one.
type fairRun struct {
	mu      sync.Mutex
	served  []int
	atFirst []int         // the counts when the first of the others was done
	done    chan struct{} // closed then
}

func (f *fairRun) event(id journal.Identity, e journal.Event) {
	var i int
	if _, err := fmt.Sscanf(id.ID, "kb-%d", &i); err != nil || e.Type != (*kb.DocumentIndexed)(nil).Type() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.served[i]++
	if f.atFirst == nil && i > 0 && f.served[i] == quietDocs {
		f.atFirst = slices.Clone(f.served)
		close(f.done)
	}
}

// fill adds all documents, the noisy knowledge base's first.
func (f *fairRun) fill(ctx context.Context, r *rig) error {
	at := make([]place, len(f.served))
	for i := range at {
		at[i] = place{"tenant-0", fmt.Sprint("kb-", i)}
	}
	if err := r.createAll(ctx, at); err != nil {
		return err
	}
	d := newDocuments(7, documentSize)
	for i, p := range at {
		texts := make([][]byte, quietDocs)
		if i == 0 {
			texts = make([][]byte, quietDocs*noisyFactor)
		}
		for j := range texts {
			texts[j] = d.document(1000*i + j)
		}
		err := inParallel(uploaders, len(texts), func(j int) error {
			return r.add(ctx, p.tenant, p.id, fmt.Sprintf("report-%d.md", j), texts[j])
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// occupy takes all processing slots, so that a queue builds up behind them, and
// gives what frees them; that may be called twice.
func occupy(ctx context.Context, s *actors.Scheduler) (free func(), err error) {
	var held []func()
	free = func() {
		for _, release := range held {
			release()
		}
		held = nil
	}
	for range actors.DefaultSlots() {
		release, err := s.Acquire(ctx, "occupier", "occupier", actors.DefaultSlots(), actors.Work{})
		if err != nil {
			free()
			return nil, err
		}
		held = append(held, release)
	}
	return free, nil
}

// jain is Jain's index of fairness: 1 when all got the same, 1/n when one got all.
func jain(x []int) float64 {
	var sum, squares float64
	for _, v := range x {
		sum += float64(v)
		squares += float64(v) * float64(v)
	}
	if squares == 0 {
		return 0
	}
	return sum * sum / (float64(len(x)) * squares)
}

const (
	latencyKBs = 10
	// latencyLoad is the offered load as a share of the rate reached before.
	latencyLoad = 0.3
)

// upload is a document on its way to be found.
type upload struct {
	place  place
	start  time.Time
	number int
}

// p3Latency uploads at a fixed mean rate, whatever the server does, and
// measures from the beginning of an upload until a search by words finds the
// document.
func p3Latency(ctx context.Context, f p3Flags, embedder *fixedEmbedder, rate float64) error {
	l := &latencyRun{chunked: make(chan journal.Event, f.latencyDocs), pending: make(map[string]*upload)}
	err := withRig(ctx, rigConfig{embedder: embedder, onEvent: l.event}, func(r *rig) error { return l.run(ctx, r, f.latencyDocs, rate*latencyLoad) })
	if err != nil {
		return err
	}
	p50, p99 := quantile(l.took, 0.5), quantile(l.took, 0.99)
	row("P3 upload to searchable by words", fmt.Sprintf("p50 %s, p99 %s", ms(p50), ms(p99)), "goal p99 ≤ 1 s",
		fmt.Sprintf("%.2f", p99.Seconds()),
		fmt.Sprintf("%d documents into %d KBs, open loop at %.0f/s = %.0f %% of the rate above, %s", f.latencyDocs, latencyKBs,
			rate*latencyLoad, latencyLoad*100, machine()))
	return nil
}

// latencyRun is one measurement of latency.
type latencyRun struct {
	chunked chan journal.Event

	mu      sync.Mutex
	pending map[string]*upload // by document name
	took    []time.Duration
	errs    []error
}

// event passes on when a document can be found by its words.
func (l *latencyRun) event(_ journal.Identity, e journal.Event) {
	if e.Type == (*kb.DocumentChunked)(nil).Type() {
		l.chunked <- e
	}
}

func (l *latencyRun) run(ctx context.Context, r *rig, docs int, perSecond float64) error {
	at := places(latencyKBs)
	if err := r.createAll(ctx, at); err != nil {
		return err
	}
	d := newDocuments(9, documentSize)
	random := rand.New(rand.NewPCG(3, 3))
	var wg sync.WaitGroup
	wg.Go(func() { l.findAll(ctx, r, docs) })
	due := time.Now()
	for i := range docs {
		due = due.Add(time.Duration(random.ExpFloat64() / perSecond * float64(time.Second)))
		text := d.document(i)
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
			return ctx.Err()
		}
		u := &upload{place: at[i%len(at)], start: due, number: i} // late senders count against the server
		wg.Go(func() { l.send(ctx, r, u, text) })
	}
	wg.Wait()
	return errors.Join(append(l.errs, ctx.Err())...)
}

func (l *latencyRun) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, err)
}

func (l *latencyRun) send(ctx context.Context, r *rig, u *upload, text []byte) {
	name := fmt.Sprintf("report-%d.md", u.number)
	l.mu.Lock()
	l.pending[name] = u
	l.mu.Unlock()
	if err := r.add(ctx, u.place.tenant, u.place.id, name, text); err != nil {
		l.fail(err)
	}
}

// findAll searches for each document once it is committed.
func (l *latencyRun) findAll(ctx context.Context, r *rig, docs int) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range docs {
		select {
		case e := <-l.chunked:
			wg.Go(func() { l.find(ctx, r, e) })
		case <-ctx.Done():
			return
		case <-time.After(time.Minute):
			l.fail(errors.New("no document became searchable for a minute"))
			return
		}
	}
}

func (l *latencyRun) find(ctx context.Context, r *rig, e journal.Event) {
	ev, err := kb.DecodeEvent(e.Type, e.Data)
	if err != nil {
		l.fail(err)
		return
	}
	var number int
	if _, err := fmt.Sscanf(ev.(*kb.DocumentChunked).Content.Title, "Report %d", &number); err != nil {
		l.fail(fmt.Errorf("title %q: %w", ev.(*kb.DocumentChunked).Content.Title, err))
		return
	}
	l.mu.Lock()
	u := l.pending[fmt.Sprintf("report-%d.md", number)]
	l.mu.Unlock()
	mode := granaryv1.SearchMode_SEARCH_MODE_KEYWORD
	res, err := r.search(ctx, u.place.tenant, u.place.id, &granaryv1.SearchRequest{KnowledgeBase: u.place.id, Query: marker(number),
		MinRevision: e.Seq, Retrieval: &granaryv1.RetrievalConfig{Mode: &mode}})
	if err == nil && len(res.GetHits()) == 0 {
		err = fmt.Errorf("document %d is not found at revision %d", number, e.Seq)
	}
	if err != nil {
		l.fail(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = append(l.took, time.Since(u.start))
}
