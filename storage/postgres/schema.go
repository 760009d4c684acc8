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

// migrate brings the schema forward to the version this binary knows. Nodes
// that start at once take turns. A database that is already further is left as
// it is: nodes of two versions run beside each other in a rolling upgrade.
//
// The roles come first, so that where they cannot be made nothing changes. Tables
// are given to them last: until then one is out of everybody's reach.
func migrate(ctx context.Context, cfg Config, log *slog.Logger) (as roles, err error) {
	pc, err := cfg.parse()
	if err != nil {
		return as, err
	}
	limits(pc, migrationLockTimeout, 0)
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
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(migrationLock), lock.WithLockTimeout(1, 600))
	if err != nil {
		return fmt.Errorf("postgres: prepare migrations: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, m.db, m.files,
		goose.WithTableName(schemaTable), goose.WithSessionLocker(locker),
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("postgres: prepare migrations: %w", err)
	}
	sources := p.ListSources()
	target := sources[len(sources)-1].Version
	current, floor, err := m.versions(ctx)
	switch {
	case err != nil:
		return err
	case floor > target:
		return fmt.Errorf("%w: the schema needs version %d, this binary knows %d", ErrNewerSchema, floor, target)
	case current >= target:
		return nil
	}
	return m.up(ctx, p, current, target)
}

// versions reads the schema's version and the floor; 0 when there is none yet.
func (m *migrator) versions(ctx context.Context) (current, floor int64, err error) {
	var there bool
	err = m.db.QueryRowContext(ctx, `
		SELECT to_regclass('`+schemaTable+`') IS NOT NULL AND to_regclass('schema_floor') IS NOT NULL`).Scan(&there)
	if err == nil && there {
		err = m.db.QueryRowContext(ctx, `
			SELECT coalesce(max(version_id), 0), coalesce((SELECT version FROM schema_floor), 0)
			FROM `+schemaTable+` WHERE is_applied`).Scan(&current, &floor)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("postgres: read schema version: %w", readError(ctx, err))
	}
	return current, floor, nil
}

// up applies what is missing. Each migration is a transaction of its own, so
// that trying again goes on where it stopped.
func (m *migrator) up(ctx context.Context, p *goose.Provider, current, target int64) error {
	return m.patiently(ctx, fmt.Sprintf("migrate schema from version %d to %d", current, target), func() error {
		applied, err := p.Up(ctx)
		for _, r := range applied {
			m.log.Info("schema migrated", "version", r.Source.Version, "took", r.Duration)
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
