//go:build unix

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	stored "granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/storage/pgtest"
	"granary.dev/granary/storage/sealed/sealedtest"
)

// connect opens connections to the database, from beside it when it is in a
// namespace: the tests' own look is never cut off.
func (c *cluster) connect(ctx context.Context) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(c.url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = 4
	if c.network != nil {
		cfg.ConnConfig.DialFunc = c.network.dialer(postgresHost)
	}
	return pgxpool.NewWithConfig(ctx, cfg)
}

// allowNetwork lets the nodes' addresses in; initdb allows loopback only.
func (c *cluster) allowNetwork(t *testing.T) {
	t.Helper()
	var path string
	local := strings.Replace(c.url, c.network.address(postgresHost), "127.0.0.1", 1)
	err := c.network.within(postgresHost)(func() error {
		conn, err := pgx.Connect(t.Context(), local)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(t.Context()) }()
		if err := conn.QueryRow(t.Context(), "SHOW hba_file").Scan(&path); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(f, "host all all 10.77.0.0/24 scram-sha-256")
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		_, err = conn.Exec(t.Context(), "SELECT pg_reload_conf()")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// restartPostgres stops the server in this mode and starts it at the same place.
func (c *cluster) restartPostgres(ctx context.Context, mode pgtest.Mode) error {
	c.pgMu.Lock()
	defer c.pgMu.Unlock()
	restart := func() error { return c.pg.Restart(ctx, mode) }
	if c.network != nil {
		return c.network.within(postgresHost)(restart)
	}
	return restart()
}

// signingKey is the key of the cluster's development tokens, from the store.
func (c *cluster) signingKey(t *testing.T) []byte {
	t.Helper()
	pool, err := c.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	rows, err := pool.Query(t.Context(), "SELECT value FROM cluster_secret WHERE name = 'dev-signing-key'")
	if err != nil {
		t.Fatal(err)
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		if bytes.Contains(v, []byte("PRIVATE KEY")) {
			return v
		}
	}
	t.Fatalf("none of %d secrets in the store is a signing key", len(values))
	return nil
}

// view names the members by the store, and everyone who was given up or left.
func (c *cluster) view(t *testing.T) (text string) {
	t.Helper()
	pool, err := c.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	err = pool.QueryRow(t.Context(), `SELECT 'active ' || array_to_string(active, ' ') || ', gone ' ||
		coalesce((SELECT string_agg(node || ' ' || final, ', ' ORDER BY node) FROM node_lease WHERE final <> ''), 'none') FROM cluster_view`).Scan(&text)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// event is a row of a journal.
type event struct {
	seq       int64
	time      time.Time
	kind      string
	requestID string
	event     kb.Event
}

// journal is what the store holds of one knowledge base, read behind the
// cluster's back.
type journal struct {
	head, erased int64
	events       []event
	applied      map[string][]event // what clients asked for, by request id
}

// clientEvents are the events that only clients cause.
var clientEvents = map[string]action{
	"document.added": actPut, "document.delete_requested": actDelete, "kb.updated": actSet,
}

// readJournal reads a knowledge base's rows and checks that they are gapless (I3).
func readJournal(ctx context.Context, pool *pgxpool.Pool, b base) (*journal, error) {
	j := &journal{applied: make(map[string][]event)}
	unseal, err := sealedtest.Open(ctx, pool)
	if err != nil {
		return nil, err
	}
	defer unseal.Close()
	id := stored.Identity{Kind: "kb", Tenant: b.tenant, ID: b.kb}
	err = pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		const owner = "SELECT head, erased FROM owner WHERE tenant = $1 AND kind = 'kb' AND id = $2"
		if err := tx.QueryRow(ctx, owner, b.tenant, b.kb).Scan(&j.head, &j.erased); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT seq, time, type, request_id, data FROM events WHERE tenant = $1 AND kind = 'kb' AND id = $2 ORDER BY seq", b.tenant, b.kb)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e event
			var data []byte
			if err := rows.Scan(&e.seq, &e.time, &e.kind, &e.requestID, &data); err != nil {
				return err
			}
			row := stored.Event{Seq: e.seq, Type: e.kind, Data: data}
			if err := unseal.UnsealEvent(ctx, id, &row); err != nil {
				return err
			}
			if e.event, err = kb.DecodeEvent(e.kind, row.Data); err != nil {
				return err
			}
			j.events = append(j.events, e)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("journal of %s: %w", b, err)
	}
	for i, e := range j.events {
		if e.seq != int64(i)+1 {
			return nil, fmt.Errorf("journal of %s: event %d has sequence number %d", b, i+1, e.seq)
		}
		if _, ours := clientEvents[e.kind]; ours {
			j.applied[e.requestID] = append(j.applied[e.requestID], e)
		}
	}
	if int64(len(j.events)) != j.head {
		return nil, fmt.Errorf("journal of %s: %d events, and its head is %d", b, len(j.events), j.head)
	}
	return j, nil
}

// ownership watches the owner rows: who wrote them says who owned what when.
type ownership struct {
	pool *pgxpool.Pool
	stop context.CancelFunc
	done chan struct{}

	mu       sync.Mutex
	last     map[string]ownerRow
	looks    int
	changes  int // acquisitions seen
	violated []string
}

type ownerRow struct {
	epoch      int64
	activation string
	node       string
	head       int64
	released   bool
}

// watchOwners looks at all owner rows, about twenty times a second.
func (c *cluster) watchOwners(t *testing.T) *ownership {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	pool, err := c.connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w := &ownership{pool: pool, stop: cancel, done: make(chan struct{}), last: make(map[string]ownerRow)}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				w.look(ctx)
			}
		}
	}()
	t.Cleanup(w.end)
	return w
}

func (w *ownership) end() {
	w.stop()
	<-w.done
	w.pool.Close()
}

// look reads the rows in one snapshot; a store that restarts is looked at later.
func (w *ownership) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	rows, err := w.pool.Query(ctx, "SELECT tenant || '/' || kind || '/' || id, epoch, activation, node, head, released FROM owner")
	if err != nil {
		return
	}
	defer rows.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for rows.Next() {
		var grain string
		var r ownerRow
		if rows.Scan(&grain, &r.epoch, &r.activation, &r.node, &r.head, &r.released) != nil {
			return
		}
		w.compare(grain, r)
	}
	if rows.Err() == nil {
		w.looks++
	}
}

// compare wants that epochs only rise (I2), that an epoch has one activation on
// one node (I1), that what was released stays so, and that heads only rise.
func (w *ownership) compare(grain string, now ownerRow) {
	was, known := w.last[grain]
	w.last[grain] = now
	if !known {
		return
	}
	if now.epoch != was.epoch {
		w.changes++
	}
	same := now.epoch == was.epoch
	switch {
	case now.epoch < was.epoch, now.head < was.head,
		same && (now.activation != was.activation || now.node != was.node),
		same && was.released && (!now.released || now.head != was.head),
		!same && now.activation == was.activation:
		w.violated = append(w.violated, fmt.Sprintf("%s: %+v became %+v", grain, was, now))
	}
}

// owes says what the store knows of unfinished work of a knowledge base.
func (w *ownership) owes(b base) []string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var n int
	err := w.pool.QueryRow(ctx, "SELECT count(*) FROM wakeups WHERE tenant = $1 AND kind = 'kb' AND id = $2", b.tenant, b.kb).Scan(&n)
	if err != nil {
		return []string{err.Error()}
	}
	if n > 0 {
		return []string{"a wake-up is set"}
	}
	return nil
}

// owners gives the node name of each knowledge base's last owner.
func (w *ownership) owners() map[base]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[base]string)
	for grain, r := range w.last {
		parts := strings.SplitN(grain, "/", 3)
		if len(parts) == 3 && parts[1] == "kb" {
			name, _, _ := strings.Cut(r.node, "#")
			out[base{parts[0], parts[2]}] = name
		}
	}
	return out
}
