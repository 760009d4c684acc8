//go:build unix

package postgres

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/pgtest"
)

// Tables without a tenant, and what the role of tenants may do there.
var untenanted = map[string]string{
	"node_lease": "SELECT", "cluster_view": "SELECT", // who takes a grain over reads who may
	"cluster_secret": "", "schema_floor": "", "schema_version": "", "schema_sums": "",
}

// row is an INSERT for a row of a tenant, made from the catalogue: every column
// without a default gets a value of its type.
func insertRow(ctx context.Context, q querier, table, tenant string) (string, error) {
	rows, err := q.Query(ctx, `
		SELECT a.attname::text, a.atttypid::regtype::text FROM pg_attribute a
		WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped AND NOT a.atthasdef AND a.attnotnull`, table)
	if err != nil {
		return "", err
	}
	values := map[string]string{
		"text": "'x'", "bigint": "1", "integer": "1", "smallint": "1", "boolean": "false", "bytea": "'x'",
		"timestamp with time zone": "now() + interval '1 day'", "jsonb": "'{}'", "uuid": "gen_random_uuid()", "text[]": "'{}'", "double precision": "1",
	}
	var names, vals []string
	var name, typ string
	_, err = pgx.ForEachRow(rows, []any{&name, &typ}, func() error {
		value, ok := values[typ]
		if name == "tenant" {
			value, ok = "'"+tenant+"'", true
		}
		if !ok {
			return fmt.Errorf("a value of type %s for %s.%s is needed here", typ, table, name)
		}
		names, vals = append(names, name), append(vals, value)
		return nil
	})
	return "INSERT INTO " + table + " (" + strings.Join(names, ", ") + ") VALUES (" + strings.Join(vals, ", ") + ")", err
}

// tenantTables are the tables with a tenant, those that others refer to first.
func tenantTables(t *testing.T, q reader) (tables []string) {
	t.Helper()
	tables, err := collect(t.Context(), q, `
		SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant' AND NOT a.attisdropped
		WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
		ORDER BY (SELECT count(*) FROM pg_constraint f WHERE f.conrelid = c.oid AND f.contype = 'f'), c.relname`, nil, pgx.RowTo[string])
	check(t, err)
	if len(tables) < 13 {
		t.Fatalf("only %d tables: %v", len(tables), tables)
	}
	return tables
}

func runAs(ctx context.Context, p runner, sql string, args ...any) (n int64, err error) {
	err = p.write(ctx, func(ctx context.Context, q querier) error {
		tag, err := q.Exec(ctx, sql, args...)
		n = tag.RowsAffected()
		return err
	})
	return n, err
}

// B1, I13: whatever a statement says, the role of tenants reaches the named tenant's
// rows in every table there is, and none when none is named.
func TestB1_I13_NoStatementReachesAnotherTenantsRows(t *testing.T) {
	s := openAt(t, shared.Database(t))
	all := root(t, s.bulk)
	tables := tenantTables(t, all)
	mine, other, nobody := s.bulk.of("acme"), s.bulk.of("globex"), s.bulk.of("")
	insert := func(table, tenant string) (sql string) {
		check(t, all.read(t.Context(), func(ctx context.Context, q querier) (err error) {
			sql, err = insertRow(ctx, q, table, tenant)
			return err
		}))
		return sql
	}
	for _, table := range tables {
		if _, err := runAs(t.Context(), mine, insert(table, "acme")); err != nil {
			t.Errorf("%s: a tenant's own row: %v", table, err)
		}
	}
	for _, table := range tables {
		for who, p := range map[string]tenantPool{"another tenant": other, "nobody": nobody} {
			for name, sql := range map[string]string{
				"reads":           "SELECT count(*) FROM " + table,
				"updates":         "UPDATE " + table + " SET tenant = tenant",
				"deletes":         "DELETE FROM " + table,
				"deletes by name": "DELETE FROM " + table + " WHERE tenant = 'acme'",
				"takes":           "UPDATE " + table + " SET tenant = 'globex' WHERE tenant = 'acme'",
			} {
				n, err := runAs(t.Context(), p, sql)
				if strings.HasPrefix(sql, "SELECT") {
					err = rowOf(t.Context(), p, sql, nil, &n)
				}
				if err != nil || n != 0 {
					t.Errorf("%s %s %d rows of %s (%v)", who, name, n, table, err)
				}
			}
			if _, err := runAs(t.Context(), p, insert(table, "acme")+" ON CONFLICT DO NOTHING"); sqlState(err) != codeNoPrivilege {
				t.Errorf("%s inserts into %s under a foreign name: %v", who, table, err)
			}
		}
		if _, err := runAs(t.Context(), nobody, insert(table, "")); sqlState(err) != codeNoPrivilege {
			t.Errorf("nobody inserts into %s: %v", table, err)
		}
		if _, err := runAs(t.Context(), mine, "UPDATE "+table+" SET tenant = 'globex'"); err == nil {
			t.Errorf("a row of %s is given away", table)
		}
		var n int
		if check(t, rowOf(t.Context(), all, "SELECT count(*) FROM "+table+" WHERE tenant = 'acme'", nil, &n)); n != 1 {
			t.Errorf("%d rows of %s are left", n, table)
		}
		if _, err := runAs(t.Context(), mine, "TRUNCATE "+table); sqlState(err) != codeNoPrivilege {
			t.Errorf("the role of tenants truncates %s: %v", table, err)
		}
	}
	t.Logf("%d tables", len(tables))
}

// B1: the functions of migrations run as who calls them, and so see what that one sees.
func TestB1_FunctionsSeeTheCallersTenantOnly(t *testing.T) {
	s := openAt(t, shared.Database(t))
	v := startCluster(t, s, "a")
	f, _, err := s.Acquire(t.Context(), journal.Identity{Kind: "kb", Tenant: "acme", ID: "k"}, longPlaced(v, "a"))
	check(t, err)
	foreign := s.commits.of("globex")
	_, err = runAs(t.Context(), foreign, `SELECT granary_guard_v1($1, false, $2, $3, $4, $5, $6)`, 1, "acme", "kb", "k", f.Epoch, f.Activation)
	if !errors.Is(err, journal.ErrFenced) {
		t.Errorf("the fence of a foreign grain: %v", err)
	}
	_, err = runAs(t.Context(), foreign, `SELECT granary_acquire_v1($1, $2, $3, $4, $5, $6, $7, NULL, '3s')`,
		"acme", "kb", "k", "stolen", nodeID("a").String(), v.Version, v.Version)
	if sqlState(err) != codeNoPrivilege {
		t.Errorf("taking a foreign grain over: %v", err)
	}
	for _, call := range []string{
		fmt.Sprintf(`SELECT granary_swap_v1('a#1', %d, '{}', '{}', '{}', '{}', '')`, v.Version+1), `SELECT * FROM granary_renew_v1('b#1', '', 0, 0, '3s', 0, NULL)`,
	} {
		if _, err := runAs(t.Context(), foreign, call); sqlState(err) != codeNoPrivilege {
			t.Errorf("%s: %v", call, err)
		}
	}
	definers, err := collect(t.Context(), root(t, s.commits), `
		SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef`, nil, pgx.RowTo[string])
	if check(t, err); len(definers) > 0 {
		t.Errorf("functions that run as their owner: %v", definers)
	}
	check(t, s.Verify(t.Context(), f))
}

// B1: a setting ends with its statement, so that no connection carries a tenant on.
func TestB1_NoConnectionKeepsATenant(t *testing.T) {
	s := openAt(t, shared.Database(t))
	f := own(t, s)
	check(t, s.Append(t.Context(), f, journal.Batch{Events: testEvents(0, 3, "e")}))
	if list, err := s.Events(t.Context(), f.Identity, 0, 1); err != nil || len(list) != 1 {
		t.Fatalf("%d events, %v", len(list), err)
	}
	_, _ = s.DeleteAttempts(t.Context(), journal.Scope{Tenant: "acme", UID: "u"}, []string{"none"})
	for _, p := range []*pool{s.commits.pool, s.bulk.pool} {
		for _, c := range p.AcquireAllIdle(t.Context()) {
			var setting string
			var rows int
			err := c.QueryRow(t.Context(), `SELECT coalesce(current_setting('granary.tenant', true), ''), (SELECT count(*) FROM owner)`).Scan(&setting, &rows)
			c.Release()
			if err != nil || setting != "" || rows != 0 {
				t.Errorf("a connection of the pool: tenant %q, %d rows, %v", setting, rows, err)
			}
		}
	}
}

// B1, I13: a table of a later migration is behind row-level security at the start of
// its nodes, and before that out of reach.
func TestB1_I13_EveryTableHasItsPolicies(t *testing.T) {
	url := shared.Database(t)
	s := openAt(t, url)
	all := root(t, s.commits)
	bare := func() []string {
		list, err := collect(t.Context(), all, `
			SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant' AND NOT a.attisdropped
			WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT (c.relrowsecurity AND c.relforcerowsecurity
			  AND (SELECT array_agg(p.polname::text ORDER BY p.polname) = '{granary_system,granary_tenant}' FROM pg_policy p WHERE p.polrelid = c.oid))`,
			nil, pgx.RowTo[string])
		check(t, err)
		return list
	}
	if list := bare(); len(list) > 0 {
		t.Fatalf("tables without row-level security: %v", list)
	}
	free, err := collect(t.Context(), all, `
		SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
		  AND NOT EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant')`, nil, pgx.RowTo[string])
	if check(t, err); !slices.Equal(slices.Sorted(slices.Values(free)), slices.Sorted(maps.Keys(untenanted))) {
		t.Errorf("tables without a tenant: %v; one that is new needs a reason in untenanted", free)
	}
	for table, may := range untenanted {
		for _, privilege := range []string{"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"} {
			var has bool
			check(t, rowOf(t.Context(), all, `SELECT has_table_privilege('granary_tenant', $1, $2)`, []any{table, privilege}, &has))
			if has != (privilege == may) {
				t.Errorf("the role of tenants has %s on %s: %v", privilege, table, has)
			}
		}
	}
	_, err = runAs(t.Context(), all, `CREATE TABLE later (tenant text PRIMARY KEY, secret text NOT NULL)`)
	check(t, err)
	if list := bare(); !slices.Equal(list, []string{"later"}) {
		t.Errorf("a new table without policies is not noticed: %v", list)
	}
	if _, err := runAs(t.Context(), s.commits.of("acme"), `SELECT * FROM later`); sqlState(err) != codeNoPrivilege {
		t.Errorf("a new table before the next start: %v", err)
	}
	openAt(t, url)
	if list := bare(); len(list) > 0 {
		t.Errorf("after the next start: %v", list)
	}
	if n, err := runAs(t.Context(), s.commits.of("acme"), `INSERT INTO later VALUES ('acme', 's')`); n != 1 || err != nil {
		t.Errorf("a tenant's row in a new table: %v", err)
	}
}

// B1: sessions work as roles that own nothing. The login needs no more than to be allowed to make two roles; without that the
// start says what an administrator has to run, and has changed nothing.
func TestB1_StartWithoutTheRightToMakeRolesSaysWhatToRun(t *testing.T) {
	srv := ownServer(t, pgtest.Options{})
	do := func(database, statement string) {
		t.Helper()
		check(t, srv.Do(t.Context(), database, statement))
	}
	do("postgres", `CREATE ROLE app LOGIN PASSWORD 'app'`)
	do("postgres", `CREATE DATABASE kb OWNER app`)
	url := strings.Replace(srv.URL("kb"), "granary:"+srv.Password(), "app:app", 1)
	_, err := Open(t.Context(), Config{URL: Secret(url)})
	denied, ok := errors.AsType[*RolesError](err)
	if !ok || errors.Is(err, journal.ErrUnavailable) {
		t.Fatalf("got %v, want a RolesError", err)
	}
	told := err.Error()
	admin, err := pgx.Connect(t.Context(), srv.URL("postgres"))
	check(t, err)
	defer admin.Close(context.Background())
	var major int
	check(t, admin.QueryRow(t.Context(), `SELECT current_setting('server_version_num')::int / 10000`).Scan(&major))
	with := ""
	if major >= 16 {
		with = " WITH SET TRUE"
	}
	t.Logf("PostgreSQL %d", major)
	if want := fmt.Sprintf(`CREATE ROLE "app_tenant" NOLOGIN; GRANT "app_tenant" TO "app"%[1]s; CREATE ROLE "app_system" NOLOGIN; GRANT "app_system" TO "app"%[1]s;`, with); denied.SQL != want || !strings.Contains(told, want) {
		t.Fatalf("it says %q, want %q", told, want)
	}
	do("postgres", denied.SQL)
	s := openAt(t, url)
	f := own(t, s)
	check(t, s.Append(t.Context(), f, journal.Batch{Events: testEvents(0, 1, "e")}))
	for p, want := range map[*pool]string{s.commits.pool: "app_tenant", s.bulk.pool: "app_tenant", s.wide: "app_system", s.leases: "app_system"} {
		var role string
		check(t, rowOf(t.Context(), p, `SELECT current_user`, nil, &role))
		if role != want {
			t.Errorf("a session is %s, want %s", role, want)
		}
	}
	if major >= 16 { // a member that may not become the role
		do("postgres", `GRANT app_system TO app WITH SET FALSE`)
		if _, err := Open(t.Context(), Config{URL: Secret(url)}); !errors.As(err, &denied) || denied.SQL != `GRANT "app_system" TO "app" WITH SET TRUE;` {
			t.Errorf("a member that may not become the role: %v", err)
		}
		do("postgres", denied.SQL)
		openAt(t, url)
	}
	do("postgres", `ALTER ROLE app_tenant BYPASSRLS`)
	if _, err := Open(t.Context(), Config{URL: Secret(url)}); err == nil || !strings.Contains(err.Error(), "bypasses") {
		t.Errorf("with a role that sees everything: %v", err)
	}
	do("postgres", `ALTER ROLE app_tenant NOBYPASSRLS; ALTER ROLE app CREATEROLE`)
	do("postgres", `CREATE ROLE second LOGIN PASSWORD 'app' CREATEROLE`)
	do("postgres", `CREATE DATABASE other OWNER second`)
	openAt(t, strings.NewReplacer("app:app", "second:app", "/kb", "/other").Replace(url)) // may make roles: does
}

// B1: this is all there is that looks at more than one tenant.
func TestB1_WhatLooksAtSeveralTenantsIsListed(t *testing.T) {
	want := map[string][]string{
		"Ping": {"forHealth"}, "checkEncoding": {"forHealth"}, "Secret": {"forSecrets"}, "EmptySecret": {"forSecrets"},
		"DueWakeups": {"forWakeups"}, "DeadLetters": {"forDeadLetters"}, "Receipts": {"forReceipts"}, "Owners": {"forOwners"},
		"PutKeys": {"forKeys"}, "DestroyKeys": {"forKeys"}, "ListKeys": {"forKeys"}, "KeyChanges": {"forKeys"}, "HasContent": {"forKeys"},
		"PutAccesses": {"forAccesses"}, "AuditTenants": {"forAccesses"}, "audited": {"forAccesses"},
		"collectAhead": {"forCollection"}, "collectOn": {"forCollection"}, "finishErasures": {"forCollection"}, "purgeBlobs": {"forCollection"},
	}
	wide := []string{"Stats", "across", "open", "release", "shares"} // who may name the pool itself
	got := map[string][]string{}
	names, err := filepath.Glob("*.go")
	check(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		check(t, err)
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					if sel, ok := n.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "across" {
						if why := n.Args[0].(*ast.Ident).Name; !slices.Contains(got[fn.Name.Name], why) {
							got[fn.Name.Name] = append(got[fn.Name.Name], why)
						}
					}
				case *ast.SelectorExpr:
					if n.Sel.Name == "wide" && !slices.Contains(wide, fn.Name.Name) {
						t.Errorf("%s goes around across", fn.Name.Name)
					}
				}
				return true
			})
		}
	}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("functions that look at several tenants are\n%v\nand were to be\n%v", got, want)
	}
}

// B1, I13: who connects with the login's password, and becomes no other role, sees and
// changes no row of any tenant, although the login owns the tables and is a member of
// both roles. A database whose policies are of before is put right at the next start.
func TestB1_I13_TheLoginSeesNoTenantsRows(t *testing.T) {
	srv := ownServer(t, pgtest.Options{})
	check(t, srv.Do(t.Context(), "postgres", `CREATE ROLE app LOGIN PASSWORD 'app' CREATEROLE`), srv.Do(t.Context(), "postgres", `CREATE DATABASE kb OWNER app`))
	url := strings.Replace(srv.URL("kb"), "granary:"+srv.Password(), "app:app", 1)
	s := openAt(t, url)
	tables := tenantTables(t, s.wide)
	login, err := pgx.Connect(t.Context(), url)
	check(t, err)
	defer login.Close(context.Background())
	for _, table := range tables {
		sql, err := insertRow(t.Context(), login, table, "acme")
		check(t, err)
		_, err = runAs(t.Context(), s.wide, sql)
		check(t, err)
	}
	look := func(when string) {
		t.Helper()
		for _, table := range tables {
			var n int64
			if err := login.QueryRow(t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil || n != 0 {
				t.Errorf("%s: the login sees %d rows of %s (%v)", when, n, table, err)
			}
			for _, sql := range []string{"UPDATE " + table + " SET tenant = tenant", "DELETE FROM " + table} {
				if tag, err := login.Exec(t.Context(), sql); err != nil || tag.RowsAffected() != 0 {
					t.Errorf("%s: %s: %d rows, %v", when, sql, tag.RowsAffected(), err)
				}
			}
			sql, err := insertRow(t.Context(), login, table, "globex")
			check(t, err)
			if _, err := login.Exec(t.Context(), sql); sqlState(err) != codeNoPrivilege {
				t.Errorf("%s: the login inserts into %s: %v", when, table, err)
			}
		}
	}
	look("a new database")
	for _, table := range tables {
		check(t, srv.Do(t.Context(), "kb", `ALTER POLICY granary_system ON `+table+` TO app_system USING (true) WITH CHECK (true)`))
	}
	var n int
	if check(t, login.QueryRow(t.Context(), "SELECT count(*) FROM owner").Scan(&n)); n != 1 {
		t.Fatal("with the policies of before the login sees nothing either: the test shows nothing")
	}
	again := openAt(t, url)
	look("after the next start")
	if _, err := runAs(t.Context(), again.wide, "UPDATE owner SET tenant = tenant"); err != nil {
		t.Errorf("the system role: %v", err)
	}
	for _, table := range tables { // what nodes work as sees them still
		if check(t, rowOf(t.Context(), again.wide, "SELECT count(*) FROM "+table, nil, &n)); n != 1 {
			t.Errorf("%d rows of %s are left", n, table)
		}
	}
	// The session of migrations is told instead of finding no rows.
	if _, err := login.Exec(t.Context(), "SET row_security = off; SELECT count(*) FROM events"); sqlState(err) != codeNoPrivilege {
		t.Errorf("a migration that forgets whose rows it reads: %v", err)
	}
}
