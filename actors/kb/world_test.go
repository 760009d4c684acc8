package kb_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"granary.dev/granary/actors/kb"
)

// failer is what the helpers need of *testing.T and *rapid.T.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

var epoch = time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC)

// stored is a journal entry as a store keeps it.
type stored struct {
	seq   int64
	at    time.Time
	typ   string
	data  []byte
	reset bool // the name was erased after this entry
}

// world is a knowledge base with its journal: events go through the stored form.
type world struct {
	failer
	k       *kb.KB
	journal []stored
	now     time.Time
	ids     int
	// seen hears each event after it was applied, with the document before it.
	seen func(e kb.Event, id string, before *kb.Document)
}

func newWorld(f failer) *world { return &world{failer: f, k: kb.New("docs"), now: epoch} }

// active is a world whose knowledge base exists.
func active(f failer) *world {
	w := newWorld(f)
	w.do(w.k.Create("uid-1", kb.Patch{DisplayName: "Docs", Description: "", Config: kb.Config{}}))
	return w
}

// fresh makes an id nobody used before.
func (w *world) fresh(kind string) string {
	w.ids++
	return fmt.Sprintf("%s%d", kind, w.ids)
}

// do applies what a command decided, which the command must have allowed.
func (w *world) do(events []kb.Event, err error) {
	w.Helper()
	if err != nil {
		w.Fatalf("refused: %v", err)
	}
	w.apply(events...)
}

// apply journals and folds events; a decided event must be applicable.
func (w *world) apply(events ...kb.Event) {
	w.Helper()
	for _, e := range events {
		w.now = w.now.Add(time.Second)
		typ, data, err := kb.EncodeEvent(e)
		if err != nil {
			w.Fatalf("encode: %v", err)
		}
		id := kb.Subject(e)
		before := w.k.Document(id)
		frozen := image(w, before)
		entry := stored{seq: w.k.Revision() + 1, at: w.now, typ: typ, data: data}
		if err := w.k.Apply(entry.seq, entry.at, e); err != nil {
			w.Fatalf("a decided event cannot be applied: %v", err)
		}
		w.journal = append(w.journal, entry)
		if image(w, before) != frozen {
			w.Fatalf("%s changed a document that was handed out", typ)
		}
		if w.seen != nil {
			w.seen(e, id, before)
		}
	}
}

// erase ends a knowledge base that is being deleted, and frees its name.
func (w *world) erase() {
	w.apply(&kb.Deleted{})
	w.k.Reset()
	w.journal[len(w.journal)-1].reset = true
}

// fold replays the journal from its stored form.
func (w *world) fold() *kb.KB {
	w.Helper()
	k := kb.New(w.k.ID())
	for _, s := range w.journal {
		e, err := kb.DecodeEvent(s.typ, s.data)
		if err != nil {
			w.Fatalf("decode: %v", err)
		}
		if err := k.Apply(s.seq, s.at, e); err != nil {
			w.Fatalf("replay: %v", err)
		}
		if s.reset {
			k.Reset()
		}
	}
	return k
}

// restored goes through a snapshot.
func (w *world) restored() *kb.KB {
	w.Helper()
	data, err := w.k.Freeze()()
	if err != nil {
		w.Fatalf("freeze: %v", err)
	}
	k, err := kb.Restore(w.k.ID(), data)
	if err != nil {
		w.Fatalf("restore: %v", err)
	}
	return k
}

// observe writes down all that can be seen of a knowledge base; sources are
// asked for the document that a duplicate of them would meet.
func observe(f failer, k *kb.KB, sources []kb.Source) string {
	f.Helper()
	var b strings.Builder
	fmt.Fprintln(&b, k.ID(), k.UID(), k.Phase(), k.DisplayName(), k.Description(), k.ConfigVersion(), k.Listed(),
		k.Revision(), k.CreatedAt(), k.UpdatedAt(), k.SourceBytes(), k.Chunks(), k.Len(), k.Pending(), k.Etag())
	fmt.Fprintln(&b, image(f, k.Config()))
	for _, s := range kb.States() {
		fmt.Fprintln(&b, s, k.Count(s))
	}
	for d := range k.All {
		fmt.Fprintln(&b, image(f, d), image(f, k.Document(d.ID)))
	}
	for seq := range k.Revision() + 1 {
		for d := range func(yield func(*kb.Document) bool) { k.After(seq, yield) } {
			fmt.Fprintln(&b, "after", seq, d.ID)
		}
	}
	for _, s := range sources {
		_, _, _, err := k.Add(kb.AddRequest{NewID: "probe", Source: s, OnDuplicate: kb.DuplicateFail, Limits: unlimited})
		if e, ok := errors.AsType[*kb.Error](err); ok {
			fmt.Fprintln(&b, s, e.Reason, e.Metadata)
		}
	}
	data, err := k.Freeze()()
	if err != nil {
		f.Fatalf("freeze: %v", err)
	}
	b.Write(data)
	return b.String()
}

var unlimited = kb.Limits{DocumentsPerKB: 1 << 40, StorageBytes: 1 << 40}

// image is a value's JSON, for comparing.
func image(f failer, v any) string {
	f.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		f.Fatalf("marshal: %v", err)
	}
	return string(data)
}

// inline is a source of the given content.
func inline(w *world, content string) kb.Source {
	return kb.Source{Blob: w.fresh("blob"), Size: int64(len(content)), SHA256: "sha-" + content}
}

// add puts a document in, and must succeed.
func (w *world) add(r kb.AddRequest) *kb.Document {
	w.Helper()
	if r.Limits == (kb.Limits{}) {
		r.Limits = unlimited
	}
	r.NewID = w.fresh("doc")
	events, id, existing, err := w.k.Add(r)
	if err != nil || existing != nil {
		w.Fatalf("add: existing %v, error %v", existing, err)
	}
	w.apply(events...)
	return w.k.Document(id)
}

// start begins a run with a new attempt.
func (w *world) start(id string) *kb.Document {
	w.Helper()
	w.do(w.k.Start(id, w.fresh("attempt")))
	return w.k.Document(id)
}

// bring moves a fresh inline document into a state, along the usual way.
func (w *world) bring(id string, to kb.DocumentState) *kb.Document {
	w.Helper()
	d := w.k.Document(id)
	if to == kb.StateQueued {
		return d
	}
	switch to {
	case kb.StateCancelled:
		w.do(w.k.Cancel(id))
	case kb.StateDeleting:
		w.do(w.k.DeleteDocument(id))
	default:
		d = w.start(id)
	}
	switch to {
	case kb.StateEmbedding:
		w.do(w.k.ChunksWritten(id, d.Version, d.Attempt, 3, "m", kb.Content{}))
	case kb.StateReady:
		w.do(w.k.ChunksWritten(id, d.Version, d.Attempt, 3, "m", kb.Content{}))
		w.do(w.k.IndexWritten(id, d.Version, d.Attempt, 3, 3, "m", kb.Content{}))
	case kb.StateReadyEmpty:
		w.do(w.k.IndexWritten(id, d.Version, d.Attempt, 0, 0, "m", kb.Content{}))
	case kb.StateFailed:
		w.do(w.k.RunFailed(id, d.Version, d.Attempt, kb.DocumentError{Reason: "MALFORMED"}, 0, w.now, 0, kb.DefaultRetry()))
	}
	if d = w.k.Document(id); d.State != to {
		w.Fatalf("document %q is %s, wanted %s", id, d.State, to)
	}
	return d
}

// refused fails unless err carries the reason, and gives the error back.
func refused(t *testing.T, err error, code kb.Code, reason string) *kb.Error {
	t.Helper()
	e, ok := errors.AsType[*kb.Error](err)
	if !ok || e.Code != code || !kb.Is(err, reason) {
		t.Fatalf("error %v, wanted code %d reason %s", err, code, reason)
	}
	return e
}
