//go:build unix

package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/pgtest"
)

// loader is one owner that appends under a key of its own each time, and does
// what a grain does when a commit fails: acquire again, ask for the key.
type loader struct {
	s       *Store
	id      journal.Identity
	f       journal.Fence
	head    int64
	acked   map[string]bool // keys that were answered OK, or found recorded
	inDoubt int             // commits whose answer got lost
	found   int             // of those, the ones that had been committed
	commits *atomic.Int64
}

func (l *loader) run(ctx context.Context, stop <-chan struct{}) error {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return nil
		default:
		}
		if err := l.once(ctx, fmt.Sprint("key-", n)); err != nil {
			return err
		}
	}
}

func (l *loader) once(ctx context.Context, key string) error {
	k := journal.IdempotencyKey{Principal: "alice", Method: "Add", Key: key}
	for {
		err := l.s.Append(ctx, l.f, journal.Batch{
			Head: l.head, Events: []journal.Event{{Seq: l.head + 1, Time: time.Now(), Type: "added", Data: []byte(key)}},
			Idempotency: []journal.Idempotency{{IdempotencyKey: k, Response: []byte(key), Expires: time.Now().Add(time.Hour)}},
		})
		if err == nil {
			l.head++
			l.acked[key] = true
			l.commits.Add(1)
			return nil
		}
		if errors.Is(err, journal.ErrInDoubt) {
			l.inDoubt++
		} else if !errors.Is(err, journal.ErrUnavailable) {
			return fmt.Errorf("append: %w", err)
		}
		for l.f, l.head, err = l.s.Acquire(ctx, l.id, journal.Claim{Node: "n"}); err != nil; l.f, l.head, err = l.s.Acquire(ctx, l.id, journal.Claim{Node: "n"}) {
			if !errors.Is(err, journal.ErrUnavailable) {
				return fmt.Errorf("acquire: %w", err)
			}
		}
		_, applied, err := l.s.FindIdempotency(ctx, l.f, k)
		for errors.Is(err, journal.ErrUnavailable) {
			_, applied, err = l.s.FindIdempotency(ctx, l.f, k)
		}
		if err != nil || applied {
			l.found++
			l.acked[key] = true
			return err
		}
	}
}

// check holds the journal against what the loader knows: every key it was told
// of is there exactly once, and nothing else.
func (l *loader) check(t *testing.T) {
	t.Helper()
	seen := map[string]bool{}
	for after := int64(0); ; {
		page, err := l.s.Events(t.Context(), l.id, after, 500)
		if check(t, err); len(page) == 0 {
			break
		}
		for _, e := range page {
			after++
			if key := string(e.Data); e.Seq != after || seen[key] || !l.acked[key] {
				t.Fatalf("%s: event %d at place %d has key %q (seen %v, known %v)", l.id, e.Seq, after, key, seen[key], l.acked[key])
			}
			seen[string(e.Data)] = true
		}
	}
	if len(seen) != len(l.acked) {
		t.Fatalf("I4: %s has %d events, %d were acknowledged", l.id, len(seen), len(l.acked))
	}
}

func TestI4_I5_AcknowledgedSurvivesACrashOfTheServerInTheMiddleOfALoad(t *testing.T) {
	srv := ownServer(t, pgtest.Options{Fsync: true})
	s := openAt(t, srv.URL("postgres"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var commits atomic.Int64
	loaders := make([]*loader, 8)
	errs := make([]error, len(loaders))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range loaders {
		l := &loader{s: s, id: journal.Identity{Kind: "kb", Tenant: "acme", ID: fmt.Sprint("k", i)}, acked: map[string]bool{}, commits: &commits}
		loaders[i] = l
		var err error
		l.f, l.head, err = s.Acquire(ctx, l.id, journal.Claim{Node: "n"})
		check(t, err)
		wg.Go(func() { errs[i] = l.run(ctx, stop) })
	}
	progress := func(n int64) {
		for target := commits.Load() + n; commits.Load() < target && ctx.Err() == nil; {
			time.Sleep(time.Millisecond) // the load runs by itself: there is no signal to wait for
		}
	}
	for _, mode := range []pgtest.Mode{pgtest.Immediate, pgtest.Fast, pgtest.Immediate} {
		progress(100)
		check(t, srv.Restart(ctx, mode))
		start := time.Now()
		progress(1)
		t.Logf("first commit %v after the server was back", time.Since(start))
	}
	progress(100)
	close(stop)
	wg.Wait()
	check(t, errors.Join(errs...), ctx.Err())
	inDoubt, found := 0, 0
	for _, l := range loaders {
		l.check(t)
		inDoubt += l.inDoubt
		found += l.found
	}
	if inDoubt == 0 {
		t.Fatal("no commit was in doubt: the restarts hit nothing")
	}
	t.Logf("%d commits, %d in doubt, %d keys found recorded; %+v", commits.Load(), inDoubt, found, s.Stats())
}
