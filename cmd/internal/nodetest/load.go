package nodetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// Load is clients at work while a test does something to the cluster. Each
// knowledge base has one client that writes, counting up, and one that reads
// beside it, through any node that is ready; what they are told must be what one
// knowledge base with one owner could have told them (I6).
type Load struct {
	Writes, Reads, Searches, Lists, Documents atomic.Int64 // that were answered

	t     testing.TB
	doors doors
	retry bool
	stop  chan struct{}
	wg    sync.WaitGroup
	kbs   []*loadKB

	mu     sync.Mutex
	failed []string
	worst  time.Duration // longest call, with its retries
	slow   string        // which that was
}

// loadKB is what the clients of one knowledge base know.
type loadKB struct {
	id       string
	tried    atomic.Int64 // last count that was sent
	acked    atomic.Int64 // last count that was acknowledged
	revision atomic.Int64 // of the last acknowledged write

	mu   sync.Mutex
	docs map[string]string // name → word in it
}

// Load starts clients on knowledge bases of tenant dev, which it creates. With
// retry they behave as clients do when nodes fail: what is UNAVAILABLE is sent
// again, through another node and with the same key, for up to 30 seconds.
// Without, every error is a failure.
func (c *Cluster) Load(kbs []string, retry bool, through ...*Member) *Load {
	c.t.Helper()
	l := &Load{t: c.t, retry: retry, stop: make(chan struct{})}
	for _, m := range through {
		l.Use(m)
	}
	for _, id := range kbs {
		through[0].CreateKB(c.t, id)
		l.kbs = append(l.kbs, &loadKB{id: id, docs: make(map[string]string)})
	}
	for i, k := range l.kbs {
		l.wg.Go(func() { l.write(k, i) })
		l.wg.Go(func() { l.read(k, i) })
	}
	return l
}

// Use sends clients to one more node, whenever that is ready.
func (l *Load) Use(m *Member) {
	d := l.doors.add(m)
	l.wg.Go(func() { d.watch(l.t.Context(), l.stop) })
}

// loadTime bounds one call of the load with its retries.
const loadTime = 30 * time.Second

// loadPause is between two calls of a client.
const loadPause = 5 * time.Millisecond

// call makes one call, through one node after the other where that is allowed.
func (l *Load) call(what string, f func(context.Context, *Clients) error) bool {
	ctx, cancel := context.WithTimeout(context.Background(), loadTime)
	defer cancel()
	start := time.Now()
	var err, last error
	tries := 0
	for {
		tries++
		m := l.doors.pick()
		if err = f(ctx, m.Clients); err == nil {
			break
		}
		err = fmt.Errorf("%s through %s after %v: %w", what, m.Name, time.Since(start).Round(time.Millisecond), err)
		last = err
		if !l.retry || !passing(err) || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if took := time.Since(start); took > l.worst {
		l.worst, l.slow = took, fmt.Sprintf("%s, begun %s, %d tries, last refusal: %v", what, start.UTC().Format(time.StampMilli), tries, last)
	}
	if err != nil {
		l.failed = append(l.failed, err.Error())
	}
	return err == nil
}

// passing tells whether a client would try again.
func passing(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeResourceExhausted:
		return true
	}
	return false
}

func (l *Load) pause() bool {
	select {
	case <-l.stop:
		return false
	case <-time.After(loadPause):
		return true
	}
}

// write counts up, and now and then adds a document.
func (l *Load) write(k *loadKB, seed int) {
	for n := int64(1); l.pause(); n++ {
		if n%20 == int64(seed%20) {
			l.add(k, n)
			continue
		}
		next := k.tried.Add(1)
		ok := l.call("write "+k.id, func(ctx context.Context, c *Clients) error {
			r, err := c.KBs.UpdateKnowledgeBase(ctx, &granaryv1.UpdateKnowledgeBaseRequest{
				KnowledgeBase: &granaryv1.KnowledgeBase{Name: k.id, Description: strconv.FormatInt(next, 10)},
				UpdateMask:    &fieldmaskpb.FieldMask{Paths: []string{"description"}}, RequestId: fmt.Sprintf("w-%s-%d", k.id, next)})
			if err != nil {
				return err
			}
			if got := r.GetKnowledgeBase().GetDescription(); got != strconv.FormatInt(next, 10) {
				return fmt.Errorf("the answer says %q", got)
			}
			k.revision.Store(r.GetKnowledgeBase().GetRevision())
			return nil
		})
		if !ok {
			return // what is there now is not known
		}
		k.acked.Store(next)
		l.Writes.Add(1)
	}
}

func (l *Load) add(k *loadKB, n int64) {
	word := fmt.Sprintf("marker%sx%d", k.id[len(k.id)-1:], n)
	l.call("add to "+k.id, func(ctx context.Context, c *Clients) error {
		r, err := c.Documents.CreateDocument(ctx, &granaryv1.CreateDocumentRequest{
			Spec:   &granaryv1.DocumentSpec{KnowledgeBase: k.id, DisplayName: word + ".txt", RequestId: "d-" + word},
			Source: &granaryv1.CreateDocumentRequest_Text{Text: "The word of this document is " + word + "."}})
		if err != nil {
			return err
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.docs[r.GetDocument().GetName()] = word
		l.Documents.Add(1)
		return nil
	})
}

// read looks at the count, searches and lists in turn.
func (l *Load) read(k *loadKB, seed int) {
	for n := seed; l.pause(); n++ {
		switch n % 4 {
		case 0:
			l.search(k)
		case 1:
			l.list(k)
		default:
			l.get(k)
		}
	}
}

func (l *Load) get(k *loadKB) {
	least := k.acked.Load()
	ok := l.call("read "+k.id, func(ctx context.Context, c *Clients) error {
		r, err := c.KBs.GetKnowledgeBase(ctx, &granaryv1.GetKnowledgeBaseRequest{Name: k.id})
		if err != nil {
			return err
		}
		got, _ := strconv.ParseInt(r.GetKnowledgeBase().GetDescription(), 10, 64)
		if most := k.tried.Load(); got < least || got > most {
			return fmt.Errorf("I6: read %d, acknowledged before %d, sent until now %d", got, least, most)
		}
		return nil
	})
	if ok {
		l.Reads.Add(1)
	}
}

func (l *Load) search(k *loadKB) {
	least := k.revision.Load()
	ok := l.call("search "+k.id, func(ctx context.Context, c *Clients) error {
		r, err := c.Search.Search(ctx, &granaryv1.SearchRequest{KnowledgeBase: k.id, Query: "word", MinRevision: least})
		if err == nil && r.GetRevision() < least {
			return fmt.Errorf("I6: searched revision %d, acknowledged before %d", r.GetRevision(), least)
		}
		return err
	})
	if ok {
		l.Searches.Add(1)
	}
}

func (l *Load) list(k *loadKB) {
	ok := l.call("list", func(ctx context.Context, c *Clients) error {
		r, err := c.KBs.ListKnowledgeBases(ctx, &granaryv1.ListKnowledgeBasesRequest{PageSize: 1000})
		if err != nil {
			return err
		}
		for _, x := range r.GetKnowledgeBases() {
			if x.GetName() == "knowledgeBases/"+k.id {
				return nil
			}
		}
		return errors.New("I6: the list lacks " + k.id)
	})
	if ok {
		l.Lists.Add(1)
	}
}

// settleDown lets the clients go on for a moment.
func (l *Load) settleDown() {
	t := time.NewTimer(200 * time.Millisecond)
	defer t.Stop()
	<-t.C
}

// End stops the clients a moment later and checks that nothing failed, that what
// was acknowledged is there, once, and that all documents get READY and are found.
func (l *Load) End() {
	l.t.Helper()
	l.settleDown()
	close(l.stop)
	l.wg.Wait()
	l.t.Logf("load: %d writes, %d documents, %d reads, %d searches, %d lists; longest call %v: %s", l.Writes.Load(), l.Documents.Load(),
		l.Reads.Load(), l.Searches.Load(), l.Lists.Load(), l.worst.Round(time.Millisecond), l.slow)
	for i, f := range l.failed {
		if i == 5 {
			l.t.Errorf("and %d more", len(l.failed)-i)
			break
		}
		l.t.Error(f)
	}
	if len(l.failed) > 0 {
		return
	}
	if l.Writes.Load() == 0 || l.Reads.Load() == 0 || l.Searches.Load() == 0 || l.Lists.Load() == 0 {
		l.t.Error("the load tried nothing")
	}
	for _, k := range l.kbs {
		l.check(k)
	}
}

// check looks at a knowledge base after the clients have stopped.
func (l *Load) check(k *loadKB) {
	l.t.Helper()
	nodes := l.doors.open()
	for _, m := range nodes {
		r, err := m.KBs.GetKnowledgeBase(l.t.Context(), &granaryv1.GetKnowledgeBaseRequest{Name: k.id})
		if err != nil {
			l.t.Errorf("%s through %s: %v", k.id, m.Name, err)
			continue
		}
		if got := r.GetKnowledgeBase().GetDescription(); got != strconv.FormatInt(k.acked.Load(), 10) && k.acked.Load() > 0 {
			l.t.Errorf("I4: %s through %s says %s, acknowledged was %d", k.id, m.Name, got, k.acked.Load())
		}
	}
	r, err := nodes[0].Documents.ListDocuments(l.t.Context(), &granaryv1.ListDocumentsRequest{Parent: k.id, PageSize: 1000})
	if err != nil || len(r.GetDocuments()) != len(k.docs) {
		l.t.Errorf("I4, I5: %s has %d documents, acknowledged were %d; %v", k.id, len(r.GetDocuments()), len(k.docs), err)
	}
	for _, d := range r.GetDocuments() {
		if !Terminal(d.GetState()) {
			d = nodes[0].Settle(l.t, d.GetName())
		}
		if d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_READY {
			l.t.Errorf("I4: %s is %s: %v", d.GetName(), d.GetState(), d.GetError())
			continue
		}
		if word := k.docs[d.GetName()]; !Finds(l.t, nodes[len(nodes)-1].Clients, k.id, word, d.GetName()) {
			l.t.Errorf("I8: %s is READY and not found by %q", d.GetName(), word)
		}
	}
}

// Finds tells whether a search by words has a document among its hits.
func Finds(t testing.TB, c *Clients, kb, words, document string) bool {
	t.Helper()
	mode := granaryv1.SearchMode_SEARCH_MODE_KEYWORD
	r, err := c.Search.Search(t.Context(), &granaryv1.SearchRequest{KnowledgeBase: kb, Query: words,
		Retrieval: &granaryv1.RetrievalConfig{Mode: &mode}})
	if err != nil {
		t.Fatalf("search %s: %v", kb, err)
	}
	for _, h := range r.GetHits() {
		if h.GetDocument() == document {
			return true
		}
	}
	return false
}
