//go:build unix

package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"granary.dev/granary/actors/journal"
)

// The old owner writes, the new one takes over and replays. Both do it in open
// transactions, so that a commit can come as late as it may after its
// statement. Every order of their steps is played; where a step has to wait
// for a lock, the other session goes on. Whatever the new owner has replayed
// must be all there ever is of its predecessor.

// session is one connection that runs a script, a step at a time.
type session struct {
	conn  *pgxpool.Conn
	pid   uint32
	steps []func(context.Context, querier) error
	next  int
	done  chan error // of the step under way; nil when none is
}

func newSession(t *testing.T, p *pool, steps ...func(context.Context, querier) error) *session {
	t.Helper()
	c, err := p.conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &session{conn: c, pid: c.Conn().PgConn().PID(), steps: steps}
}

func statement(sql string) func(context.Context, querier) error {
	return func(ctx context.Context, q querier) error {
		_, err := q.Exec(ctx, sql)
		return err
	}
}

// start begins the next step.
func (s *session) start(ctx context.Context) {
	step := s.steps[s.next]
	s.next++
	s.done = make(chan error, 1)
	go func(done chan error) { done <- step(ctx, s.conn) }(s.done)
}

// settle waits until the step under way has ended or waits for a lock. A
// failed step ends the script with a rollback.
func (s *session) settle(ctx context.Context, t *testing.T, observer querier) {
	t.Helper()
	for s.done != nil {
		select {
		case err := <-s.done:
			s.done = nil
			if err != nil {
				s.next = len(s.steps)
				if _, err := s.conn.Exec(ctx, "ROLLBACK"); err != nil {
					t.Fatal(err)
				}
			}
			return
		default:
		}
		var blocked bool
		if err := observer.QueryRow(ctx, `SELECT cardinality(pg_blocking_pids($1)) > 0`, int32(s.pid)).Scan(&blocked); err != nil {
			t.Fatal(err)
		}
		if blocked {
			return
		}
	}
}

// finish waits for the end of the step under way; lock_timeout bounds it.
func (s *session) finish(ctx context.Context, t *testing.T, observer querier) {
	t.Helper()
	if s.done != nil {
		s.done <- <-s.done
		s.settle(ctx, t, observer)
	}
}

// play runs both scripts in this order, as far as locks allow it.
func play(ctx context.Context, t *testing.T, observer querier, order string, sessions map[rune]*session) {
	t.Helper()
	rest := []rune(order)
	for len(rest) > 0 {
		i := slices.IndexFunc(rest, func(who rune) bool { return sessions[who].done == nil })
		if i < 0 { // who is left waits, or has just got its lock
			sessions[rest[0]].finish(ctx, t, observer)
			continue
		}
		who := sessions[rest[i]]
		rest = slices.Delete(rest, i, i+1)
		if who.next == len(who.steps) { // its script was cut short
			continue
		}
		who.start(ctx)
		for _, s := range sessions {
			s.settle(ctx, t, observer)
		}
	}
	for _, s := range sessions {
		s.finish(ctx, t, observer)
		s.conn.Release()
	}
}

// orders lists all merges of a steps of 'o' and b steps of 'n'.
func orders(a, b int) []string {
	switch {
	case a == 0 && b == 0:
		return []string{""}
	case a < 0 || b < 0:
		return nil
	}
	var out []string
	for _, rest := range orders(a-1, b) {
		out = append(out, "o"+rest)
	}
	for _, rest := range orders(a, b-1) {
		out = append(out, "n"+rest)
	}
	return out
}

// fencedWrite is one kind of statement under test.
type fencedWrite struct {
	name string
	// prepare gives the write that the old owner tries in its transaction.
	prepare func(t *testing.T, s *Store, f journal.Fence, head int64) func(context.Context, querier) error
}

func fencedWrites() []fencedWrite {
	return []fencedWrite{
		{"append", func(t *testing.T, s *Store, f journal.Fence, head int64) func(context.Context, querier) error {
			b := journal.Batch{
				Head: head, Events: testEvents(head, 2, "stale"),
				Idempotency: []journal.Idempotency{{
					IdempotencyKey: journal.IdempotencyKey{Principal: "alice", Method: "Add", Key: "stale"},
					Expires:        time.Now().Add(time.Hour),
				}},
				SetWakeups: []journal.Wakeup{{Key: "stale", Due: time.Now()}}, ClearWakeups: []string{"seed"},
				ClaimBlobs: []string{putBlob(t, s, f.Identity.Tenant, []byte("stale"))},
			}
			return func(ctx context.Context, q querier) error { return s.appendBatch(ctx, q, f, b) }
		}},
		{"snapshot", func(_ *testing.T, s *Store, f journal.Fence, head int64) func(context.Context, querier) error {
			return func(ctx context.Context, q querier) error {
				return saveSnapshotOn(ctx, q, f, head, false, int64(s.codec.Sum([]byte("stale"))), []byte("stale"), []byte{})
			}
		}},
		{"index", func(_ *testing.T, s *Store, f journal.Fence, _ int64) func(context.Context, querier) error {
			save := &indexSave{fence: f, sum: s.codec.Sum([]byte("stale")), inline: []byte("stale")}
			return save.publishOn
		}},
		{"index in parts", func(t *testing.T, s *Store, f journal.Fence, _ int64) func(context.Context, querier) error {
			save := &indexSave{fence: f, inline: []byte{}}
			check(t, s.saveParts(t.Context(), save, bytes.NewReader(make([]byte, indexPart+1)), indexPart+1))
			return save.publishOn
		}},
		{"erase", func(_ *testing.T, _ *Store, f journal.Fence, _ int64) func(context.Context, querier) error {
			return func(ctx context.Context, q querier) error {
				_, err := markErasedOn(ctx, q, f)
				return err
			}
		}},
		{"release", func(_ *testing.T, _ *Store, f journal.Fence, _ int64) func(context.Context, querier) error {
			return func(ctx context.Context, q querier) error { return releaseOn(ctx, q, f) }
		}},
	}
}

// unsafeWrites are fences that look right and are not: the test must find out.
func unsafeWrites() []fencedWrite {
	insert := func(f journal.Fence, head int64, fence string) func(context.Context, querier) error {
		return func(ctx context.Context, q querier) error {
			tag, err := q.Exec(ctx, `WITH f AS (SELECT 1 FROM owner WHERE tenant = $1 AND kind = $2 AND id = $3
					AND epoch = $4 AND activation = $5 AND NOT released `+fence+`)
				INSERT INTO events (tenant, kind, id, seq, time, type, principal, request_id, data)
				SELECT $1, $2, $3, $6, now(), 'stale', '', '', '' FROM f`, fenceArgs(f, head+1)...)
			if err == nil && tag.RowsAffected() == 0 {
				err = fenced(f)
			}
			return err
		}
	}
	return []fencedWrite{
		{"INSERT WHERE EXISTS", func(_ *testing.T, _ *Store, f journal.Fence, head int64) func(context.Context, querier) error {
			return insert(f, head, "")
		}},
		{"FOR KEY SHARE", func(_ *testing.T, _ *Store, f journal.Fence, head int64) func(context.Context, querier) error {
			return insert(f, head, "FOR KEY SHARE")
		}},
	}
}

func TestI1_NoStaleWriteBecomesVisibleAfterTheNewOwnerHasReplayed(t *testing.T) {
	s := openAt(t, shared.Database(t))
	v := startCluster(t, s, "old", "new")
	for _, way := range []struct {
		name     string
		old, new journal.Claim
	}{
		{"alone", journal.Claim{Node: "old"}, journal.Claim{Node: "new"}},
		{"in a cluster", journal.Claim{Node: "old#1", View: v.Version}, longPlaced(v, "new")},
	} {
		t.Run(way.name, func(t *testing.T) { playTakeovers(t, s, way.old, way.new) })
	}
}

func playTakeovers(t *testing.T, s *Store, old, next journal.Claim) {
	for _, w := range fencedWrites() {
		t.Run(w.name, func(t *testing.T) {
			acknowledged := 0
			for _, order := range orders(3, 4) {
				acked, err := takeover(t, s, w, order, old, next)
				if err != nil {
					t.Fatalf("order %s: %v", order, err)
				}
				if acked {
					acknowledged++
				}
			}
			if acknowledged == 0 || (w.name != "release" && acknowledged == len(orders(3, 4))) {
				t.Fatalf("the old owner's write was acknowledged in %d orders: the test shows nothing", acknowledged)
			}
			t.Logf("%d orders, the old owner was first in %d", len(orders(3, 4)), acknowledged)
		})
	}
	for _, w := range unsafeWrites() {
		t.Run("found out: "+w.name, func(t *testing.T) {
			broken := 0
			for _, order := range orders(3, 4) {
				if _, err := takeover(t, s, w, order, old, next); errors.Is(err, errStaleVisible) {
					broken++
				}
			}
			if broken == 0 {
				t.Fatal("no order shows that this fence is unsafe: the test is blind")
			}
		})
	}
}

var errStaleVisible = errors.New("a write of the old owner became visible after the replay")

// takeover plays one order with a grain of its own. The error tells of a broken promise.
func takeover(t *testing.T, s *Store, w fencedWrite, order string, from, to journal.Claim) (acknowledged bool, err error) {
	t.Helper()
	ctx := t.Context()
	id := journal.Identity{Kind: "kb", Tenant: "acme", ID: uuid.NewString()}
	f, _, err := s.Acquire(ctx, id, from)
	check(t, err)
	const head = 2
	check(t, s.Append(ctx, f, journal.Batch{Events: testEvents(0, head, "seed"), SetWakeups: []journal.Wakeup{{Key: "seed", Due: time.Now()}}}),
		s.SaveSnapshot(ctx, f, journal.Snapshot{Seq: 1, State: []byte("seed")}), s.SaveIndex(ctx, f, []byte("seed")))
	before := observe(t, s, id)
	write := w.prepare(t, s, f, head)

	next := journal.Fence{Identity: id, Activation: uuid.NewString(), Node: to.Node}
	var acquired int64
	var replayed string
	wrote := false
	sessions := map[rune]*session{
		'o': newSession(t, root(t, s.commits), statement("BEGIN"), write, func(ctx context.Context, q querier) error {
			_, err := q.Exec(ctx, "COMMIT")
			wrote = err == nil
			return err
		}),
		'n': newSession(t, root(t, s.commits), statement("BEGIN"), func(ctx context.Context, q querier) error {
			return acquireOn(ctx, q, &next, &acquired, to, s.ttl)
		}, statement("COMMIT"), func(ctx context.Context, q querier) (err error) {
			replayed, err = observeOn(ctx, q, id)
			return err
		}),
	}
	observer, err := root(t, s.bulk).conn(ctx)
	check(t, err)
	defer observer.Release()
	play(ctx, t, observer, order, sessions)

	after := observe(t, s, id)
	switch {
	case replayed == "":
		return wrote, errors.New("the new owner could not take over")
	case after != replayed:
		return wrote, fmt.Errorf("%w: replayed\n%s\nbut there is\n%s", errStaleVisible, replayed, after)
	case w.name != "release" && wrote == (after == before):
		return wrote, fmt.Errorf("acknowledged: %v, but there is\n%s", wrote, after)
	}
	// The new owner goes on from what it has replayed.
	if err := s.Append(ctx, next, journal.Batch{Head: acquired, Events: testEvents(acquired, 1, "new")}); err != nil {
		return wrote, fmt.Errorf("the new owner cannot append: %w", err)
	}
	return wrote, nil
}

func observe(t *testing.T, s *Store, id journal.Identity) (out string) {
	t.Helper()
	check(t, root(t, s.commits).read(t.Context(), func(ctx context.Context, q querier) (err error) {
		out, err = observeOn(ctx, q, id)
		return err
	}))
	return out
}

// observeOn reads all there is of a grain but who owns it.
func observeOn(ctx context.Context, q querier, id journal.Identity) (out string, err error) {
	err = q.QueryRow(ctx, `SELECT concat_ws(E'\n',
		(SELECT format('head %s erased %s/%s', head, erased, erasures) FROM owner WHERE (tenant, kind, id) = ($1, $2, $3)),
		(SELECT string_agg(format('event %s %s', seq, type), ', ' ORDER BY seq) FROM events WHERE (tenant, kind, id) = ($1, $2, $3)),
		(SELECT format('snapshot %s %s', seq, state) FROM snapshots WHERE (tenant, kind, id) = ($1, $2, $3)),
		(SELECT format('index %s/%s', gen, sum) FROM indexes WHERE (tenant, kind, id) = ($1, $2, $3)),
		(SELECT string_agg('key ' || key, ', ' ORDER BY key) FROM idempotency WHERE (tenant, kind, id) = ($1, $2, $3)),
		(SELECT string_agg('wake ' || key, ', ' ORDER BY key) FROM wakeups WHERE (tenant, kind, id) = ($1, $2, $3)),
		(SELECT format('blobs %s', count(*)) FROM blobs WHERE (tenant, owner_kind, owner_id) = ($1, $2, $3)))`,
		id.Tenant, id.Kind, id.ID).Scan(&out)
	return out, err
}

func testEvents(head int64, n int, kind string) []journal.Event {
	out := make([]journal.Event, n)
	for i := range out {
		out[i] = journal.Event{Seq: head + int64(i) + 1, Time: time.Now(), Type: kind, Data: []byte(kind)}
	}
	return out
}

func putBlob(t testing.TB, s *Store, tenant string, data []byte) string {
	t.Helper()
	w, err := s.CreateBlob(t.Context(), tenant)
	check(t, err)
	defer w.Abort()
	_, err = w.Write(data)
	check(t, err)
	info, err := w.Commit(t.Context())
	check(t, err)
	return info.ID
}

func check(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// runSQL runs a statement outside of the store.
func runSQL(t testing.TB, url, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	check(t, err)
	_, err = conn.Exec(t.Context(), sql, args...)
	check(t, err, conn.Close(t.Context()))
}
