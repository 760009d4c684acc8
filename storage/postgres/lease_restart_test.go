//go:build unix

package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/storage/pgtest"
)

// keeper renews a node's lease and, now and then, changes the view.
type keeper struct {
	s    *Store
	name string

	mu      sync.Mutex
	sent    time.Time // when the last acknowledged renewal was sent
	version int64     // the last view it was told of
	acked   int
	failed  int
}

func (k *keeper) run(ctx context.Context, stop <-chan struct{}) error {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		sent := time.Now()
		v, _, err := k.s.Renew(ctx, renewal(k.name))
		if err == nil && n%3 == 0 {
			next, moveErr := v.Relocate(k.name, map[bool]string{true: "a"}[n%2 == 0])
			if moveErr == nil {
				v, err = k.s.Swap(ctx, next, nodeID(k.name))
			}
		}
		if err := k.note(sent, v.Version, err); err != nil {
			return err
		}
	}
}

func (k *keeper) note(sent time.Time, version int64, err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case err == nil:
		k.sent, k.version = sent, max(version, k.version)
		k.acked++
	case errors.Is(err, journal.ErrUnavailable), errors.Is(err, journal.ErrInDoubt):
		k.failed++
	case !errors.Is(err, protocol.ErrConflict): // another was faster
		return fmt.Errorf("%s: %w", k.name, err)
	}
	return nil
}

func TestE5_RenewedLeasesAndCommittedViewsSurviveACrashOfTheServer(t *testing.T) {
	srv := ownServer(t, pgtest.Options{Fsync: true})
	s := openAt(t, srv.URL("postgres"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	startCluster(t, s, "a", "b", "c")
	keepers := []*keeper{{s: s, name: "a"}, {s: s, name: "b"}, {s: s, name: "c"}}
	stop := make(chan struct{})
	errs := make([]error, len(keepers))
	var wg sync.WaitGroup
	for i, k := range keepers {
		wg.Go(func() { errs[i] = k.run(ctx, stop) })
	}
	for _, mode := range []pgtest.Mode{pgtest.Immediate, pgtest.Fast, pgtest.Immediate} {
		wantRenewals(ctx, t, keepers, 20)
		check(t, srv.Restart(ctx, mode))
		back := time.Now()
		known := make([]keeper, len(keepers))
		for i, k := range keepers {
			k.mu.Lock()
			known[i].sent, known[i].version = k.sent, k.version
			k.mu.Unlock()
		}
		rows, err := readLeases(ctx, s)
		for errors.Is(err, journal.ErrUnavailable) { // connections that broke
			rows, err = readLeases(ctx, s)
		}
		check(t, err)
		v, err := s.View(ctx)
		check(t, err)
		for i, k := range keepers {
			if row := rows[nodeID(k.name)]; row.Expires.Before(known[i].sent.Add(s.ttl)) {
				t.Fatalf("lease of %s ends %v, though a renewal of %v was acknowledged", k.name, row.Expires, known[i].sent)
			}
			if v.Version < known[i].version {
				t.Fatalf("view is %d, though %s was told of %d", v.Version, k.name, known[i].version)
			}
		}
		wantRenewals(ctx, t, keepers, 1)
		t.Logf("first renewal of all %v after the server was back", time.Since(back))
	}
	close(stop)
	wg.Wait()
	check(t, errors.Join(errs...), ctx.Err())
	for _, k := range keepers {
		if k.failed == 0 {
			t.Fatalf("no renewal of %s failed: the restarts hit nothing", k.name)
		}
		t.Logf("%s: %d renewals, %d failures, at view %d", k.name, k.acked, k.failed, k.version)
	}
}

// wantRenewals waits until each has had n more.
func wantRenewals(ctx context.Context, t *testing.T, keepers []*keeper, n int) {
	t.Helper()
	acked := func(k *keeper) int {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.acked
	}
	for _, k := range keepers {
		for target := acked(k) + n; acked(k) < target && ctx.Err() == nil; {
			time.Sleep(time.Millisecond) // they run by themselves: there is no signal to wait for
		}
	}
	check(t, ctx.Err())
}
