package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
)

// roles are whom a node's sessions work as. They are named after the owner of the
// tables, and so two installations on one server that have owners of their own do
// not share them.
type roles struct{ tenant, system string }

// RolesError says that the two roles are missing and that the login may not make
// them, or that they see more than they should. An administrator has to.
type RolesError struct {
	Login string // whom the address of the database names
	SQL   string // what to run; "" when that is not what is wrong
	cause error
}

// Error implements error. It prints what has to be run.
func (e *RolesError) Error() string {
	if e.SQL == "" {
		return "postgres: row-level security does not hold for the roles of " + e.Login + ": " + e.cause.Error()
	}
	return fmt.Sprintf("postgres: the login %s may not make the roles that keep tenants apart (%s); an administrator of the server has to run: %s",
		e.Login, e.cause, e.SQL)
}

// Unwrap gives what the server said.
func (e *RolesError) Unwrap() error { return e.cause }

const (
	codeNoPrivilege = "42501"
	codeDuplicate   = "42710"
	codeUnique      = "23505" // of two that make a role at once
	codeInternal    = "XX000" // of two that grant one at once
	// maxOwner leaves room in a name of 63 bytes.
	maxOwner = 55
	// rolesTries is how often what others do at the same time may get in the way.
	rolesTries = 5
)

// ensureRoles makes the roles and lets the login become them, where that is missing.
func ensureRoles(ctx context.Context, db *sql.DB) (as roles, err error) {
	var login, owner string
	err = db.QueryRowContext(ctx, `
		SELECT current_user, coalesce((SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass('owner')), current_user)`).
		Scan(&login, &owner)
	if err != nil {
		return as, fmt.Errorf("postgres: read the owner of the schema: %w", readError(ctx, err))
	}
	if len(owner) > maxOwner {
		owner = strings.ToValidUTF8(owner[:maxOwner], "")
	}
	as = roles{tenant: owner + "_tenant", system: owner + "_system"}
	for try := 1; ; try++ {
		var missing []string
		if missing, err = missingRoles(ctx, db, as, login); err != nil {
			return as, fmt.Errorf("postgres: read roles: %w", readError(ctx, err))
		}
		if len(missing) == 0 {
			return as, nil
		}
		for _, statement := range missing {
			if _, err = db.ExecContext(ctx, statement); err != nil {
				break
			}
		}
		switch sqlState(err) {
		case "":
			if err != nil {
				return as, fmt.Errorf("postgres: make roles: %w", readError(ctx, err))
			}
		case codeDuplicate, codeUnique, codeInternal: // another node is at it
		case codeNoPrivilege:
			return as, &RolesError{Login: login, SQL: strings.Join(missing, "; ") + ";", cause: err}
		default:
			return as, fmt.Errorf("postgres: make roles: %w", readError(ctx, err))
		}
		if try == rolesTries {
			return as, fmt.Errorf("%w: the roles %s and %s cannot be made: %w", journal.ErrUnavailable, as.tenant, as.system, err)
		}
	}
}

// missingRoles gives the statements that are still needed. From PostgreSQL 16 on to be a
// member of a role is not yet to be allowed to become it: who makes a role may give it,
// to themselves too, and has to.
func missingRoles(ctx context.Context, db *sql.DB, as roles, login string) (statements []string, err error) {
	var apart bool
	if err := db.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int >= 160000`).Scan(&apart); err != nil {
		return nil, err
	}
	become, with := "MEMBER", ""
	if apart {
		become, with = "SET", " WITH SET TRUE"
	}
	for _, role := range []string{as.tenant, as.system} {
		var exists, may bool
		err := db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = $1)`, role).Scan(&exists)
		if err == nil && exists {
			err = db.QueryRowContext(ctx, `SELECT pg_has_role($1::name, $2)`, role, become).Scan(&may)
		}
		if err != nil {
			return nil, err
		}
		name := pgx.Identifier{role}.Sanitize()
		if !exists {
			statements = append(statements, "CREATE ROLE "+name+" NOLOGIN")
		}
		if !may {
			statements = append(statements, "GRANT "+name+" TO "+pgx.Identifier{login}.Sanitize()+with)
		}
	}
	return statements, nil
}

// lacking counts tables that are not, or not wholly, given to the roles. A system
// policy that says "true" is of before the login was kept out.
const lacking = `
	WITH t AS (SELECT c.*, EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant' AND NOT a.attisdropped) AS of_tenants
		FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p'))
	SELECT count(*) FROM t WHERE NOT has_table_privilege($2, t.oid, 'DELETE') OR of_tenants AND NOT (
		t.relrowsecurity AND t.relforcerowsecurity AND has_table_privilege($1, t.oid, 'DELETE')
		AND 2 = (SELECT count(*) FROM pg_policy p JOIN pg_roles r ON p.polroles = ARRAY[r.oid] WHERE p.polrelid = t.oid AND pg_get_expr(p.polqual, p.polrelid) <> 'true'
			AND (p.polname, r.rolname) IN (('granary_tenant', $1), ('granary_system', $2))))`

// isolate puts the tables that are new behind row-level security.
func (m *migrator) isolate(ctx context.Context, as roles) error {
	var n int
	if err := m.db.QueryRowContext(ctx, lacking, as.tenant, as.system).Scan(&n); err != nil || n == 0 {
		return err
	}
	if _, err := m.db.ExecContext(ctx, `SELECT granary_isolate_v2($1, $2)`, as.tenant, as.system); err != nil {
		return err
	}
	m.log.Info("tables put behind row-level security", "tables", n, "role", as.tenant)
	return nil
}

// checkIsolation refuses to serve when the role of tenants sees more than a tenant's:
// somebody may have made it a superuser. Of a login that does it tells only: nodes do
// not work as it.
func (s *Store) checkIsolation(ctx context.Context) error {
	var holds, free bool
	var role, login string
	err := s.commits.of("").read(ctx, func(ctx context.Context, q querier) error {
		return q.QueryRow(ctx, `
			SELECT row_security_active('owner'), current_user, session_user,
				(SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = session_user)`).Scan(&holds, &role, &login, &free)
	})
	if err == nil && free {
		s.log.Warn("the database's login is a superuser or bypasses row-level security: who has its password sees all tenants' rows; "+
			"a login that owns nothing but the database is enough", "login", login)
	}
	if err == nil && !holds {
		err = &RolesError{Login: role, cause: errors.New("the role is a superuser or bypasses it")}
	}
	return err
}
