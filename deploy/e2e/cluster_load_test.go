//go:build unix

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	docsPerKB = 8
	opTime    = 20 * time.Second // how long a client goes on with one operation
)

// shared is what the clients of a knowledge base tell each other: what one was
// told, all the others must see from then on.
type shared struct {
	base  base
	begin kbState // how it was created

	mu       sync.Mutex
	revision int64
	config   int64
	uid      string
	puts     []*op // the latest that were acknowledged
}

func (s *shared) learn(o *op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision, s.config = max(s.revision, o.revision), max(s.config, o.config)
	if o.action == actPut && o.fate == fateOK {
		s.puts = append(s.puts, o)
		if len(s.puts) > 32 {
			s.puts = s.puts[1:]
		}
	}
}

// load is some clients that use some knowledge bases until they are stopped.
type load struct {
	history *history
	think   time.Duration // longest pause between two operations of a client
	round   string        // makes ids unique over rounds

	mu     sync.Mutex
	broken []string       // answers no client should get
	whys   map[string]int // tries, by what became of them
}

func newLoad(round string, think time.Duration) *load {
	return &load{history: newHistory(), think: think, round: round, whys: make(map[string]int)}
}

func (l *load) breaks(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = append(l.broken, fmt.Sprintf(format, args...))
}

func (l *load) note(t try) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.whys[t.why()]++
}

// firstWrite waits for the first acknowledged write of a knowledge base that
// was sent after a moment, and says how long after it that was.
func (l *load) firstWrite(ctx context.Context, b base, since int64) (time.Duration, bool) {
	for {
		if d, ok := l.history.firstWrite(b, since); ok {
			return d, true
		}
		if time.Duration(l.history.now()-since) > settleTime {
			return 0, false
		}
		sleep(ctx, 20*time.Millisecond)
	}
}

// worker is one client of one knowledge base.
type worker struct {
	load   *load
	client *client
	shared *shared
	number int
	random *rand.Rand
	count  int
	node   int       // the last one asked
	only   action    // what it does; "": a mix
	calm   int       // its pauses are so many times as long
	front  *balancer // chooses the node and repeats only what was never sent; nil: see perform
}

// run works until stop is closed; the operation under way is finished.
func (w *worker) run(ctx context.Context, stop <-chan struct{}) {
	for {
		pause := time.NewTimer(time.Duration(w.random.Int64N(int64(w.load.think)+1) * int64(1+w.calm)))
		select {
		case <-stop:
			pause.Stop()
			return
		case <-pause.C:
			w.perform(ctx, w.next())
		}
	}
}

// next chooses an operation.
func (w *worker) next() *op {
	if w.only != "" {
		return w.newOp(w.only)
	}
	actions := []struct {
		action action
		weight int
	}{{actPut, 20}, {actDelete, 6}, {actSet, 8}, {actSwap, 10}, {actGet, 18}, {actRead, 14}, {actList, 10}, {actSearch, 14}}
	pick := w.random.IntN(100)
	for _, a := range actions {
		if pick -= a.weight; pick < 0 {
			return w.newOp(a.action)
		}
	}
	return w.newOp(actRead)
}

func (w *worker) newOp(a action) *op {
	w.count++
	o := &op{id: fmt.Sprintf("%s-%s-%s-c%d-%d", w.load.round, w.shared.base.tenant, w.shared.base.kb, w.number, w.count),
		client: w.number, base: w.shared.base, action: a, doc: fmt.Sprintf("doc-%d", w.random.IntN(docsPerKB))}
	o.word = wordOf(o.id)
	w.shared.mu.Lock()
	defer w.shared.mu.Unlock()
	o.least, o.expect = w.shared.revision, w.shared.config
	if a == actSearch && len(w.shared.puts) > 0 {
		p := w.shared.puts[w.random.IntN(len(w.shared.puts))]
		o.word, o.doc = p.word, p.doc
	}
	if a == actSwap && w.random.IntN(4) == 0 && o.expect > 1 {
		o.expect-- // must be refused
	}
	return o
}

// wordOf makes the word of a put that no other text has. It has letters only and
// an end that no stemmer changes.
func wordOf(id string) string {
	var b strings.Builder
	h := fnvOf(id)
	for range 13 {
		b.WriteByte(byte('a' + h%26))
		h /= 26
	}
	return b.String() + "xq"
}

// perform sends an operation until it is answered or its time is over. Each try
// goes to the next node, with the same key.
func (w *worker) perform(ctx context.Context, o *op) {
	patience := opTime
	if w.front == nil && w.random.IntN(8) == 0 { // and never knows what became of it
		patience = time.Duration(100+w.random.IntN(1500)) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	o.call = w.load.history.now()
	for ctx.Err() == nil && !w.attempt(ctx, o) {
		pause := time.NewTimer(time.Duration(20+w.random.IntN(100)) * time.Millisecond)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
	o.end = w.load.history.now()
	w.load.history.add(o)
	if o.fate == fateOK {
		w.shared.learn(o)
	}
}

// attempt makes one try and reports whether the operation is over.
func (w *worker) attempt(ctx context.Context, o *op) bool {
	patience := time.Duration(1000+w.random.IntN(4000)) * time.Millisecond
	if w.front != nil { // there is no second try
		patience = opTime
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w.node = w.front.next(w.node, len(w.client.http))
	method, req, res := w.request(o)
	o.tries++
	o.last = w.load.history.now()
	if !o.loose || !o.action.writes() {
		o.call = o.last
	}
	t := w.client.send(ctx, w.node, method, o.id, o.action.writes(), req, res)
	w.load.note(t)
	switch t.verdict() {
	case verdictOK:
		o.fate = fateOK
		w.read(o, res)
		return true
	case verdictRefused:
		w.refused(o, t)
		return true
	case verdictBroken:
		w.load.breaks("%s: %s", o.id, t.answer)
		o.loose, o.reason = true, t.why()
		return true
	case verdictUnknown:
		o.loose = true
	}
	o.reason = t.why()
	return o.loose && w.front != nil
}

// refusals are the only ones each action may meet.
var refusals = map[action]string{actPut: "DOCUMENT_STATE", actDelete: "DOCUMENT_NOT_FOUND", actSwap: "ETAG_MISMATCH", actGet: "DOCUMENT_NOT_FOUND"}

func (w *worker) refused(o *op, t try) {
	o.reason = t.answer.reason
	if o.reason != refusals[o.action] {
		w.load.breaks("%s %s: %s", o.action, o.id, t.answer)
		o.fate, o.loose = fateUnknown, true
		return
	}
	o.fate = fateRefused
	if o.action == actGet {
		o.fate = fateOK // it saw that there is none
	}
}

func (w *worker) request(o *op) (method string, req, res proto.Message) {
	kb, doc := "knowledgeBases/"+o.base.kb, "knowledgeBases/"+o.base.kb+"/documents/"+o.doc
	switch o.action {
	case actPut:
		return "DocumentService/CreateDocument", &granaryv1.CreateDocumentRequest{
			Spec:   &granaryv1.DocumentSpec{KnowledgeBase: kb, DocumentId: o.doc, DisplayName: o.id + ".txt", Metadata: map[string]string{"op": o.id, "marker": w.client.tenant.marker}},
			Source: &granaryv1.CreateDocumentRequest_Text{Text: w.text(o)},
		}, &granaryv1.CreateDocumentResponse{}
	case actDelete:
		return "DocumentService/DeleteDocument", &granaryv1.DeleteDocumentRequest{Name: doc}, &emptypb.Empty{}
	case actSet, actSwap:
		r := &granaryv1.UpdateKnowledgeBaseRequest{KnowledgeBase: &granaryv1.KnowledgeBase{Name: kb, Description: o.id + " " + w.client.tenant.marker},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"description"}}}
		if o.action == actSwap {
			r.KnowledgeBase.Etag = fmt.Sprintf("%s-%d", w.shared.uid, o.expect)
		}
		return "KnowledgeBaseService/UpdateKnowledgeBase", r, &granaryv1.UpdateKnowledgeBaseResponse{}
	case actGet:
		return "DocumentService/GetDocument", &granaryv1.GetDocumentRequest{Name: doc}, &granaryv1.GetDocumentResponse{}
	case actList:
		return "DocumentService/ListDocuments", &granaryv1.ListDocumentsRequest{Parent: kb, PageSize: 1000}, &granaryv1.ListDocumentsResponse{}
	case actSearch:
		return "SearchService/Search", &granaryv1.SearchRequest{KnowledgeBase: kb, Query: o.word, MinRevision: o.least, Language: "en",
			Retrieval: &granaryv1.RetrievalConfig{Mode: granaryv1.SearchMode_SEARCH_MODE_KEYWORD.Enum()}}, &granaryv1.SearchResponse{}
	}
	return "KnowledgeBaseService/GetKnowledgeBase", &granaryv1.GetKnowledgeBaseRequest{Name: kb}, &granaryv1.GetKnowledgeBaseResponse{}
}

// text is the source of a put: mostly a paragraph, sometimes some pages.
func (w *worker) text(o *op) string {
	r := rand.New(rand.NewPCG(fnvOf(o.id), 7)) // the same in each try
	words := strings.Fields("granary stores wheat barley oats in tall silos beside the river where barges load at dawn and millers grind flour")
	n := 20 + r.IntN(60)
	if r.IntN(12) == 0 {
		n = 1500
	}
	var b strings.Builder
	fmt.Fprintf(&b, "The word is %s and the house is %s.", o.word, w.client.tenant.marker)
	for range n {
		b.WriteString(" " + words[r.IntN(len(words))])
	}
	return b.String()
}

// read takes over what an answer says.
func (w *worker) read(o *op, res proto.Message) {
	switch r := res.(type) {
	case *granaryv1.CreateDocumentResponse:
		o.revision, o.state = r.GetDocument().GetRevision(), docOf(r.GetDocument())
		if r.GetDuplicate() {
			w.load.breaks("%s: bytes that were never sent before are called a duplicate", o.id)
		}
	case *granaryv1.UpdateKnowledgeBaseResponse:
		w.describe(o, r.GetKnowledgeBase())
	case *granaryv1.GetKnowledgeBaseResponse:
		w.describe(o, r.GetKnowledgeBase())
	case *granaryv1.GetDocumentResponse:
		o.state = docOf(r.GetDocument())
	case *granaryv1.ListDocumentsResponse:
		o.revision, o.docs = r.GetRevision(), make(map[string]docState)
		for _, d := range r.GetDocuments() {
			o.docs[lastPart(d.GetName())] = docOf(d)
		}
	case *granaryv1.SearchResponse:
		o.revision = r.GetRevision()
		for _, h := range r.GetHits() {
			o.hits = append(o.hits, lastPart(h.GetDocument()))
			if !strings.Contains(h.GetText(), o.word) {
				w.load.breaks("%s: a hit for %q does not have it: %q", o.id, o.word, h.GetText())
			}
		}
		slices.Sort(o.hits)
		o.hits = slices.Compact(o.hits)
		if o.revision < o.least {
			w.load.breaks("%s: asked for revision %d at least, answered at %d", o.id, o.least, o.revision)
		}
	}
}

func (w *worker) describe(o *op, k *granaryv1.KnowledgeBase) {
	o.revision = k.GetRevision()
	o.text, _, _ = strings.Cut(k.GetDescription(), " ")
	_, version, _ := strings.Cut(k.GetEtag(), w.shared.uid+"-")
	o.config, _ = strconv.ParseInt(version, 10, 64)
}

func docOf(d *granaryv1.Document) docState { return docState{d.GetVersion(), d.GetMetadata()["op"]} }

func lastPart(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
