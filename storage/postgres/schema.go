package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/internal/schema"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewerSchema says that the schema has moved on beyond what this binary can
// work with: schema_floor names a version it does not know.
var ErrNewerSchema = errors.New("postgres: the database was migrated by a newer version of granary, which this one does not fit")

const (
	schemaTable = "schema_version"
	// migrationLock is the advisory lock under which one node migrates.
	migrationLock = 0x6772616e617279 // "granary"
	// A migration that waits for a table's lock makes everybody queue behind
	// it: it gives up before they do (lockTimeout) and tries again.
	migrationLockTimeout = lockTimeout / 2
	migrationPause       = lockTimeout / 2
	migrationTries       = 120
)

// migrate brings the schema forward to the version this binary knows: it runs what the
// schema lacks, whatever it has of later numbers. Nodes that start at once take turns. A
// database that is already further is left as it is: nodes of two versions run beside
// each other in a rolling upgrade. One that ran another migration of the same number is
// refused.
//
// The roles come first, so that where they cannot be made nothing changes. Tables
// are given to them last: until then one is out of everybody's reach.
func migrate(ctx context.Context, cfg Config, log *slog.Logger) (as roles, err error) {
	pc, err := cfg.parse()
	if err != nil {
		return as, err
	}
	limits(pc, migrationLockTimeout, 0)
	pc.ConnConfig.RuntimeParams["row_security"] = "off"                      // who would not see all rows fails
	pc.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "0" // between two statements of a migration
	db := stdlib.OpenDB(*pc.ConnConfig)
	defer func() { _ = db.Close() }() // nothing is left to lose
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return as, fmt.Errorf("postgres: read migrations: %w", err)
	}
	m := &migrator{db: db, files: files, log: log}
	if as, err = ensureRoles(ctx, db); err != nil {
		return as, err
	}
	if err := m.run(ctx); err != nil {
		return as, err
	}
	return as, m.patiently(ctx, "row-level security", func() error { return m.isolate(ctx, as) })
}

type migrator struct {
	db    *sql.DB
	files fs.FS
	log   *slog.Logger
}

func (m *migrator) run(ctx context.Context) error {
	p, err := goose.NewProvider(goose.DialectPostgres, m.db, m.files,
		goose.WithTableName(schemaTable), goose.WithAllowOutofOrder(true),
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("postgres: prepare migrations: %w", err)
	}
	known, err := schema.Read(m.files, p)
	if err != nil {
		return fmt.Errorf("postgres: prepare migrations: %w", err)
	}
	if whole, err := m.compare(ctx, known); err != nil || whole {
		return err
	}
	return m.alone(ctx, func() error {
		if err := m.up(ctx, p, known); err != nil {
			return err
		}
		whole, err := m.compare(ctx, known)
		if err == nil && !whole {
			err = errors.New("postgres: the schema lacks migrations that were just run")
		}
		return err
	})
}

// compare tells whether a schema has all that this binary knows, noted as it is here.
// Errors: ErrNewerSchema, [schema.ErrChanged].
func (m *migrator) compare(ctx context.Context, known schema.Migrations) (whole bool, err error) {
	state, err := m.state(ctx)
	if err != nil {
		return false, fmt.Errorf("postgres: read schema version: %w", readError(ctx, err))
	}
	if target := known.Target(); state.floor > target {
		return false, fmt.Errorf("%w: the schema needs version %d, this binary knows %d", ErrNewerSchema, state.floor, target)
	}
	if err := known.Check(state.noted); err != nil {
		return false, fmt.Errorf("postgres: %w", err)
	}
	lacking := known.Lacking(func(version int64) bool {
		_, noted := state.noted[version]
		return noted && state.ran[version]
	})
	return len(lacking) == 0, nil
}

// schemaState is what a database says of its schema.
type schemaState struct {
	floor int64
	ran   map[int64]bool
	noted map[int64]schema.Migration
}

func (m *migrator) state(ctx context.Context) (s schemaState, err error) {
	s.ran, s.noted = make(map[int64]bool), make(map[int64]schema.Migration)
	var versions, sums bool
	err = m.db.QueryRowContext(ctx, `
		SELECT to_regclass('`+schemaTable+`') IS NOT NULL AND to_regclass('schema_floor') IS NOT NULL, to_regclass('schema_sums') IS NOT NULL`).
		Scan(&versions, &sums)
	if err == nil && versions {
		err = m.db.QueryRowContext(ctx, `SELECT coalesce((SELECT version FROM schema_floor), 0)`).Scan(&s.floor)
	}
	if err == nil && versions {
		err = m.each(ctx, `SELECT version_id FROM `+schemaTable+` WHERE is_applied`, func(scan func(...any) error) error {
			var version int64
			err := scan(&version)
			s.ran[version] = true
			return err
		})
	}
	if err == nil && sums {
		err = m.each(ctx, `SELECT version, name, sum FROM schema_sums`, func(scan func(...any) error) error {
			var x schema.Migration
			err := scan(&x.Version, &x.Name, &x.Sum)
			s.noted[x.Version] = x
			return err
		})
	}
	return s, err
}

func (m *migrator) each(ctx context.Context, query string, row func(scan func(...any) error) error) error {
	rows, err := m.db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err below tells what matters
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// alone runs do while no other node migrates.
func (m *migrator) alone(ctx context.Context, do func() error) error {
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(migrationLock), lock.WithLockTimeout(1, 600))
	if err != nil {
		return fmt.Errorf("postgres: prepare migrations: %w", err)
	}
	conn, err := m.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("postgres: wait for other nodes' migrations: %w", readError(ctx, err))
	}
	defer func() { _ = conn.Close() }() // the lock goes with it
	if err := locker.SessionLock(ctx, conn); err != nil {
		return fmt.Errorf("postgres: wait for other nodes' migrations: %w", readError(ctx, err))
	}
	err = do()
	return errors.Join(err, locker.SessionUnlock(context.WithoutCancel(ctx), conn))
}

// up runs what is lacking, in order, and notes it. Each migration is a transaction of
// its own, so that trying again goes on where it stopped.
func (m *migrator) up(ctx context.Context, p *goose.Provider, known schema.Migrations) error {
	return m.patiently(ctx, fmt.Sprintf("migrate schema to version %d", known.Target()), func() error {
		applied, err := p.Up(ctx)
		for _, r := range applied {
			m.log.Info("schema migrated", "version", r.Source.Version, "took", r.Duration)
		}
		for _, x := range known {
			if err == nil {
				_, err = m.db.ExecContext(ctx, `INSERT INTO schema_sums (version, name, sum) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
					x.Version, x.Name, x.Sum)
			}
		}
		return err
	})
}

// patiently repeats what a table in use was in the way of.
func (m *migrator) patiently(ctx context.Context, what string, do func() error) error {
	for try := 1; ; try++ {
		err := do()
		switch {
		case err == nil:
			return nil
		case sqlState(err) != codeLockWait || try == migrationTries:
			if !errors.Is(err, journal.ErrUnavailable) {
				err = readError(ctx, err)
			}
			return fmt.Errorf("postgres: %s: %w", what, err)
		}
		m.log.Info("schema migration waits for a table in use", "try", try)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(migrationPause):
		}
	}
}
