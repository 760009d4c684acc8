//go:build unix

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"

	"granary.dev/granary/actors/kb"
)

// checkTime bounds the check of one history. One that is not decided by then is a failure.
const checkTime = 2 * time.Minute

// findings are what the checks of some knowledge bases found, and how much they saw.
type findings struct {
	histories, operations int
	acked, unknown        int // writes
	landed                int // unknown writes that the journal has
	searches, streamed    int
	wrong                 []string
}

func (f *findings) wrongf(format string, args ...any) {
	f.wrong = append(f.wrong, fmt.Sprintf(format, args...))
}

func (f *findings) add(o findings) {
	f.histories += o.histories
	f.operations += o.operations
	f.acked += o.acked
	f.unknown += o.unknown
	f.landed += o.landed
	f.searches += o.searches
	f.streamed += o.streamed
	f.wrong = append(f.wrong, o.wrong...)
}

// checkBase checks everything that clients were told of one knowledge base
// against its journal (I4, I5) and against the model (I6).
func checkBase(b base, begin kbState, ops []*op, j *journal, began time.Time) findings {
	f := findings{histories: 1}
	known := make(map[string]bool)
	for _, o := range ops {
		known[o.id] = true
		if o.action.writes() {
			f.checkWrite(o, j.applied[o.id])
		}
	}
	for id, events := range j.applied {
		if !known[id] {
			f.wrongf("%s: request %q changed something (%s at %d) and no client sent it", b, id, events[0].kind, events[0].seq)
		}
	}
	f.checkSearches(b, ops, j, began)
	operations := operations(ops, func(o *op) int64 {
		if events := j.applied[o.id]; len(events) > 0 {
			return events[0].seq
		}
		return 0
	})
	f.operations += len(operations)
	result, info := porcupine.CheckOperationsVerbose(model(begin), operations, checkTime)
	if result != porcupine.Ok {
		f.wrongf("%s: the history of %d operations is %s: %s", b, len(operations), result, stuck(begin, operations, info))
	}
	return f
}

// checkWrite wants an acknowledged write exactly once in the journal, where its
// answer says; a refused one never; and one of unknown fate at most once.
func (f *findings) checkWrite(o *op, applied []event) {
	switch {
	case len(applied) > 1:
		f.wrongf("%s was applied %d times: at %d and %d", o.id, len(applied), applied[0].seq, applied[1].seq)
	case o.fate == fateOK && len(applied) == 0:
		f.wrongf("%s %s was acknowledged at revision %d and is lost", o.action, o.id, o.revision)
	case o.fate == fateOK && o.revision > 0 && o.revision != applied[0].seq:
		f.wrongf("%s was acknowledged at revision %d and is at %d", o.id, o.revision, applied[0].seq)
	case o.fate == fateRefused && !o.loose && len(applied) > 0:
		f.wrongf("%s was refused (%s) and is applied at %d", o.id, o.reason, applied[0].seq)
	}
	for _, e := range applied {
		if want := clientEvents[e.kind]; want != o.action && (want != actSet || o.action != actSwap) {
			f.wrongf("%s, a %s, is in the journal as %s", o.id, o.action, e.kind)
		}
	}
	if o.fate == fateOK {
		f.acked++
	} else if o.loose {
		f.unknown++
		f.landed += len(applied)
	}
}

// stuck describes the first operations that fit nowhere.
func stuck(begin kbState, history []porcupine.Operation, info porcupine.LinearizationInfo) string {
	var longest []porcupine.Operation
	for _, partial := range info.PartialLinearizationsOperations()[0] {
		if len(partial) > len(longest) {
			longest = partial
		}
	}
	state := begin
	done := make(map[string]int)
	key := func(o porcupine.Operation) string { return fmt.Sprint(o.ClientId, o.Call, o.Input) }
	for _, o := range longest {
		_, state = step(state, o.Input.(stepInput), o.Output.(stepOutput))
		done[key(o)]++
	}
	out := fmt.Sprintf("after %d operations the state is %+v, and next would be", len(longest), state)
	rest := slices.DeleteFunc(slices.Clone(history), func(o porcupine.Operation) bool { return done[key(o)] > 0 })
	slices.SortFunc(rest, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	for _, o := range rest[:min(len(rest), 4)] {
		out += fmt.Sprintf("\n    client %d [%v..%v] %+v -> %+v", o.ClientId, time.Duration(o.Call), time.Duration(o.Return), o.Input, o.Output)
	}
	return out
}

// span is a stretch of revisions in which a put's text is searchable: from
// first up to, not including, last.
type span struct{ first, last int64 }

// searchable folds a journal and says when each put's text was searchable.
func searchable(b base, j *journal) (map[string][]span, error) {
	out := make(map[string][]span)
	state := kb.New(b.kb)
	wrote := make(map[string]map[int64]string) // put by document and version
	live := make(map[string]string)            // put by document
	for _, e := range j.events {
		if err := state.Apply(e.seq, e.time, e.event); err != nil {
			return nil, fmt.Errorf("%s: event %d cannot be applied: %w", b, e.seq, err)
		}
		id := kb.Subject(e.event)
		if id == "" {
			continue
		}
		if added, ok := e.event.(*kb.DocumentAdded); ok {
			if added.Version == 1 || wrote[id] == nil {
				wrote[id] = make(map[int64]string)
			}
			wrote[id][added.Version] = e.requestID
		}
		now := ""
		if d := state.Document(id); d != nil && d.Live != nil && d.State != kb.StateDeleting {
			now = wrote[id][d.Live.Version]
		}
		if was := live[id]; was != now {
			if spans := out[was]; was != "" {
				spans[len(spans)-1].last = e.seq
			}
			if now != "" {
				out[now] = append(out[now], span{e.seq, 1 << 62})
			}
			live[id] = now
		}
	}
	return out, nil
}

// checkSearches wants each search to find a word exactly if the journal says
// that its text is searchable at the revision of the answer (I8). A hit may be
// left out if the text ceased to be searchable before the answer came.
func (f *findings) checkSearches(b base, ops []*op, j *journal, began time.Time) {
	spans, err := searchable(b, j)
	if err != nil {
		f.wrongf("%v", err)
		return
	}
	byWord := make(map[string]string) // put by word
	for _, o := range ops {
		if o.action == actPut {
			byWord[o.word] = o.id
		}
	}
	for _, o := range ops {
		if o.action != actSearch || o.fate != fateOK {
			continue
		}
		f.searches++
		latest := j.at(began.Add(time.Duration(o.end)))
		var there, stays bool
		for _, s := range spans[byWord[o.word]] {
			there = there || s.first <= o.revision && o.revision < s.last
			stays = stays || s.first <= o.revision && latest < s.last
		}
		found := slices.Equal(o.hits, []string{o.doc})
		switch {
		case len(o.hits) > 0 && !found:
			f.wrongf("%s: %q is only in %s and is found in %v", o.id, o.word, o.doc, o.hits)
		case found && !there:
			f.wrongf("%s: %q is found in %s at revision %d, where it is not searchable: %v", o.id, o.word, o.doc, o.revision, spans[byWord[o.word]])
		case !found && stays:
			f.wrongf("%s: %q is not found in %s at revision %d, where it is searchable: %v", o.id, o.word, o.doc, o.revision, spans[byWord[o.word]])
		}
	}
}

// at is the last revision that may have been committed at a time. Events carry
// the time of their decision, which is before that of their commit.
func (j *journal) at(when time.Time) int64 {
	latest := make([]time.Time, len(j.events)) // of this and all later events, the earliest
	for i := len(j.events) - 1; i >= 0; i-- {
		latest[i] = j.events[i].time
		if i+1 < len(latest) && latest[i+1].Before(latest[i]) {
			latest[i] = latest[i+1]
		}
	}
	return int64(sort.Search(len(latest), func(i int) bool { return latest[i].After(when) }))
}

// checkAll reads the journals of a load's knowledge bases and checks them.
// Followers of some of them, if any, are checked too.
func (c *cluster) checkAll(ctx context.Context, l *load, bases []*shared, followers map[base]*follower) findings {
	var total findings
	pool, err := c.connect(ctx)
	if err != nil {
		return findings{wrong: []string{err.Error()}}
	}
	defer pool.Close()
	byBase := l.history.byBase()
	for _, s := range bases {
		j, err := readJournal(ctx, pool, s.base)
		if err != nil {
			total.wrongf("%v", err)
			continue
		}
		total.add(checkBase(s.base, s.begin, byBase[s.base], j, l.history.begin))
		if f := followers[s.base]; f != nil {
			total.wrong = append(total.wrong, f.check(ctx, j)...)
			total.streamed += int(f.reached())
		}
	}
	return total
}
