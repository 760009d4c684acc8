package trail

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"granary.dev/granary/actors/journal"
)

// Problem is one thing that is wrong with an audit.
type Problem struct {
	Chain string `json:"chain"` // the chain, "checkpoints", or "export"
	Seq   int64  `json:"seq"`   // of the event, record or checkpoint; of an item in an export
	What  string `json:"what"`
}

// String is the problem in one line.
func (p Problem) String() string { return fmt.Sprintf("%s %d: %s", p.Chain, p.Seq, p.What) }

// Erasure is a journal that was erased: no break, but something to compare.
type Erasure struct {
	Chain string `json:"chain"`
	Seq   int64  `json:"seq"` // up to here
}

// Report is what a verification found.
type Report struct {
	Tenant   string    `json:"tenant"`
	Problems []Problem `json:"problems"` // in the order they were found, at most maxProblems
	More     int64     `json:"more,omitempty"`
	Erased   []Erasure `json:"erased,omitempty"`

	Journals    int64 `json:"journals"`
	Events      int64 `json:"events"`
	Unchained   int64 `json:"unchained"` // events of before there were chains
	Streams     int64 `json:"streams"`
	Accesses    int64 `json:"accesses"`
	Checkpoints int64 `json:"checkpoints"`
	// Uncovered counts what came after the last checkpoint, and only its chains vouch for.
	Uncovered int64 `json:"uncovered"`
	// Retired counts accesses that were retired: signed checkpoints say how many and what
	// goes on behind them. First is the checkpoint from which on the rest is proved, and
	// FirstTime when it was made; 1 when none was retired.
	Retired   int64     `json:"retired,omitempty"`
	First     int64     `json:"first"`
	FirstTime time.Time `json:"first_time"`

	// Last is the last checkpoint, and LastHash its hash: kept elsewhere, they show
	// that the whole database was not set back.
	Last     int64     `json:"last"`
	LastHash []byte    `json:"last_hash,omitempty"`
	LastTime time.Time `json:"last_time"`

	hashes map[int64][]byte // of all checkpoints
}

// Expect compares with a checkpoint that is known from before, as number:hash in hex. A
// store that was set back does not have it.
func (r *Report) Expect(known string) {
	number, hash, ok := strings.Cut(known, ":")
	n, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil {
		r.Problems = append(r.Problems, Problem{Chain: "checkpoints", What: "what was expected is not number:hash"})
		return
	}
	if got, there := r.hashes[n]; !there || hex.EncodeToString(got) != strings.ToLower(hash) {
		r.Problems = append(r.Problems, Problem{Chain: "checkpoints", Seq: n, What: "is not the one that is known from before: the store was set back, or made anew"})
	}
}

// Good reports whether nothing is wrong.
func (r *Report) Good() bool { return len(r.Problems) == 0 }

const maxProblems = 100

// mark is what a checkpoint says of a place in a chain.
type mark struct {
	hash       []byte
	checkpoint int64
}

// Verifier takes the items of an export one by one.
type Verifier struct {
	keys   PublicKeys
	report Report
	items  int64
	ended  bool
	begun  bool

	prev  []byte // hash of the last checkpoint
	last  body
	folds heads
	over  heads // streams of which everything is retired
	marks map[string]map[int64]mark
	want  Header // what the header says of the checkpoints
	noted bool   // their end was compared with it

	cur  *walk
	seen map[string]bool
}

// walk is the chain being read.
type walk struct {
	chain  string
	row    Journal // of a journal, as it was before its events
	stream Stream  // of a stream
	from   int64   // of a stream: what is up to there is retired
	at     journal.Chain
	broken bool // the next link is compared with what the record before says of itself
}

// NewVerifier trusts what keys have signed.
func NewVerifier(keys PublicKeys) *Verifier {
	return &Verifier{keys: keys, report: Report{hashes: make(map[int64][]byte)}, folds: heads{}, over: heads{}, marks: make(map[string]map[int64]mark), seen: make(map[string]bool)}
}

func (v *Verifier) problem(chain string, seq int64, format string, args ...any) {
	if len(v.report.Problems) >= maxProblems {
		v.report.More++
		return
	}
	v.report.Problems = append(v.report.Problems, Problem{Chain: chain, Seq: seq, What: fmt.Sprintf(format, args...)})
}

// Add takes the next item.
func (v *Verifier) Add(i Item) {
	if v.ended {
		v.problem("export", v.items, "there is more behind its end")
		return
	}
	if (i.Header != nil) == v.begun {
		v.problem("export", v.items, "the header is not the first item, or not the only one")
		return
	}
	switch {
	case i.Header != nil:
		v.header(*i.Header)
	case i.Checkpoint != nil:
		v.checkpoint(*i.Checkpoint)
	case i.Journal != nil:
		v.journal(*i.Journal)
	case i.Event != nil:
		v.event(i.Event)
	case i.JournalEnd != nil:
		v.journalEnd(*i.JournalEnd)
	case i.Stream != nil:
		v.stream(*i.Stream)
	case i.Access != nil:
		v.access(i.Access)
	case i.Unreadable != nil:
		v.problem(i.Unreadable.Chain, i.Unreadable.Seq, "the row cannot be opened: it was changed, or belongs elsewhere")
		if v.cur != nil && v.cur.chain == i.Unreadable.Chain {
			v.cur.at = journal.Chain{Seq: i.Unreadable.Seq}
			v.cur.broken = true
		}
	case i.End != nil:
		v.end(*i.End)
		return
	default:
		v.problem("export", v.items, "an item that says nothing")
	}
	v.items++
}

func (v *Verifier) header(h Header) {
	v.begun, v.want, v.report.Tenant = true, h, h.Tenant
	if h.Format != Format {
		v.problem("export", 0, "its format is %q, this verifier knows %q", h.Format, Format)
	}
}

func (v *Verifier) checkpoint(c Checkpoint) {
	v.report.Checkpoints++
	full := journal.Checkpoint{Tenant: v.report.Tenant, Number: c.Number, Body: c.Body, KeyID: c.KeyID, Signature: c.Signature}
	defer func() {
		v.prev = hashOf(full)
		v.report.Last, v.report.LastHash = c.Number, v.prev
		v.report.hashes[c.Number] = v.prev
	}()
	if v.report.Checkpoints == 1 {
		v.report.First = c.Number
	} else if c.Number != v.report.Last+1 {
		v.problem("checkpoints", v.report.Last+1, "missing: the next one is %d", c.Number)
	}
	key, known := v.keys[c.KeyID]
	switch {
	case !known:
		v.problem("checkpoints", c.Number, "signed with the unknown key %q", c.KeyID)
	case !ed25519.Verify(key, signed(c.Body), c.Signature):
		v.problem("checkpoints", c.Number, "the signature is not of this checkpoint")
	}
	b, err := parseBody(full)
	switch {
	case err != nil:
		v.problem("checkpoints", c.Number, "cannot be read")
		return
	case b.Tenant != v.report.Tenant:
		v.problem("checkpoints", c.Number, "is of tenant %q", b.Tenant)
		return
	case b.Number != c.Number:
		v.problem("checkpoints", c.Number, "is checkpoint %d: an old one stands in its place", b.Number)
		return
	case c.Number == v.report.First && c.Number > 1 && b.FullAt != b.Number:
		v.problem("checkpoints", c.Number, "does not say enough to begin with, and the one before it is missing")
	case !bytes.Equal(b.Prev, v.prev) && (c.Number != v.report.First || c.Number == 1):
		v.problem("checkpoints", c.Number, "does not follow the one before it")
	case b.Time.Before(v.last.Time):
		v.problem("checkpoints", c.Number, "is older than the one before it")
	}
	if c.Number == v.report.First {
		v.report.FirstTime = b.Time
	}
	v.fold(b)
	v.last, v.report.LastTime = b, b.Time
}

// fold takes over what a checkpoint says of the chains.
func (v *Verifier) fold(b body) {
	for _, h := range b.Ended {
		if v.folds[h.Chain].Seq <= h.Seq {
			delete(v.folds, h.Chain)
			v.over[h.Chain] = h
		}
	}
	for _, h := range b.Heads {
		was := v.folds[h.Chain]
		if h.Seq < was.Seq || h.Erased < max(was.Erased, v.over[h.Chain].Seq) {
			v.problem("checkpoints", b.Number, "%s goes back from %d to %d", h.Chain, was.Seq, h.Seq)
		}
		v.folds[h.Chain] = h
		if v.marks[h.Chain] == nil {
			v.marks[h.Chain] = make(map[int64]mark)
		}
		if _, there := v.marks[h.Chain][h.Seq]; !there {
			v.marks[h.Chain][h.Seq] = mark{h.Hash, b.Number}
		}
	}
	if b.Chains != len(v.folds) || !bytes.Equal(b.Root, v.folds.root()) {
		v.problem("checkpoints", b.Number, "the heads do not add up to what it says of all chains")
	}
}

// checkpointsEnd compares the checkpoints with what was noted when the last was made.
func (v *Verifier) checkpointsEnd() {
	if v.noted {
		return
	}
	v.noted = true
	if first := v.report.First; first > 1 && first > v.last.Base {
		v.problem("checkpoints", 1, "missing, and all up to %d: none says that they are retired", first-1)
	}
	switch {
	case v.report.Last < v.want.Checkpoints:
		v.problem("checkpoints", v.report.Last+1, "missing: %d were made", v.want.Checkpoints)
	case v.report.Last == v.want.Checkpoints && !bytes.Equal(v.report.LastHash, v.want.Hash):
		v.problem("checkpoints", v.report.Last, "is not the one that was made")
	case v.want.Checkpoints == 0 && v.report.Last > 1:
		v.problem("checkpoints", v.report.Last, "the note of how many were made is gone")
	}
}

// open begins a chain.
func (v *Verifier) open(w *walk) {
	v.checkpointsEnd()
	v.shut()
	v.cur, v.seen[w.chain] = w, true
}

// shut ends the chain before. A stream ends where the next item begins.
func (v *Verifier) shut() {
	w := v.cur
	v.cur = nil
	switch {
	case w == nil:
	case w.stream.Stream == "":
		v.problem("export", v.items, "%s has no end", w.chain)
	default:
		if w.at.Seq < w.stream.Seq {
			v.problem(w.chain, w.at.Seq+1, "the tail is missing: the head of the stream has %d", w.stream.Seq)
		}
		v.tail(w)
	}
}

// compare holds the place a chain has reached against the checkpoints.
func (v *Verifier) compare(seq int64, hash []byte) {
	m, ok := v.marks[v.cur.chain][seq]
	if ok && !bytes.Equal(m.hash, hash) {
		v.problem(v.cur.chain, seq, "is not what checkpoint %d says stood here", m.checkpoint)
	}
	if ok && seq == v.folds[v.cur.chain].Seq {
		v.report.Uncovered -= seq - v.cur.from
	}
}

// end of all.
func (v *Verifier) end(e End) {
	v.checkpointsEnd()
	v.shut()
	v.ended = true
	if e.Items != v.items {
		v.problem("export", v.items, "%d items of %d are there", v.items, e.Items)
	}
	for _, chain := range sortedKeys(v.over) {
		if !v.seen[chain] {
			v.report.Retired += v.over[chain].Seq
		}
	}
	for _, chain := range sortedKeys(v.folds) {
		if !v.seen[chain] {
			v.problem(chain, 1, "the chain is missing: checkpoint %d has it up to %d", v.marks[chain][v.folds[chain].Seq].checkpoint, v.folds[chain].Seq)
		}
	}
}

// Report gives what was found, when all items were added.
func (v *Verifier) Report() *Report {
	if !v.ended {
		v.problem("export", v.items, "it was cut: there is no end")
		v.ended = true
	}
	v.report.Uncovered = max(0, v.report.Uncovered)
	return &v.report
}

// Read verifies an export that was written to a file. Errors are of reading; what is
// wrong with the audit is in the report.
func Read(r io.Reader, keys PublicKeys) (*Report, error) {
	v := NewVerifier(keys)
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	for {
		var i Item
		err := d.Decode(&i)
		if errors.Is(err, io.EOF) {
			return v.Report(), nil
		}
		var syntax *json.SyntaxError
		var wrong *json.UnmarshalTypeError
		switch {
		case err == nil:
			v.Add(i)
		case errors.As(err, &syntax), errors.As(err, &wrong), errors.Is(err, io.ErrUnexpectedEOF), v.begun:
			v.problem("export", v.items, "cannot be read on from here: %v", err)
			v.ended = true
			return v.Report(), nil
		default:
			return nil, fmt.Errorf("trail: not an export: %w", err)
		}
	}
}
