package kb_test

import (
	"reflect"
	"slices"
	"time"

	"pgregory.net/rapid"

	"granary.dev/granary/actors/kb"
)

// judge holds what must be true of one event's effect on its document.
func (m *machine) judge(e kb.Event, id string, before *kb.Document) {
	m.observed[e.Type()]++
	if id == "" {
		return
	}
	after := m.k.Document(id)
	from, to := kb.StateNone, kb.StateNone
	if before != nil {
		from = before.State
	}
	if after != nil {
		to = after.State
	}
	legal := kb.CanMove(from, to)
	switch e := e.(type) {
	case *kb.DocumentStarted: // by way of the queue
		legal = from.Pending() && kb.CanMove(from, kb.StateQueued) && kb.CanMove(kb.StateQueued, to)
	case *kb.DocumentErasing:
		legal = from == kb.StateDeleting && to == from
	case *kb.DocumentDeleted:
		legal = from == kb.StateDeleting && after == nil
	case *kb.DocumentAdded:
		delete(m.crashes, e.ID)
	}
	if !legal {
		m.Fatalf("%s moved %q from %s to %s", e.Type(), id, from, to)
	}
	if after != nil {
		created := before != nil && (after.CreatedSeq != before.CreatedSeq || !after.Created.Equal(before.Created)) ||
			before == nil && (after.CreatedSeq != m.k.Revision() || !after.Created.Equal(m.now))
		if created || after.UpdatedSeq != m.k.Revision() || !after.Updated.Equal(m.now) {
			m.Fatalf("event %d at %v left %s", m.k.Revision(), m.now, image(m, after))
		}
	}
	m.judgeLive(e, before, after)
	m.judgeGarbage(before, after)
}

// judgeLive: what searches see changes only by a few events, and only so.
func (m *machine) judgeLive(e kb.Event, before, after *kb.Document) {
	if before == nil || after == nil || image(m, before.Live) == image(m, after.Live) {
		return
	}
	keywordOnly := before.Live != nil && !before.Live.Embedded
	switch e.(type) {
	case *kb.DocumentIndexed:
		if after.Live == nil || !after.Live.Embedded || after.Live.Version != after.Version {
			m.Fatalf("indexed, and searches see %s", image(m, after.Live))
		}
	case *kb.DocumentChunked:
		if before.Live != nil && before.Live.Embedded {
			m.Fatalf("a whole version was hidden by chunks of %q", after.ID)
		}
	case *kb.DocumentFailed, *kb.DocumentCancelled, *kb.DocumentDeleteRequested:
		if !keywordOnly || after.Live != nil {
			m.Fatalf("%s changed what searches see of %q from %s to %s", e.Type(), after.ID, image(m, before.Live), image(m, after.Live))
		}
	default:
		m.Fatalf("%s changed what searches see of %q", e.Type(), after.ID)
	}
}

// judgeGarbage: exactly what is referred to no more is garbage.
func (m *machine) judgeGarbage(before, after *kb.Document) {
	g := kb.GarbageBetween(before, after)
	attempts, blobs := references(before)
	keptAttempts, keptBlobs := references(after)
	m.judgeRefs("attempt", g.Attempts, attempts, keptAttempts)
	m.judgeRefs("blob", g.Blobs, blobs, keptBlobs)
}

func (m *machine) judgeRefs(kind string, garbage []string, before, after map[string]bool) {
	named := make(map[string]bool)
	for _, id := range garbage {
		if named[id] || after[id] || !before[id] {
			m.Fatalf("%s %q is called garbage: named twice %v, referred to %v, known before %v", kind, id, named[id], after[id], before[id])
		}
		named[id] = true
	}
	for id := range before {
		if !after[id] && !named[id] {
			m.Fatalf("%s %q is lost: nobody refers to it and nobody collects it", kind, id)
		}
	}
}

func references(d *kb.Document) (attempts, blobs map[string]bool) {
	attempts, blobs = make(map[string]bool), make(map[string]bool)
	if d == nil {
		return attempts, blobs
	}
	attempts[d.Attempt], blobs[d.Source.Blob] = true, true
	if d.Live != nil {
		attempts[d.Live.Attempt], blobs[d.Live.Blob] = true, true
	}
	delete(attempts, "")
	delete(blobs, "")
	return attempts, blobs
}

// check holds the invariants of the state as a whole, after every command.
func (m *machine) check(*rapid.T) {
	want := observe(m, m.k, allSources())
	if got := observe(m, m.fold(), allSources()); got != want {
		m.Fatalf("state is not the fold of its events (I12):\n%s\nfold:\n%s", want, got)
	}
	if got := observe(m, m.restored(), allSources()); got != want {
		m.Fatalf("state is not what its snapshot restores (I12):\n%s\nrestored:\n%s", want, got)
	}
	m.sameDeeply(m.fold())
	m.sameDeeply(m.restored())
	m.recount()
	for d := range m.k.All {
		m.checkDocument(d)
	}
	m.checkDuplicates()
	m.checkExpiry()
}

// checkExpiry: the next expiry is the earliest of all (I3).
func (m *machine) checkExpiry() {
	var next time.Time
	for d := range m.k.All {
		at := m.k.Retention().ExpiryOf(d)
		if d.State != kb.StateDeleting && !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	for _, k := range []*kb.KB{m.k, m.fold(), m.restored()} {
		if got := k.NextExpiry(); !got.Equal(next) {
			m.Fatalf("the next expiry is %s, not %s", got, next)
		}
	}
}

// sameDeeply compares the values themselves: what JSON leaves out is state too.
func (m *machine) sameDeeply(other *kb.KB) {
	if !reflect.DeepEqual(m.k.Config(), other.Config()) || !reflect.DeepEqual(slices.Collect(m.k.All), slices.Collect(other.All)) {
		m.Fatalf("state is lost in its stored form (I12): %s", image(m, slices.Collect(m.k.All)))
	}
}

func (m *machine) recount() {
	counts := make(map[kb.DocumentState]int)
	var bytes, chunks int64
	n, pending := 0, 0
	for d := range m.k.All {
		n++
		counts[d.State]++
		bytes += d.Source.Size
		if d.State.Pending() {
			pending++
		}
		if d.Live != nil && d.State != kb.StateDeleting {
			chunks += int64(d.Live.Chunks)
		}
	}
	if n != m.k.Len() || bytes != m.k.SourceBytes() || chunks != m.k.Chunks() || pending != m.k.Pending() {
		m.Fatalf("kept: %d documents %d bytes %d chunks %d pending; counted: %d %d %d %d",
			m.k.Len(), m.k.SourceBytes(), m.k.Chunks(), m.k.Pending(), n, bytes, chunks, pending)
	}
	for _, s := range kb.States() {
		if counts[s] != m.k.Count(s) {
			m.Fatalf("kept: %d in %s, counted %d", m.k.Count(s), s, counts[s])
		}
	}
	if int64(n) > few.DocumentsPerKB || bytes > few.StorageBytes {
		m.Fatalf("%d documents with %d bytes: over the limits (C2)", n, bytes)
	}
}

func (m *machine) checkDocument(d *kb.Document) {
	l := d.Live
	switch {
	case d.State == kb.StateReady && (l == nil || !l.Embedded || l.Chunks == 0):
		m.Fatalf("READY without embedded chunks: %s", image(m, d))
	case d.State == kb.StateReadyEmpty && (l == nil || l.Chunks != 0):
		m.Fatalf("READY_EMPTY with chunks: %s", image(m, d))
	case (d.State == kb.StateReady || d.State == kb.StateReadyEmpty) && (l.Version != d.Version || l.Attempt != d.Attempt || d.Error != nil):
		m.Fatalf("READY, but not of this version: %s", image(m, d))
	case l != nil && !l.Embedded && (!d.State.Pending() || l.Version != d.Version || l.Attempt != d.Attempt || l.Chunks != d.Chunked):
		m.Fatalf("found by keywords through a stale attempt: %s", image(m, d))
	case d.Running && !d.State.Processing():
		m.Fatalf("running in %s", d.State)
	case d.State == kb.StateFailed && d.Error == nil:
		m.Fatalf("failed without a cause")
	case !d.RetryAt.IsZero() && d.State != kb.StateQueued:
		m.Fatalf("waits for a retry in %s", d.State)
	case d.Crashes >= kb.MaxCrashes || d.Failures >= patience.Attempts:
		m.Fatalf("%d crashes, %d failures: tried for ever", d.Crashes, d.Failures)
	}
}

// checkDuplicates: of the documents with one source hash, at most one came there
// without asking for a new version or naming the document (C2).
func (m *machine) checkDuplicates() {
	plain := make(map[string]string)
	holders := make(map[string]int)
	for d := range m.k.All {
		if d.State == kb.StateDeleting || d.Source.SHA256 == "" || m.k.Expired(d, m.now) {
			continue
		}
		if holders[d.Source.SHA256]++; holders[d.Source.SHA256] == 2 {
			m.observed["shared"]++
		}
		if m.allowed[d.ID] {
			continue
		}
		if other, taken := plain[d.Source.SHA256]; taken {
			m.Fatalf("documents %q and %q have the same source (C2)", other, d.ID)
		}
		plain[d.Source.SHA256] = d.ID
	}
}
