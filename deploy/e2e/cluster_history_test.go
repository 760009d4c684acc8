//go:build unix

package e2e

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// action is what a client asks of a knowledge base.
type action string

const (
	actPut    action = "put"    // create a document, or its next version
	actDelete action = "delete" // delete a document
	actSet    action = "set"    // change the description, whatever it is
	actSwap   action = "swap"   // change the description if it is still the one that was read
	actGet    action = "get"    // read a document
	actRead   action = "read"   // read description and revision
	actList   action = "list"   // read all documents
	actSearch action = "search" // search one word at a least revision
)

func (a action) writes() bool {
	return a == actPut || a == actDelete || a == actSet || a == actSwap
}

// outcome of an operation, as its client knows it.
type fate uint8

const (
	fateUnknown fate = iota // no answer that says what happened
	fateOK
	fateRefused // the knowledge base decided against it
)

// docState is a document as clients see it: the zero value is a document that
// is not there.
type docState struct {
	version int64
	value   string // id of the put that wrote it
}

// op is one operation of a client, with all its tries.
type op struct {
	id     string // also its idempotency key, its request id and the value it writes
	client int
	base   base
	action action
	doc    string
	expect int64 // swap: the configuration version that was read
	least  int64 // search: min_revision
	word   string

	call, end int64 // nanoseconds since the history began
	last      int64 // when the last try began
	tries     int
	// loose: a try other than the one that was answered may still be under way.
	loose bool

	fate   fate
	reason string // of a refusal or of the last failure

	revision int64 // of the answer; 0: it has none
	config   int64 // configuration version of the answer
	state    docState
	docs     map[string]docState
	text     string // description of the answer
	hits     []string
}

// base names a knowledge base.
type base struct{ tenant, kb string }

// String gives tenant/name.
func (b base) String() string { return b.tenant + "/" + b.kb }

// history is what all clients did, in memory. Safe for concurrent use.
type history struct {
	begin time.Time

	mu  sync.Mutex
	ops []*op
}

func newHistory() *history { return &history{begin: time.Now()} }

func (h *history) now() int64 { return int64(time.Since(h.begin)) }

func (h *history) add(o *op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
}

// byBase gives the operations of each knowledge base.
func (h *history) byBase() map[base][]*op {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[base][]*op)
	for _, o := range h.ops {
		out[o.base] = append(out[o.base], o)
	}
	return out
}

// firstWrite finds the first acknowledged write of a knowledge base that was
// sent after a moment, and says how long after it the acknowledgement came.
func (h *history) firstWrite(b base, since int64) (time.Duration, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := int64(0)
	for i := len(h.ops) - 1; i >= 0 && h.ops[i].end > since; i-- { // they are in order of their ends, nearly
		if o := h.ops[i]; o.base == b && o.fate == fateOK && o.action.writes() && o.last >= since {
			first = o.end
		}
	}
	return time.Duration(first - since), first > 0
}

// kbState is the model: one knowledge base, executed one operation at a time.
type kbState struct {
	revision int64 // the least the knowledge base must have reached
	config   int64
	text     string
	docs     string // "id=version:value;" of each document, sorted
}

func (s kbState) doc(id string) docState {
	for entry := range strings.SplitSeq(s.docs, ";") {
		if name, rest, _ := strings.Cut(entry, "="); name == id {
			var d docState
			version, value, _ := strings.Cut(rest, ":")
			_, _ = fmt.Sscan(version, &d.version)
			d.value = value
			return d
		}
	}
	return docState{}
}

func (s kbState) with(id string, d docState) kbState {
	entries := strings.Split(s.docs, ";")
	entries = slices.DeleteFunc(entries, func(e string) bool { return e == "" || strings.HasPrefix(e, id+"=") })
	if d != (docState{}) {
		entries = append(entries, fmt.Sprintf("%s=%d:%s", id, d.version, d.value))
	}
	slices.Sort(entries)
	s.docs = strings.Join(entries, ";")
	return s
}

func encodeDocs(docs map[string]docState) string {
	var s kbState
	for id, d := range docs {
		s = s.with(id, d)
	}
	return s.docs
}

// input and output of a step of the model.
type stepInput struct {
	action action
	doc    string
	value  string
	expect int64
}

type stepOutput struct {
	fate     fate
	revision int64 // 0: not known
	config   int64
	state    docState
	docs     string
	text     string
}

// step executes one operation on the model and reports whether the knowledge
// base could have answered so.
func step(s kbState, in stepInput, out stepOutput) (bool, kbState) {
	if out.fate == fateRefused {
		return refused(s, in), s
	}
	next, ok := s, true
	switch in.action {
	case actPut:
		version := s.doc(in.doc).version + 1
		ok = out.fate == fateUnknown || out.state == docState{version, in.value}
		next = s.with(in.doc, docState{version, in.value})
	case actDelete:
		ok = s.doc(in.doc) != docState{}
		next = s.with(in.doc, docState{})
	case actSet, actSwap:
		next.config, next.text = s.config+1, in.value
		ok = (in.action == actSet || in.expect == s.config) && (out.fate == fateUnknown || out.config == next.config && out.text == next.text)
	case actGet:
		ok = out.state == s.doc(in.doc)
	case actRead:
		ok = out.config == s.config && out.text == s.text
	case actList:
		ok = out.docs == s.docs
	}
	if out.revision > 0 {
		// Each write has a revision of its own; a read may share one.
		ok = ok && (out.revision > s.revision || !in.action.writes() && out.revision == s.revision)
		next.revision = out.revision
	}
	return ok, next
}

// refused reports whether the refusal of a write was right.
func refused(s kbState, in stepInput) bool {
	switch in.action {
	case actSwap:
		return in.expect != s.config
	case actDelete, actPut: // not there; or being deleted, which nobody else sees
		return s.doc(in.doc) == docState{}
	}
	return false
}

// model is one knowledge base, from the state in which its history begins.
func model(begin kbState) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return begin },
		Step: func(state, in, out any) (bool, any) {
			return step(state.(kbState), in.(stepInput), out.(stepOutput))
		},
		Hash: func(state any) uint64 {
			s := state.(kbState)
			h := fnv.New64a()
			_, _ = fmt.Fprintf(h, "%d %d %s %s", s.revision, s.config, s.text, s.docs)
			return h.Sum64()
		},
		DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
		DescribeState:     func(state any) string { return fmt.Sprintf("%+v", state) },
	}
}

// operations makes the history the model is checked against. applied gives the
// revision at which the journal has a write, 0 if it has not: a write nobody
// answered took effect there or never, and its interval stays open to the end.
func operations(ops []*op, applied func(*op) int64) []porcupine.Operation {
	var out []porcupine.Operation
	add := func(o *op, call, end int64, res stepOutput) {
		out = append(out, porcupine.Operation{ClientId: o.client, Call: call, Return: end, Output: res,
			Input: stepInput{action: o.action, doc: o.doc, value: o.id, expect: o.expect}})
	}
	for _, o := range ops {
		switch {
		case o.action == actSearch: // checked against the journal, at its revision
		case o.fate == fateOK:
			res := stepOutput{fate: fateOK, revision: o.revision, config: o.config, state: o.state, docs: encodeDocs(o.docs), text: o.text}
			if o.action == actDelete { // its answer is empty
				res.revision = applied(o)
			}
			add(o, o.call, o.end, res)
		case !o.action.writes() && o.fate == fateUnknown: // a read that saw nothing
		default:
			if o.fate == fateRefused {
				add(o, o.last, o.end, stepOutput{fate: fateRefused})
			}
			if at := applied(o); at > 0 {
				add(o, o.call, math.MaxInt64, stepOutput{fate: fateUnknown, revision: at})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	return out
}

func fnvOf(s string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s))
	return h.Sum64()
}
