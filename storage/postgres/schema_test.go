//go:build unix

package postgres

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"granary.dev/granary/actors/journal"
)

// migrateTo brings a database to what a later version of granary would.
func migrateTo(ctx context.Context, t *testing.T, url string, later map[string]string) error {
	t.Helper()
	files := fstest.MapFS{}
	own, err := fs.Sub(migrations, "migrations")
	check(t, err)
	names, err := fs.Glob(own, "*.sql")
	check(t, err)
	for _, name := range names {
		data, err := fs.ReadFile(own, name)
		check(t, err)
		files[name] = &fstest.MapFile{Data: data}
	}
	for name, sql := range later {
		files[name] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + sql)}
	}
	pc, err := Config{URL: Secret(url)}.parse()
	check(t, err)
	limits(pc, migrationLockTimeout, 0)
	db := stdlib.OpenDB(*pc.ConnConfig)
	defer db.Close()
	return (&migrator{db: db, files: files, log: slog.New(slog.NewTextHandler(t.Output(), nil))}).run(ctx)
}

func TestNodesThatStartAtOnceMigrateOnce(t *testing.T) {
	url := shared.EmptyDatabase(t)
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() {
			s, err := Open(t.Context(), Config{URL: Secret(url)})
			if errs[i] = err; err == nil {
				errs[i] = s.Close()
			}
		})
	}
	wg.Wait()
	check(t, errors.Join(errs...))
	s := openAt(t, url)
	_, _, err := s.Acquire(t.Context(), journal.Identity{Kind: "kb", Tenant: "a", ID: "k"}, journal.Claim{Node: "n"})
	check(t, err)
}

// H3: a node of this version works on while one of the next migrates, and
// starts again on the schema of the next.
func TestH3_RollingUpgradeDoesNotStopTheNodesOfTheVersionBefore(t *testing.T) {
	url := shared.Database(t)
	s := openAt(t, url)
	id := journal.Identity{Kind: "kb", Tenant: "acme", ID: "k"}
	f, _, err := s.Acquire(t.Context(), id, journal.Claim{Node: "old version"})
	check(t, err)
	// A session with an open transaction makes the migration wait, and try again.
	slow, err := pgx.Connect(t.Context(), url)
	check(t, err)
	defer slow.Close(context.Background())
	_, err = slow.Exec(t.Context(), "BEGIN; SELECT count(*) FROM owner")
	check(t, err)

	migrated := make(chan error, 1)
	go func() {
		migrated <- migrateTo(t.Context(), t, url, map[string]string{"00098_next.sql": `
			ALTER TABLE owner ADD COLUMN shard integer NOT NULL DEFAULT 0;
			ALTER TABLE events ADD COLUMN trace text NOT NULL DEFAULT '';
			CREATE TABLE of_the_next (node text PRIMARY KEY);`})
	}()
	head := int64(0)
	for waiting := true; waiting; { // appends until the migration has waited for the slow one, and a while after
		check(t, s.Append(t.Context(), f, journal.Batch{Head: head, Events: testEvents(head, 1, "e")}))
		head++
		select {
		case err := <-migrated:
			check(t, err)
			waiting = false
		default:
		}
		var blocked bool
		err := rowOf(t.Context(), root(t, s.commits), `SELECT EXISTS (SELECT 1 FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%ADD COLUMN shard%')`, nil, &blocked)
		if check(t, err); blocked {
			check(t, s.Append(t.Context(), f, journal.Batch{Head: head, Events: testEvents(head, 1, "behind the migration")}))
			head++
			if !slow.PgConn().IsClosed() {
				check(t, slow.Close(t.Context()))
			}
		}
	}
	check(t, s.SaveSnapshot(t.Context(), f, journal.Snapshot{Seq: head, State: []byte("s")}))
	again := openAt(t, url) // this version, restarted on the newer schema
	list, err := again.Events(t.Context(), id, 0, 100_000)
	if check(t, err); int64(len(list)) != head {
		t.Fatalf("%d events of %d", len(list), head)
	}
	check(t, again.Append(t.Context(), f, journal.Batch{Head: head, Events: testEvents(head, 1, "e")}))

	// Two versions on, the floor rises above this binary.
	check(t, migrateTo(t.Context(), t, url, map[string]string{
		"00098_next.sql": "SELECT 1;", "00099_floor.sql": "UPDATE schema_floor SET version = 98;",
	}))
	if _, err := Open(t.Context(), Config{URL: Secret(url)}); !errors.Is(err, ErrNewerSchema) {
		t.Fatalf("got %v, want ErrNewerSchema", err)
	}
}

func TestI13_EveryTableBeginsItsKeyWithTheTenant(t *testing.T) {
	s := openAt(t, shared.Database(t))
	bad, err := collect(t.Context(), root(t, s.commits), `
		SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'public' AND c.relkind = 'r' AND c.relname NOT IN ('schema_version', 'schema_floor', 'node_lease', 'cluster_view', 'cluster_secret')
		  AND NOT EXISTS (SELECT 1 FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
		                  WHERE i.indrelid = c.oid AND i.indisprimary AND a.attname = 'tenant')`, nil, pgx.RowTo[string])
	if check(t, err); len(bad) > 0 {
		t.Fatalf("tables %v", bad)
	}
}
