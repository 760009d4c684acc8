//go:build unix

package embedded

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"granary.dev/granary/actors/journal"
)

func TestSecondOpenIsRefusedAndNamesTheHolder(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, dir, nil)
	_, err := Open(t.Context(), Config{Dir: dir})
	if !errors.Is(err, journal.ErrLocked) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) ||
		!strings.Contains(err.Error(), dir) {
		t.Fatalf("got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openAt(t, dir, nil)
}

func TestFolderIsClosedToOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "da?ta #1%")
	s := openAt(t, dir, nil)
	for _, n := range []int{10, 100_000} {
		putBlob(t, s, n)
	}
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		files++
		return nil
	})
	if err != nil || files < 8 {
		t.Fatalf("%d files, %v", files, err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openAt(t, dir, nil)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("an open folder stayed %v, %v", info.Mode(), err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, dir, nil)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tamper(t, dir, `INSERT INTO schema_version (version_id, is_applied) VALUES (9000, 1)`)
	_, err := Open(t.Context(), Config{Dir: dir})
	if !errors.Is(err, ErrNewerSchema) || !strings.Contains(err.Error(), "9000") {
		t.Fatalf("got %v", err)
	}
	tamper(t, dir, `DELETE FROM schema_version WHERE version_id = 9000`)
	openAt(t, dir, nil) // the refusal let go of the lock
}

func TestFileThatIsNoDatabaseIsCorrupt(t *testing.T) {
	dir := t.TempDir()
	junk := bytes.Repeat([]byte("not a database. "), 1000)
	if err := os.WriteFile(filepath.Join(dir, "granary.db"), junk, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Dir: dir}); !errors.Is(err, journal.ErrCorrupt) {
		t.Fatalf("got %v", err)
	}
}

func TestOpenIsSilentWithoutALogger(t *testing.T) {
	old := os.Stdout
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout = w
	s, err := Open(t.Context(), Config{Dir: t.TempDir()})
	os.Stdout = old
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), s.Close(), w.Close()); err != nil { // Close is idempotent
		t.Fatal(err)
	}
	if out, err := io.ReadAll(r); err != nil || len(out) > 0 {
		t.Fatalf("printed %q, %v", out, err)
	}
}

func TestClosedStoreIsUnavailable(t *testing.T) {
	s := openAt(t, t.TempDir(), nil)
	id := killGrain(0)
	f, _, err := s.Acquire(t.Context(), id, journal.Claim{Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.CreateBlob(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, acquired := s.Acquire(t.Context(), id, journal.Claim{Node: "n"})
	_, read := s.Events(t.Context(), id, 0, 1)
	_, created := s.CreateBlob(t.Context(), "acme")
	for what, err := range map[string]error{
		"acquire": acquired, "append": s.Append(t.Context(), f, journal.Batch{}), "events": read, "blob": created,
	} {
		if !errors.Is(err, journal.ErrUnavailable) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(s.dir, "tmp", "*")); err != nil || len(left) != 0 {
		t.Fatalf("temporary files remain: %v, %v", left, err)
	}
}

// TestI4_CloseAmongWritersLosesNothingAcknowledged closes while many write:
// each gets an answer, and what was answered OK is there afterwards.
func TestI4_CloseAmongWritersLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, dir, nil)
	const writers = 32
	heads := make([]int64, writers)
	errs := make([]error, writers)
	warm := make(chan struct{}, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			id := journal.Identity{Kind: "kb", Tenant: "acme", ID: fmt.Sprint(w)}
			f, _, err := s.Acquire(context.Background(), id, journal.Claim{Node: "n"})
			for err == nil {
				err = s.Append(context.Background(), f, journal.Batch{
					Head: heads[w], Events: []journal.Event{{Seq: heads[w] + 1, Type: "t"}},
				})
				if err == nil {
					heads[w]++
				}
				select {
				case warm <- struct{}{}:
				default:
				}
			}
			errs[w] = err
		})
	}
	for range writers {
		<-warm
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	s = openAt(t, dir, nil)
	for w, head := range heads {
		if !errors.Is(errs[w], journal.ErrUnavailable) {
			t.Fatalf("writer %d ended with %v", w, errs[w])
		}
		list, err := s.Events(t.Context(), journal.Identity{Kind: "kb", Tenant: "acme", ID: fmt.Sprint(w)}, 0, 1<<30)
		if err != nil || int64(len(list)) != head {
			t.Fatalf("writer %d: %d events, %d acknowledged, %v", w, len(list), head, err)
		}
	}
}

// tamper changes a closed folder's database behind the store's back.
func tamper(t testing.TB, dir, query string, args ...any) {
	t.Helper()
	db, err := openDB(filepath.Join(dir, "granary.db"), true, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(query, args...)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// count reads one number straight from the tables.
func count(t testing.TB, s *Store, query string, args ...any) int {
	t.Helper()
	var n int
	err := s.read.each(t.Context(), query, args, func(r *sql.Rows) error { return r.Scan(&n) })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func putBlob(t testing.TB, s *Store, n int) journal.BlobInfo {
	t.Helper()
	w, err := s.CreateBlob(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	info, err := w.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestMigrationsReportThroughTheLogger(t *testing.T) {
	var log bytes.Buffer
	s, err := Open(t.Context(), Config{Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil || strings.Count(log.String(), "schema migrated") != len(files) {
		t.Fatalf("log is %q", log.String())
	}
}
