package trail

import (
	"bytes"

	"granary.dev/granary/actors/journal"
)

func (v *Verifier) journal(j Journal) {
	w := &walk{row: j, chain: journalChain(journal.Identity{Kind: j.Kind, ID: j.ID})}
	w.at = journal.Chain{Seq: j.Erased, Hash: j.Anchor}
	v.open(w)
	v.report.Journals++
	v.report.Uncovered += j.Head
	if _, since := journal.ParseAuditScope(v.report.Tenant); j.Erased > 0 && (since.IsZero() || j.Erased > j.Former) {
		v.report.Erased = append(v.report.Erased, Erasure{Chain: w.chain, Seq: j.Erased})
	}
	if j.Erased > 0 {
		v.compare(j.Erased, j.Anchor)
	}
	if folded := v.folds[w.chain]; j.Erased < folded.Erased {
		v.problem(w.chain, j.Erased, "a checkpoint says it was erased up to %d", folded.Erased)
	}
}

func (v *Verifier) event(e *Event) {
	w := v.cur
	if w == nil || w.row.Kind == "" {
		v.problem("export", v.items, "an event outside of a journal")
		return
	}
	v.report.Events++
	if e.Seq != w.at.Seq+1 {
		v.gap(w, e.Seq)
	}
	tenant, _ := journal.ParseAuditScope(v.report.Tenant)
	id := journal.Identity{Kind: w.row.Kind, Tenant: tenant, ID: w.row.ID}
	switch {
	case len(e.Hash) == 0 && len(w.at.Hash) == 0:
		v.report.Unchained++
	case len(e.Hash) == 0:
		v.problem(w.chain, e.Seq, "the event has no hash, the one before it has")
	case w.broken: // what it follows cannot be known
	case !bytes.Equal(e.link(w.at.Hash, id), e.Hash):
		v.problem(w.chain, e.Seq, "what the event says, or what is before it, is not under its hash")
	}
	v.step(e.Seq, e.Hash)
	if e.Seq == w.row.Head && !bytes.Equal(e.Hash, w.row.Hash) {
		v.problem(w.chain, e.Seq, "the owner row has another hash of it")
	}
	if e.Seq == w.row.Snapshot && len(w.row.SnapshotHash) > 0 && !bytes.Equal(e.Hash, w.row.SnapshotHash) {
		v.problem(w.chain, e.Seq, "the snapshot has another hash of it")
	}
}

// gap is where records are missing, or come twice.
func (v *Verifier) gap(w *walk, seq int64) {
	switch {
	case seq <= w.at.Seq:
		v.problem(w.chain, seq, "comes after %d", w.at.Seq)
	case seq == w.at.Seq+2:
		v.problem(w.chain, seq-1, "is missing")
	default:
		v.problem(w.chain, w.at.Seq+1, "is missing, and all up to %d", seq-1)
	}
	w.broken = true
}

// step goes on to a record, whatever was wrong with it.
func (v *Verifier) step(seq int64, hash []byte) {
	v.cur.at, v.cur.broken = journal.Chain{Seq: seq, Hash: hash}, false
	v.compare(seq, hash)
}

func (v *Verifier) journalEnd(end Journal) {
	w := v.cur
	if w == nil || w.row.Kind != end.Kind || w.row.ID != end.ID {
		v.problem("export", v.items, "the end of a journal outside of it")
		return
	}
	v.cur = nil
	if end.Erased > w.row.Erased { // it was erased while it was read
		v.report.Erased = append(v.report.Erased, Erasure{Chain: w.chain, Seq: end.Erased})
		return
	}
	switch {
	case w.at.Seq > end.Head:
		v.problem(w.chain, end.Head+1, "goes on to %d, its owner row ends at %d", w.at.Seq, end.Head)
	case w.at.Seq < w.row.Head:
		v.problem(w.chain, w.at.Seq+1, "the tail is missing: the owner row has %d", w.row.Head)
	}
	v.tail(w)
	if w.row.Snapshot > w.at.Seq {
		v.problem(w.chain, w.row.Snapshot, "the snapshot is of a place the journal has not reached")
	}
}

// tail tells what checkpoints have beyond the end of a chain.
func (v *Verifier) tail(w *walk) {
	if folded := v.folds[w.chain]; folded.Seq > w.at.Seq {
		v.problem(w.chain, w.at.Seq+1, "the tail is missing: checkpoint %d has %d", v.marks[w.chain][folded.Seq].checkpoint, folded.Seq)
	}
}

// retired is where a stream begins: behind what a checkpoint says is retired.
func (v *Verifier) retired(chain string) journal.Chain {
	at := journal.Chain{Seq: v.folds[chain].Erased, Hash: v.folds[chain].Anchor}
	if over := v.over[chain]; over.Seq > at.Seq {
		at = journal.Chain{Seq: over.Seq, Hash: over.Hash}
	}
	return at
}

func (v *Verifier) stream(s Stream) {
	w := &walk{stream: s, chain: streamChain(s.Stream)}
	w.at = v.retired(w.chain)
	w.from = w.at.Seq
	v.open(w)
	v.report.Streams++
	v.report.Retired += w.from
	v.report.Uncovered += max(0, s.Seq-w.from)
	if w.from > 0 {
		v.compare(w.from, w.at.Hash)
	}
	if s.Seq == 0 {
		v.problem(v.cur.chain, 0, "a stream without records")
	}
}

func (v *Verifier) access(a *Access) {
	w := v.cur
	if w == nil || w.stream.Stream == "" {
		v.problem("export", v.items, "a record outside of a stream")
		return
	}
	if a.Seq <= w.from {
		return // it is retired, and goes soon
	}
	v.report.Accesses++
	if a.Seq != w.at.Seq+1 {
		v.gap(w, a.Seq)
	}
	if !w.broken && !bytes.Equal(a.link(w.at.Hash, v.report.Tenant, w.stream.Stream), a.Hash) {
		v.problem(w.chain, a.Seq, "what the record says, or what is before it, is not under its hash")
	}
	v.step(a.Seq, a.Hash)
	if a.Seq == w.stream.Seq && !bytes.Equal(a.Hash, w.stream.Hash) {
		v.problem(w.chain, a.Seq, "the head of the stream has another hash of it")
	}
}
