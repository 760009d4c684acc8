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
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewerSchema says that a newer version of Granary has written the folder.
// Going back is refused: old statements would misread new tables.
var ErrNewerSchema = errors.New("embedded: the data folder was written by a newer version of granary")

// migrate brings the schema forward to the version this binary knows.
func migrate(ctx context.Context, db *sql.DB, log *slog.Logger) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("embedded: read migrations: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files,
		goose.WithTableName("schema_version"),
		goose.WithDisableGlobalRegistry(true),
		goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("embedded: prepare migrations: %w", err)
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("embedded: read schema version: %w", classify(err))
	}
	if current > target {
		return fmt.Errorf("%w: schema version %d, this binary knows %d", ErrNewerSchema, current, target)
	}
	applied, err := p.Up(ctx)
	if err != nil {
		return fmt.Errorf("embedded: migrate schema from version %d to %d: %w", current, target, err)
	}
	for _, m := range applied {
		log.Info("schema migrated", "version", m.Source.Version, "took", m.Duration)
	}
	return nil
}
