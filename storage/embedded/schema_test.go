package embedded

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"granary.dev/granary/storage/internal/schema"
)

// migrateWith brings a folder to what this version with other files would.
func migrateWith(t *testing.T, dir string, files fs.FS) error {
	t.Helper()
	db, err := openDB(filepath.Join(dir, "granary.db"), true, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	return migrateTo(t.Context(), db, files, slog.New(slog.DiscardHandler))
}

// ownFiles are the migrations, and others beside or in place of them.
func ownFiles(t *testing.T, more map[string]string) fstest.MapFS {
	t.Helper()
	out := fstest.MapFS{}
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		data, err := fs.ReadFile(migrations, name)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(name)] = &fstest.MapFile{Data: data}
	}
	for name, sql := range more {
		out[name] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + sql)}
	}
	return out
}

// A4: a migration with a lower number than the folder has already is run; one that
// was changed after it ran is refused; a folder from before sums are noted is taken as it is.
func TestMigrationsAreASetNotANumber(t *testing.T) {
	dir := t.TempDir()
	if err := openAt(t, dir, nil).Close(); err != nil {
		t.Fatal(err)
	}
	late := map[string]string{"09000_late.sql": "CREATE TABLE late (x INTEGER);"}
	if err := migrateWith(t, dir, ownFiles(t, late)); err != nil {
		t.Fatal(err)
	}
	both := maps.Clone(late)
	both["08000_between.sql"] = "CREATE TABLE between_ (x INTEGER);"
	if err := migrateWith(t, dir, ownFiles(t, both)); err != nil {
		t.Fatal(err)
	}
	tamper(t, dir, `INSERT INTO between_ VALUES (1)`) // it is there
	if err := migrateWith(t, dir, ownFiles(t, late)); !errors.Is(err, ErrNewerSchema) || !strings.Contains(err.Error(), "8000") {
		t.Errorf("a folder with a migration in between that is not known: %v", err)
	}
	changed := maps.Clone(both)
	changed["08000_between.sql"] = "CREATE TABLE between_ (x INTEGER, y INTEGER);"
	err := migrateWith(t, dir, ownFiles(t, changed))
	if !errors.Is(err, schema.ErrChanged) || !strings.Contains(err.Error(), "08000_between.sql") {
		t.Errorf("a migration that was changed: %v", err)
	}
	tamper(t, dir, `DELETE FROM schema_sums WHERE version = 8000`) // as if it had run before there were sums
	if err := migrateWith(t, dir, ownFiles(t, changed)); err != nil {
		t.Errorf("without a sum: %v", err)
	}
	if err := migrateWith(t, dir, ownFiles(t, both)); !errors.Is(err, schema.ErrChanged) {
		t.Errorf("after it was noted: %v", err)
	}
}
