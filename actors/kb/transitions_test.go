package kb_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"granary.dev/granary/actors/kb"
)

// few limits, so that random sequences meet them.
var few = kb.Limits{DocumentsPerKB: 4, StorageBytes: 100}

// patience is short, so that random sequences exhaust it.
var patience = kb.RetryPolicy{Attempts: 3, Initial: time.Second, Max: time.Minute}

// contents a random document has: hash and size.
var contents = []kb.Source{{SHA256: "s1", Size: 1}, {SHA256: "s2", Size: 30}, {SHA256: "s3", Size: 40}, {SHA256: "s4", Size: 60}, {SHA256: "s0"}}

var urls = []string{"https://a.example/x", "https://b.example/y"}

func allSources() []kb.Source {
	out := slices.Clone(contents)
	for _, u := range urls {
		out = append(out, kb.Source{URL: u})
	}
	return out
}

// machine draws commands and keeps what it needs to judge their effect.
type machine struct {
	*world
	allowed  map[string]bool // documents whose newest source may be shared (C2)
	crashes  map[string]int  // runs of the newest version that ended with nobody to tell
	observed map[string]int  // what happened, by event type and reason
}

// reached is what the sequences must have met to prove what the test says.
var reached = []string{"kb.created", "kb.updated", "kb.delete_requested", "kb.deleted", "kb.registered", "document.added",
	"document.started", "document.fetched", "document.chunked", "document.indexed", "document.paused", "document.retried",
	"document.failed", "document.cancelled", "document.delete_requested", "document.deleted", kb.ReasonQuarantined,
	kb.ReasonDocumentDuplicate, kb.ReasonDocumentLimit, kb.ReasonStorageLimit, kb.ReasonInternal, "stale", "shared", "expired"}

func TestRandomCommandsKeepEveryInvariant_I12_C1_C2_C4(t *testing.T) {
	observed := make(map[string]int)
	missing := reached
	for round := 0; len(missing) > 0 && round < 10 && !t.Failed(); round++ {
		rapid.Check(t, func(t *rapid.T) { walk(t, observed) })
		missing = slices.DeleteFunc(slices.Clone(reached), func(what string) bool { return observed[what] > 0 })
	}
	if len(missing) > 0 {
		t.Errorf("no random sequence reached %v: %v", missing, observed)
	}
}

func walk(t *rapid.T, observed map[string]int) {
	m := &machine{world: newWorld(t), allowed: map[string]bool{}, crashes: map[string]int{}, observed: observed}
	m.seen = m.judge
	if rapid.IntRange(0, 9).Draw(t, "exists") > 0 {
		m.create(t)
	}
	t.Repeat(map[string]func(*rapid.T){
		"":             m.check,
		"Create":       m.create,
		"Add":          m.add,
		"AddMore":      m.add,
		"Start":        m.start,
		"CrashLoop":    m.crashLoop,
		"Advance":      m.advance,
		"AdvanceMore":  m.advance,
		"AdvanceOften": m.advance,
		"Fetched":      m.fetched,
		"Chunks":       m.chunksWritten,
		"Index":        m.indexWritten,
		"Fail":         m.runFailed,
		"Cancel":       func(t *rapid.T) { m.try(t, m.k.Cancel) },
		"Reprocess":    m.reprocess,
		"DeleteDoc":    func(t *rapid.T) { m.try(t, m.k.DeleteDocument) },
		"DocDeleted":   m.documentDeleted,
		"Update":       m.update,
		"Pause":        func(*rapid.T) { m.apply(m.k.Pause()...) },
		"DeleteOrFree": m.deleteOrFree,
		"Expire":       m.expire,
	})
}

// pick draws one of the documents there are, or an unknown one.
func (m *machine) pick(t *rapid.T) *kb.Document {
	return m.pickOf(t, slices.Collect(m.k.All))
}

func (m *machine) pickOf(t *rapid.T, docs []*kb.Document) *kb.Document {
	if len(docs) == 0 || rapid.IntRange(0, 19).Draw(t, "unknown") == 0 {
		return &kb.Document{ID: "nobody", Version: 1, Attempt: "none"}
	}
	return rapid.SampledFrom(docs).Draw(t, "document")
}

// decided applies what a command allowed; a refusal must be one of the domain's.
func (m *machine) decided(events []kb.Event, err error) {
	m.Helper()
	if err == nil {
		m.apply(events...)
		return
	}
	if len(events) > 0 {
		m.Fatalf("events beside the error %v", err)
	}
	if errors.Is(err, kb.ErrStale) {
		m.observed["stale"]++
		return
	}
	e, ok := errors.AsType[*kb.Error](err)
	if !ok || e.Reason == "" || e.Message == "" {
		m.Fatalf("error %v is not one for a user", err)
	}
	m.observed[e.Reason]++
}

func (m *machine) try(t *rapid.T, command func(id string) ([]kb.Event, error)) {
	m.decided(command(m.pick(t).ID))
}

func (m *machine) create(t *rapid.T) {
	top := rapid.IntRange(1, 100).Draw(t, "top_n")
	was := m.k.Phase()
	m.decided(m.k.Create(m.fresh("uid"), kb.Patch{DisplayName: "name", Config: kb.Config{Retrieval: kb.RetrievalConfig{TopN: &top}}}))
	if was == kb.PhaseNone {
		m.apply(&kb.Registered{})
	}
}

func (m *machine) add(t *rapid.T) {
	r := kb.AddRequest{
		ID: rapid.SampledFrom([]string{"", "", "A", "B", "C"}).Draw(t, "id"), NewID: m.fresh("doc"), Limits: few,
		OnDuplicate: kb.OnDuplicate(rapid.IntRange(0, 3).Draw(t, "on duplicate")),
		Metadata:    rapid.SampledFrom([]map[string]string{nil, {}, {"k": "v"}}).Draw(t, "metadata"),
		TTL:         rapid.SampledFrom([]time.Duration{0, 0, 0, 9 * time.Second, time.Hour}).Draw(t, "ttl"), Now: m.now,
	}
	if rapid.Bool().Draw(t, "by URL") {
		r.Source.URL = rapid.SampledFrom(urls).Draw(t, "url")
	} else {
		r.Source = rapid.SampledFrom(contents).Draw(t, "content")
		r.Source.Blob = m.fresh("blob")
	}
	named := m.k.Document(r.ID)
	events, id, existing, err := m.k.Add(r)
	if err == nil && (existing == nil) != (len(events) > 0) {
		m.Fatalf("existing %v with events %v", existing, events)
	}
	if existing != nil && (existing.State == kb.StateDeleting || existing != m.k.Document(id)) {
		m.Fatalf("answered with document %q in %s", id, existing.State)
	}
	if len(events) > 0 {
		retried := m.k.Document(id) != nil && m.k.Document(id).Source.SHA256 == r.Source.SHA256
		m.allowed[id] = r.OnDuplicate == kb.DuplicateNewVersion || named != nil || retried && m.allowed[id]
	}
	m.decided(events, err)
}

func (m *machine) start(t *rapid.T) {
	m.run(m.pick(t))
}

// run starts a document; one that runs already has crashed, as far as the rules know.
func (m *machine) run(d *kb.Document) {
	crashed := d.Running
	events, err := m.k.Start(d.ID, m.fresh("attempt"))
	if err == nil && crashed {
		m.crashes[d.ID]++
		failed, last := events[0].(*kb.DocumentFailed)
		if last != (m.crashes[d.ID] == kb.MaxCrashes) || last && failed.Error.Reason != kb.ReasonQuarantined {
			m.Fatalf("after crash %d of %d: %v", m.crashes[d.ID], kb.MaxCrashes, events[0].Type())
		}
		if last {
			m.observed[kb.ReasonQuarantined]++
		}
	}
	m.decided(events, err)
}

func (m *machine) crashLoop(t *rapid.T) {
	id := m.pick(t).ID
	for range rapid.IntRange(2, 7).Draw(t, "starts") {
		if d := m.k.Document(id); d != nil {
			m.run(d)
		}
	}
}

func (m *machine) running() []*kb.Document {
	return slices.DeleteFunc(slices.Collect(m.k.All), func(d *kb.Document) bool { return !d.Running })
}

// advance does what a healthy run does next, so that sequences get somewhere.
func (m *machine) advance(t *rapid.T) {
	d := m.pick(t)
	switch {
	case d.State.Pending() && !d.Running:
		m.run(d)
	case d.Running && rapid.IntRange(0, 5).Draw(t, "trouble") == 0:
		m.runFailed(t)
	case d.Running && d.State == kb.StateFetching:
		m.fetched(t)
	case d.Running && d.State == kb.StateParsing:
		m.decided(m.k.ChunksWritten(d.ID, d.Version, d.Attempt, rapid.IntRange(0, 3).Draw(t, "chunks"), "m", kb.Content{Pages: 1}))
	case d.Running:
		m.decided(m.k.IndexWritten(d.ID, d.Version, d.Attempt, d.Chunked, d.Chunked, "m", kb.Content{Language: "en"}))
	default:
		m.reprocess(t)
	}
}

// report draws the run that a report claims to be of, and whether it is current.
func (m *machine) report(t *rapid.T) (d *kb.Document, version int64, attempt string, current bool) {
	d = m.pick(t)
	if running := m.running(); len(running) > 0 && rapid.IntRange(0, 3).Draw(t, "of a run") > 0 {
		d = m.pickOf(t, running)
	}
	version, attempt, current = d.Version, d.Attempt, d.Running && m.k.Phase() == kb.PhaseActive
	switch rapid.IntRange(0, 9).Draw(t, "stale") {
	case 0:
		version, current = version-1, false
	case 1:
		attempt, current = "gone", false
	}
	return d, version, attempt, current
}

// reported applies a report's outcome; one of another run must be dropped.
func (m *machine) reported(current bool, events []kb.Event, err error) {
	m.Helper()
	if !current && !errors.Is(err, kb.ErrStale) {
		m.Fatalf("a stale report was not dropped: events %d, error %v", len(events), err)
	}
	m.decided(events, err)
}

func (m *machine) fetched(t *rapid.T) {
	d, version, attempt, current := m.report(t)
	source := rapid.SampledFrom(contents).Draw(t, "content")
	source.Blob = m.fresh("blob")
	if err := m.k.CheckStorage(d.ID, source.Size, few, nil); err != nil {
		m.decided(nil, err)
		return
	}
	events, err := m.k.Fetched(d.ID, version, attempt, source, "text/html", "page")
	m.reported(current, events, err)
}

func (m *machine) chunksWritten(t *rapid.T) {
	d, version, attempt, current := m.report(t)
	events, err := m.k.ChunksWritten(d.ID, version, attempt, rapid.IntRange(0, 3).Draw(t, "chunks"), "m", kb.Content{Pages: 1})
	m.reported(current, events, err)
}

func (m *machine) indexWritten(t *rapid.T) {
	d, version, attempt, current := m.report(t)
	chunks := d.Chunked
	if chunks == 0 || rapid.IntRange(0, 4).Draw(t, "other count") == 0 {
		chunks = rapid.IntRange(0, 3).Draw(t, "chunks")
	}
	missing := rapid.SampledFrom([]int{0, 0, 0, 0, 1}).Draw(t, "missing")
	events, err := m.k.IndexWritten(d.ID, version, attempt, chunks, chunks-missing, "m", kb.Content{Warnings: []string{"w"}})
	if err == nil && (missing > 0 || d.Chunked > 0 && d.Chunked != chunks) {
		m.Fatalf("committed %d chunks: %d written, %d embedded", chunks, d.Chunked, chunks-missing)
	}
	m.reported(current, events, err)
}

func (m *machine) runFailed(t *rapid.T) {
	d, version, attempt, current := m.report(t)
	cause := kb.DocumentError{Reason: "OOPS", Message: "oops", Stage: "parse", Retryable: rapid.Bool().Draw(t, "retryable")}
	wait := time.Duration(rapid.IntRange(0, 90).Draw(t, "wait")) * time.Second
	jitter := rapid.Float64Range(0, 0.99).Draw(t, "jitter")
	events, err := m.k.RunFailed(d.ID, version, attempt, cause, wait, m.now, jitter, patience)
	if err == nil {
		_, again := events[0].(*kb.DocumentRetried)
		if again != (cause.Retryable && d.Failures+1 < patience.Attempts) {
			m.Fatalf("failure %d of %d, retryable %v: %s", d.Failures+1, patience.Attempts, cause.Retryable, events[0].Type())
		}
	}
	m.reported(current, events, err)
}

func (m *machine) reprocess(t *rapid.T) {
	target := 50
	m.decided(m.k.Reprocess(m.pick(t).ID, rapid.SampledFrom([]*kb.ChunkingConfig{nil, {TargetWords: &target}}).Draw(t, "chunking")))
}

func (m *machine) documentDeleted(t *rapid.T) {
	if d := m.pick(t); d.State == kb.StateDeleting {
		if d.Doom().Counts == nil && rapid.Bool().Draw(t, "count first") {
			m.apply(&kb.DocumentErasing{ID: d.ID, Counts: kb.ErasureCounts{Documents: 1, Chunks: 2}})
			return
		}
		m.apply(&kb.DocumentDeleted{ID: d.ID})
	}
}

func (m *machine) update(t *rapid.T) {
	top := rapid.IntRange(1, 100).Draw(t, "top_n")
	etag := rapid.SampledFrom([]string{"", m.k.Etag(), "old"}).Draw(t, "etag")
	path := rapid.SampledFrom([]string{"display_name", "config", "config.retrieval.top_n", "retention", "retention", "etag"}).Draw(t, "path")
	m.apply(m.k.Expire(m.now, 1000)...) // what is over is over, whatever the retention is next
	m.decided(m.k.Update(etag, kb.Patch{DisplayName: m.fresh("name"), Config: kb.Config{Retrieval: kb.RetrievalConfig{TopN: &top}},
		Retention: rapid.SampledFrom([]kb.Retention{{}, {MaxAge: 20 * time.Second}, {MaxAge: time.Minute, From: kb.FromLastVersion},
			{MaxAge: time.Millisecond}}).Draw(t, "retention")}, []string{path}))
}

// expire asks for the deletion of what is over by now, and of nothing else.
func (m *machine) expire(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "seconds")) * time.Second)
	limit := rapid.IntRange(1, 3).Draw(t, "limit")
	over := 0
	for d := range m.k.All {
		if d.State != kb.StateDeleting && m.k.Expired(d, m.now) {
			over++
		}
	}
	if m.k.Phase() != kb.PhaseActive {
		over = 0
	}
	events := m.k.Expire(m.now, limit)
	if len(events) != min(over, limit) {
		m.Fatalf("%d documents expire of %d whose time is over, at most %d", len(events), over, limit)
	}
	m.observed["expired"] += len(events)
	m.apply(events...)
}

// deleteOrFree moves a whole knowledge base towards its end, seldom.
func (m *machine) deleteOrFree(t *rapid.T) {
	switch {
	case m.k.Phase() == kb.PhaseDeleting:
		m.erase()
		clear(m.allowed)
		clear(m.crashes)
	case rapid.IntRange(0, 3).Draw(t, "delete") == 0:
		m.decided(m.k.Delete(""))
	}
}
