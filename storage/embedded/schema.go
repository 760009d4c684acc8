package embedded

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/pressly/goose/v3"

	"granary.dev/granary/storage/internal/schema"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewerSchema says that a newer version of Granary has written the folder.
// Going back is refused: old statements would misread new tables.
var ErrNewerSchema = errors.New("embedded: the data folder was written by a newer version of granary")

// migrate brings the schema forward to the version this binary knows: it runs what the
// schema lacks, whatever it has of later numbers. One process has the folder, so that
// nobody else migrates.
func migrate(ctx context.Context, db *sql.DB, log *slog.Logger) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("embedded: read migrations: %w", err)
	}
	return migrateTo(ctx, db, files, log)
}

func migrateTo(ctx context.Context, db *sql.DB, files fs.FS, log *slog.Logger) error {
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files,
		goose.WithTableName("schema_version"), goose.WithAllowOutofOrder(true),
		goose.WithDisableGlobalRegistry(true),
		goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("embedded: prepare migrations: %w", err)
	}
	known, err := schema.Read(files, p)
	if err != nil {
		return fmt.Errorf("embedded: prepare migrations: %w", err)
	}
	if err := compare(ctx, db, known); err != nil {
		return err
	}
	applied, err := p.Up(ctx)
	if err != nil {
		return fmt.Errorf("embedded: migrate schema to version %d: %w", known.Target(), err)
	}
	for _, m := range applied {
		log.Info("schema migrated", "version", m.Source.Version, "took", m.Duration)
	}
	for _, x := range known {
		_, err := db.ExecContext(ctx, `INSERT INTO schema_sums (version, name, sum) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING`,
			x.Version, x.Name, x.Sum)
		if err != nil {
			return fmt.Errorf("embedded: note migration %d: %w", x.Version, classify(err))
		}
	}
	return nil
}

// compare refuses a folder that has what this binary does not know, or knows otherwise.
func compare(ctx context.Context, db *sql.DB, known schema.Migrations) error {
	ran, noted := make(map[int64]bool), make(map[int64]schema.Migration)
	err := each(ctx, db, "schema_version", `SELECT version_id FROM schema_version WHERE is_applied AND version_id > 0`, func(scan func(...any) error) error {
		var version int64
		err := scan(&version)
		ran[version] = true
		return err
	})
	if err == nil {
		err = each(ctx, db, "schema_sums", `SELECT version, name, sum FROM schema_sums`, func(scan func(...any) error) error {
			var x schema.Migration
			err := scan(&x.Version, &x.Name, &x.Sum)
			noted[x.Version] = x
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("embedded: read schema version: %w", classify(err))
	}
	for _, x := range known {
		delete(ran, x.Version)
	}
	for version := range ran {
		return fmt.Errorf("%w: it has run schema migration %d, this binary knows up to %d", ErrNewerSchema, version, known.Target())
	}
	if err := known.Check(noted); err != nil {
		return fmt.Errorf("embedded: %w", err)
	}
	return nil
}

// each calls row for every row of a table that may not be there yet.
func each(ctx context.Context, db *sql.DB, table, query string, row func(scan func(...any) error) error) error {
	var n int
	err := db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1`, table).Scan(&n)
	if err != nil || n == 0 {
		return err
	}
	rows, err := db.QueryContext(ctx, query)
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
