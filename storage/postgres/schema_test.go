//go:build unix

package postgres

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/internal/schema"
	"granary.dev/granary/storage/pgtest"
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

	const next = `
			ALTER TABLE owner ADD COLUMN shard integer NOT NULL DEFAULT 0;
			ALTER TABLE events ADD COLUMN trace text NOT NULL DEFAULT '';
			CREATE TABLE of_the_next (node text PRIMARY KEY);`
	migrated := make(chan error, 1)
	go func() {
		migrated <- migrateTo(t.Context(), t, url, map[string]string{"00098_next.sql": next})
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
		"00098_next.sql": next, "00099_floor.sql": "UPDATE schema_floor SET version = 98;",
	}))
	if _, err := Open(t.Context(), Config{URL: Secret(url)}); !errors.Is(err, ErrNewerSchema) {
		t.Fatalf("got %v, want ErrNewerSchema", err)
	}
}

func TestI13_EveryTableBeginsItsKeyWithTheTenant(t *testing.T) {
	s := openAt(t, shared.Database(t))
	bad, err := collect(t.Context(), root(t, s.commits), `
		SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'public' AND c.relkind = 'r' AND c.relname NOT IN ('schema_version', 'schema_floor', 'schema_sums', 'node_lease', 'cluster_view', 'cluster_secret')
		  AND NOT EXISTS (SELECT 1 FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
		                  WHERE i.indrelid = c.oid AND i.indisprimary AND a.attname = 'tenant')`, nil, pgx.RowTo[string])
	if check(t, err); len(bad) > 0 {
		t.Fatalf("tables %v", bad)
	}
}

// A4: a migration with a lower number than the database has already is run, by one of
// the nodes that start at once; one that was changed after it ran is refused; a
// database from before sums are noted is taken as it is.
func TestMigrationsAreASetNotANumber(t *testing.T) {
	url := shared.Database(t)
	db, err := pgx.Connect(t.Context(), url)
	check(t, err)
	defer db.Close(context.Background())
	do := func(statement string) {
		t.Helper()
		_, err := db.Exec(t.Context(), statement)
		check(t, err)
	}
	late := map[string]string{"00098_late.sql": "CREATE TABLE late (x integer);"}
	check(t, migrateTo(t.Context(), t, url, late))
	both := map[string]string{"00097_between.sql": "CREATE TABLE between_ (x integer);", "00098_late.sql": late["00098_late.sql"]}
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = migrateTo(t.Context(), t, url, both) })
	}
	wg.Wait()
	check(t, errors.Join(errs...))
	do(`INSERT INTO between_ VALUES (1)`)
	check(t, migrateTo(t.Context(), t, url, late)) // a node of before, beside the others
	check(t, migrateTo(t.Context(), t, url, nil))

	changed := map[string]string{"00097_between.sql": "CREATE TABLE between_ (x integer, y integer);", "00098_late.sql": late["00098_late.sql"]}
	err = migrateTo(t.Context(), t, url, changed)
	if !errors.Is(err, schema.ErrChanged) || !strings.Contains(err.Error(), "00097_between.sql") {
		t.Errorf("a migration that was changed: %v", err)
	}
	do(`DELETE FROM schema_sums WHERE version = 97`) // as if it had run before there were sums
	check(t, migrateTo(t.Context(), t, url, changed))
	if err := migrateTo(t.Context(), t, url, both); !errors.Is(err, schema.ErrChanged) {
		t.Errorf("after it was noted: %v", err)
	}
	// As a database of the scheme before: versions without sums, and without the table of them.
	do(`DROP TABLE schema_sums; DELETE FROM schema_version WHERE version_id IN (11, 97); DROP FUNCTION granary_isolate_v2; DROP TABLE between_`)
	check(t, migrateTo(t.Context(), t, url, both))
	var n int
	check(t, db.QueryRow(t.Context(), `SELECT count(*) FROM schema_sums s JOIN schema_version v ON v.version_id = s.version`).Scan(&n))
	var all int
	check(t, db.QueryRow(t.Context(), `SELECT count(*) FROM schema_version WHERE version_id > 0`).Scan(&all))
	if n != all {
		t.Errorf("%d of %d migrations are noted", n, all)
	}
}

// What was erased with a tenant before there was a note of it is a former tenant's.
func TestI1_MigrationNotesWhatFormerTenantsHad(t *testing.T) {
	srv := ownServer(t, pgtest.Options{}) // a login as operators should have one, that no row is shown
	check(t, srv.Do(t.Context(), "postgres", `CREATE ROLE app LOGIN PASSWORD 'app' CREATEROLE`), srv.Do(t.Context(), "postgres", `CREATE DATABASE kb OWNER app`))
	url := strings.Replace(srv.URL("kb"), "granary:"+srv.Password(), "app:app", 1)
	s := openAt(t, url)
	identity := func(tenant, kind, id string) journal.Identity {
		return journal.Identity{Tenant: tenant, Kind: kind, ID: id}
	}
	for _, c := range []struct {
		id     journal.Identity
		erased bool
	}{
		{identity("twice", "tenant", "twice"), true}, {identity("twice", "kb", "k"), true}, {identity("twice", "kb", "fresh"), false},
		{identity("once", "tenant", "once"), false}, {identity("once", "kb", "k"), true},
	} {
		f, _, err := s.Acquire(t.Context(), c.id, journal.Claim{Node: "n"})
		check(t, err)
		check(t, s.Append(t.Context(), f, journal.Batch{Events: []journal.Event{{Seq: 1, Type: "x"}, {Seq: 2, Type: "x"}}}))
		if c.erased {
			check(t, s.Erase(t.Context(), f))
		}
	}
	check(t, s.Close())
	pc, err := Config{URL: Secret(url)}.parse()
	check(t, err)
	db := stdlib.OpenDB(*pc.ConnConfig)
	for _, query := range []string{`ALTER TABLE owner DROP COLUMN former`, `DELETE FROM schema_version WHERE version_id = 12`, `DELETE FROM schema_sums WHERE version = 12`} {
		_, err := db.ExecContext(t.Context(), query)
		check(t, err)
	}
	check(t, db.Close())
	s = openAt(t, url)
	for id, want := range map[journal.Identity]int64{
		identity("twice", "tenant", "twice"): 2, identity("twice", "kb", "k"): 2, identity("twice", "kb", "fresh"): 0,
		identity("once", "tenant", "once"): 0, identity("once", "kb", "k"): 0,
	} {
		if o, err := s.Owner(t.Context(), id); err != nil || o.Former != want {
			t.Errorf("%v: %+v, %v", id, o, err)
		}
	}
}
