package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	"granary.dev/granary/actors/journal"
)

const (
	// blobGrace is how long a blob may stay unclaimed.
	blobGrace = 24 * time.Hour
	// collectRows bounds one step of the collection.
	collectRows = 256
)

// collectLoop collects at the start and then at every tick, until ctx ends.
func (s *Store) collectLoop(ctx context.Context, every time.Duration) {
	defer close(s.collected)
	if err := s.finishInterrupted(ctx); err != nil && ctx.Err() == nil {
		s.log.Error("leftovers of the last run remain", "err", err)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := s.Collect(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("collection failed", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Collect removes blobs that nothing claimed for a day, blob files without a
// row, and expired idempotency records, and gives free pages back. The store
// does so by itself at start and every hour.
func (s *Store) Collect(ctx context.Context) error {
	return errors.Join(
		s.collectBlobs(ctx),
		s.collectFiles(ctx),
		s.collectKeys(ctx),
		s.shrink(ctx),
	)
}

func (s *Store) collectBlobs(ctx context.Context) error {
	before := micros(s.now().Add(-blobGrace))
	total := 0
	for {
		var files []string
		n := 0
		err := s.write(ctx, "", stepCost, func(t *txn) error {
			files, n = nil, 0
			return t.each(`
				DELETE FROM blobs WHERE rowid IN (
					SELECT rowid FROM blobs WHERE owner_kind = '' AND created < ?1 LIMIT ?2)
				RETURNING id, data IS NULL`,
				[]any{before, collectRows}, func(rows *sql.Rows) error {
					var id string
					var inFile bool
					if err := rows.Scan(&id, &inFile); err != nil {
						return err
					}
					n++
					if inFile {
						files = append(files, id)
					}
					return nil
				})
		})
		if err != nil {
			return err
		}
		for _, id := range files {
			s.removeFile(id)
		}
		if total += n; n < collectRows {
			break
		}
	}
	if total > 0 {
		s.log.Info("unclaimed blobs collected", "count", total)
	}
	return nil
}

// collectFiles removes files that no row names and no writer is working on.
// A writer that has just ended has its row by then: the row is asked for last.
func (s *Store) collectFiles(ctx context.Context) error {
	return s.files.each(func(id, path string, published bool) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.files.writing(id) {
			return nil
		}
		if published {
			var one int
			err := s.read.row(ctx, `SELECT 1 FROM blobs WHERE id = ?1 AND data IS NULL`, []any{id}, &one)
			if err == nil {
				return nil
			}
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("embedded: remove stray file: %w", err)
		}
		s.log.Info("stray blob file removed", "blob", id)
		return nil
	})
}

func (s *Store) collectKeys(ctx context.Context) error {
	now := micros(s.now())
	return s.stepwise(ctx, func(t *txn) (int64, error) {
		return t.changed(`
			DELETE FROM idempotency WHERE (tenant, kind, id, principal, method, key) IN (
				SELECT tenant, kind, id, principal, method, key FROM idempotency WHERE expires <= ?1 LIMIT ?2)`,
			now, collectRows)
	})
}

// shrink gives pages back to the file system while more than a quarter of the
// file is free; less is left for reuse.
func (s *Store) shrink(ctx context.Context) error {
	return s.stepwise(ctx, func(t *txn) (int64, error) {
		var free, pages int64
		if _, err := t.row(`SELECT freelist_count, page_count FROM pragma_freelist_count, pragma_page_count`,
			nil, &free, &pages); err != nil {
			return 0, err
		}
		if free < 2*collectRows || free < pages/4 {
			return 0, nil
		}
		return collectRows, t.each(fmt.Sprintf(`PRAGMA incremental_vacuum(%d)`, collectRows), nil,
			func(*sql.Rows) error { return nil })
	})
}

// finishInterrupted completes what a crash has cut short: erasures, deletions
// and replacements of attempts, and parts of an index that no row names. It
// looks only at generations of earlier runs, which nobody writes any more.
func (s *Store) finishInterrupted(ctx context.Context) error {
	return errors.Join(s.finishErasures(ctx), s.finishAttempts(ctx), s.stepwise(ctx, func(t *txn) (int64, error) {
		n, err := t.changed(`
			DELETE FROM index_parts WHERE rowid IN (
				SELECT p.rowid FROM index_parts p
				LEFT JOIN indexes i ON i.tenant = p.tenant AND i.kind = p.kind AND i.id = p.id AND i.gen = p.gen
				WHERE i.gen IS NULL AND p.gen <= ?1 LIMIT 4)`, s.bootGen)
		return n * collectRows / 4, err
	}))
}

func (s *Store) finishErasures(ctx context.Context) error {
	var ids []journal.Identity
	err := s.read.each(ctx, `SELECT tenant, kind, id FROM owner WHERE purging = 1`, nil, func(rows *sql.Rows) error {
		var id journal.Identity
		err := rows.Scan(&id.Tenant, &id.Kind, &id.ID)
		ids = append(ids, id)
		return classify(err)
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := s.purgeGrain(ctx, id, s.bootGen); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) finishAttempts(ctx context.Context) error {
	type found struct {
		journal.Attempt
		gen, pending int64
	}
	var list []found
	err := s.read.each(ctx, `
		SELECT tenant, uid, attempt, gen, pending FROM attempts
		WHERE pending <> 0 AND abs(pending) <= ?1`, []any{s.bootGen}, func(rows *sql.Rows) error {
		var f found
		err := rows.Scan(&f.Tenant, &f.UID, &f.ID, &f.gen, &f.pending)
		list = append(list, f)
		return classify(err)
	})
	if err != nil {
		return err
	}
	for _, f := range list {
		_, err := s.purgeAttempt(ctx, f.Scope, f.ID, purge{below: s.bootGen, keep: f.gen, pending: f.pending})
		if err != nil {
			return err
		}
	}
	return nil
}

// stepwise repeats a bounded step until it removes less than its bound.
func (s *Store) stepwise(ctx context.Context, step func(*txn) (int64, error)) error {
	for n := int64(collectRows); n >= collectRows; {
		err := s.write(ctx, "", stepCost, func(t *txn) (err error) {
			n, err = step(t)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
