package actors_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// rowStore has wake-ups only.
type rowStore struct {
	journal.Store
	mu   sync.Mutex
	rows []journal.DueWakeup // the most overdue first
	err  error

	owner actors.Ownership
	kick  func()
}

// owning is the ownership of a node that has the grains named.
type owning struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (o *owning) Claim(id journal.Identity) (journal.Claim, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return journal.Claim{}, o.ids[id.ID]
}

func (o *owning) set(id string, own bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ids[id] = own
}

func (*owning) Lease() (uint64, bool) { return 0, true }
func (*owning) Lone() bool            { return false }
func (*owning) Outdated()             {}

func (s *rowStore) DueWakeups(_ context.Context, now time.Time, limit int) ([]journal.DueWakeup, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []journal.DueWakeup
	for _, r := range s.rows {
		if !r.Due.After(now) && len(out) < limit {
			out = append(out, r)
		}
	}
	return out, s.err
}

// bell counts who was woken.
type bell struct {
	mu    sync.Mutex
	rung  map[string][]time.Time
	stuck map[string]bool // never answer
}

func (b *bell) Ask(ctx context.Context, _, _, id string, m proto.Message) (proto.Message, error) {
	b.mu.Lock()
	b.rung[id] = append(b.rung[id], time.Now())
	stuck := b.stuck[id]
	b.mu.Unlock()
	if stuck {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if m.(*nodev1.KnowledgeBaseCall).GetWake() == nil {
		return nil, errors.New("not a wake-up")
	}
	return &nodev1.KnowledgeBaseReply{}, nil
}

func (b *bell) count(id string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.rung[id])
}

// waking runs a waker over rows for as long as the test takes.
func waking(t *testing.T, s *rowStore, test func(t *testing.T, b *bell)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bell{rung: make(map[string][]time.Time), stuck: make(map[string]bool)}
		for i := range s.rows {
			s.rows[i].Due = time.Now().Add(s.rows[i].Due.Sub(time.Time{}))
			if s.rows[i].Key == "stuck" {
				b.stuck[s.rows[i].Identity.ID] = true
			}
		}
		w := actors.NewGrains(actors.Deps{Store: s, Asker: b, Owner: s.owner, Logger: slog.New(slog.DiscardHandler)}).Waker()
		s.kick = w.Kick
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.Run(ctx)
		}()
		synctest.Wait()
		test(t, b)
		cancel()
		<-done
	})
}

// row is a wake-up due in a time from the start.
func row(id, key string, due time.Duration) journal.DueWakeup {
	return journal.DueWakeup{Identity: identity(id), Wakeup: journal.Wakeup{Key: key, Due: time.Time{}.Add(due)}}
}

// I10: the first look takes every row, whenever it is due; later ones what is
// due, each grain once in ten seconds.
func TestRowsAreWokenWhenDue_I10(t *testing.T) {
	s := &rowStore{rows: []journal.DueWakeup{row("now", "a", 0), row("now", "b", 0), row("soon", "a", 20*time.Second)}}
	waking(t, s, func(t *testing.T, b *bell) {
		if b.count("now") != 1 || b.count("soon") != 1 {
			t.Errorf("the first look woke %v", b.rung)
		}
		time.Sleep(19 * time.Second)
		if b.count("now") != 2 || b.count("soon") != 1 {
			t.Errorf("after 19 s: %v", b.rung)
		}
		time.Sleep(3 * time.Second)
		if b.count("soon") != 2 {
			t.Errorf("after 22 s: %v", b.rung)
		}
		for id, at := range b.rung {
			for i := 1; i < len(at); i++ {
				if at[i].Sub(at[i-1]) < 10*time.Second {
					t.Errorf("%s was woken at %v and %v", id, at[i-1], at[i])
				}
			}
		}
		s.mu.Lock()
		s.rows = nil // the work is done
		s.mu.Unlock()
		n := b.count("now")
		time.Sleep(time.Minute)
		if b.count("now") != n {
			t.Error("woken without a row")
		}
	})
}

// I10: rows that stay, because their work does, hide no others.
func TestWaitingWorkOfManyHidesNobodys_I10(t *testing.T) {
	const n = 3000
	s := &rowStore{}
	for i := range n {
		s.rows = append(s.rows, row(fmt.Sprintf("kb-%d", i), "work", 0))
	}
	waking(t, s, func(t *testing.T, b *bell) {
		time.Sleep(10 * time.Second)
		for i := range n {
			if b.count(fmt.Sprintf("kb-%d", i)) == 0 {
				t.Fatalf("kb-%d was not woken within 10 s", i)
			}
		}
	})
}

// A grain that does not answer holds up no other.
func TestGrainThatDoesNotAnswerHoldsUpNobody(t *testing.T) {
	s := &rowStore{}
	for i := range 8 {
		s.rows = append(s.rows, row(fmt.Sprintf("stuck-%d", i), "stuck", 0))
	}
	s.rows = append(s.rows, row("well", "work", 0))
	waking(t, s, func(t *testing.T, b *bell) {
		if b.count("well") != 1 {
			t.Error("not woken while others do not answer")
		}
		time.Sleep(25 * time.Second)
		if got := b.count("well"); got < 2 {
			t.Errorf("woken %d times in 25 s", got)
		}
	})
}

// A store that fails is asked again.
func TestWakerOutlivesAStoreThatFails(t *testing.T) {
	s := &rowStore{rows: []journal.DueWakeup{row("kb", "work", 0)}, err: journal.ErrUnavailable}
	waking(t, s, func(t *testing.T, b *bell) {
		time.Sleep(5 * time.Second)
		if b.count("kb") != 0 {
			t.Error("woken without having read the row")
		}
		s.mu.Lock()
		s.err = nil
		s.mu.Unlock()
		time.Sleep(2 * time.Second)
		if b.count("kb") != 1 {
			t.Errorf("woken %d times when the store is back", b.count("kb"))
		}
	})
}

// I10: of several nodes each wakes its own; rows of others only when they are
// long overdue, in case nobody does.
func TestRowsAreWokenByTheirOwner_I10(t *testing.T) {
	s := &rowStore{rows: []journal.DueWakeup{row("mine", "a", 0), row("theirs", "a", 0), row("mine later", "a", 20*time.Second),
		row("theirs later", "a", 20*time.Second)}, owner: &owning{ids: map[string]bool{"mine": true, "mine later": true}}}
	waking(t, s, func(t *testing.T, b *bell) {
		want := func(when string, mine, later, theirs, theirsLater int) {
			t.Helper()
			synctest.Wait()
			got := [4]int{b.count("mine"), b.count("mine later"), b.count("theirs"), b.count("theirs later")}
			if got != [4]int{mine, later, theirs, theirsLater} {
				t.Errorf("%s: woken %v", when, got)
			}
		}
		want("at the start", 1, 1, 0, 0)
		time.Sleep(29*time.Second + 500*time.Millisecond)
		want("after 29 s", 3, 2, 0, 0)
		time.Sleep(2 * time.Second)
		want("after 31 s", 4, 3, 1, 0)
		time.Sleep(20 * time.Second)
		want("after 51 s", 6, 5, 3, 1)
	})
}

// I10: after a change of the view the grains that came to this node go on at
// once, also where their rows are due later.
func TestTakenOverWorkGoesOnAtOnce_I10(t *testing.T) {
	own := &owning{ids: map[string]bool{"mine": true}}
	s := &rowStore{rows: []journal.DueWakeup{row("mine", "a", 0), row("new", "a", time.Hour), row("other", "a", time.Hour)}, owner: own}
	waking(t, s, func(t *testing.T, b *bell) {
		time.Sleep(1500 * time.Millisecond)
		own.set("new", true)
		s.kick()
		synctest.Wait()
		if b.count("new") != 1 || b.count("mine") != 1 || b.count("other") != 0 {
			t.Errorf("woken %v", b.rung)
		}
		s.mu.Lock()
		s.err = journal.ErrUnavailable
		s.mu.Unlock()
		own.set("other", true)
		s.kick()
		synctest.Wait()
		s.mu.Lock()
		s.err = nil
		s.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		if b.count("other") != 1 {
			t.Error("a look that failed was not made up for")
		}
	})
}

// I10: the rows of others hide none of one's own, however many they are.
func TestRowsOfOthersHideNothing_I10(t *testing.T) {
	const n = 5000
	s := &rowStore{owner: &owning{ids: map[string]bool{"mine": true}}}
	for i := range n {
		s.rows = append(s.rows, row(fmt.Sprintf("theirs-%d", i), "work", 0))
	}
	s.rows = append(s.rows, row("mine", "work", 0))
	waking(t, s, func(t *testing.T, b *bell) {
		if b.count("mine") != 1 {
			t.Error("not woken")
		}
		time.Sleep(12 * time.Second)
		if b.count("mine") != 2 || len(b.rung) != 1 {
			t.Errorf("%d were woken", len(b.rung))
		}
	})
}
