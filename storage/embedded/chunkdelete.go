package embedded

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"granary.dev/granary/actors/journal"
)

// deleteRows bounds what one step of a deletion removes.
const deleteRows = 128

// DeleteAttempts implements journal.ChunkStore. One commit makes the attempts
// invisible; their rows, and the vectors no chunk of the scope refers to any
// more, then go in bounded steps. What a crash leaves between is still listed
// by AttemptsOf and is collected at the next start.
func (s *Store) DeleteAttempts(ctx context.Context, sc journal.Scope, attempts []string) (int, error) {
	if err := checkScope(sc); err != nil {
		return 0, err
	}
	removed := 0
	for _, a := range attempts {
		n, err := s.deleteAttempt(ctx, sc, a, func(*txn) error { return nil })
		removed += n
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// deleteAttempt deletes one attempt if allowed says so when it begins.
func (s *Store) deleteAttempt(ctx context.Context, sc journal.Scope, attempt string, allowed func(*txn) error) (int, error) {
	p, known, err := s.hideAttempt(ctx, sc, attempt, allowed)
	if err != nil || !known {
		return 0, err
	}
	return s.purgeAttempt(context.WithoutCancel(ctx), sc, attempt, p)
}

// purge says which rows of an attempt go: generations below one, except one.
type purge struct {
	below   int64
	keep    int64 // 0: none
	counted int64 // the generation readers saw: its rows are what the caller counts
	pending int64 // what attempts.pending must still say at the end
}

// hideAttempt makes an attempt invisible and stops whoever is writing it.
func (s *Store) hideAttempt(ctx context.Context, sc journal.Scope, attempt string, allowed func(*txn) error) (purge, bool, error) {
	var p purge
	var known bool
	err := s.write(ctx, sc.Tenant, 256, func(t *txn) error {
		err := allowed(t)
		if err != nil {
			return err
		}
		known, err = t.row(`SELECT gen FROM attempts WHERE tenant = ?1 AND uid = ?2 AND attempt = ?3`,
			[]any{sc.Tenant, sc.UID, attempt}, &p.counted)
		if err != nil || !known {
			return err
		}
		p.below = s.newGen()
		p.pending = -p.below
		return t.exec(`
			UPDATE attempts SET gen = 0, pending = ?4 WHERE tenant = ?1 AND uid = ?2 AND attempt = ?3`,
			sc.Tenant, sc.UID, attempt, p.pending)
	})
	return p, known, err
}

// purgeAttempt removes rows no reader sees, step by step, and then the trace
// of the purge. Returns how many of them the caller counts.
func (s *Store) purgeAttempt(ctx context.Context, sc journal.Scope, attempt string, p purge) (int, error) {
	removed := 0
	for more := true; more; {
		err := s.write(ctx, sc.Tenant, stepCost, func(t *txn) error {
			rows, counted, err := deleteChunkStep(t, sc, attempt, p)
			if err != nil {
				return err
			}
			removed += counted
			if more = rows == deleteRows; more {
				return nil
			}
			return endPurge(t, sc, attempt, p)
		})
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

func endPurge(t *txn, sc journal.Scope, attempt string, p purge) error {
	args := []any{sc.Tenant, sc.UID, attempt, p.pending}
	err := t.exec(`
		DELETE FROM attempts
		WHERE tenant = ?1 AND uid = ?2 AND attempt = ?3 AND pending = ?4 AND gen = 0`, args...)
	if err != nil {
		return err
	}
	return t.exec(`
		UPDATE attempts SET pending = 0
		WHERE tenant = ?1 AND uid = ?2 AND attempt = ?3 AND pending = ?4`, args...)
}

func deleteChunkStep(t *txn, sc journal.Scope, attempt string, p purge) (rows, counted int, err error) {
	var ids []int64
	hashes := map[string]struct{}{}
	err = t.each(`
		SELECT row, gen, hash FROM chunks
		WHERE tenant = ?1 AND uid = ?2 AND attempt = ?3 AND gen < ?4 AND gen <> ?5 LIMIT ?6`,
		[]any{sc.Tenant, sc.UID, attempt, p.below, p.keep, deleteRows}, func(r *sql.Rows) error {
			var id, gen int64
			var hash string
			if err := r.Scan(&id, &gen, &hash); err != nil {
				return err
			}
			ids = append(ids, id)
			hashes[hash] = struct{}{}
			if gen == p.counted {
				counted++
			}
			return nil
		})
	if err != nil || len(ids) == 0 {
		return 0, 0, err
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return 0, 0, fmt.Errorf("embedded: encode rows: %w", err)
	}
	err = t.exec(`DELETE FROM chunks WHERE row IN (SELECT value FROM json_each(?1))`, string(list))
	if err != nil {
		return 0, 0, err
	}
	return len(ids), counted, deleteUnreferenced(t, sc, hashes)
}

// deleteUnreferenced removes the vectors of these hashes that no chunk of the
// scope refers to, under any model.
func deleteUnreferenced(t *txn, sc journal.Scope, hashes map[string]struct{}) error {
	for hash := range hashes {
		err := t.exec(`
			DELETE FROM vectors WHERE tenant = ?1 AND uid = ?2 AND hash = ?3
			  AND NOT EXISTS (SELECT 1 FROM chunks WHERE tenant = ?1 AND uid = ?2 AND hash = ?3)`,
			sc.Tenant, sc.UID, hash)
		if err != nil {
			return err
		}
	}
	return nil
}

// DeleteScope implements journal.ChunkStore: every attempt, and then the
// vectors that were written without a chunk.
func (s *Store) DeleteScope(ctx context.Context, sc journal.Scope) (chunks, vectors int, err error) {
	if err := checkScope(sc); err != nil {
		return 0, 0, err
	}
	// Vectors go first: they are the greater part, and no deletion of chunks
	// then needs to ask which of them are still referred to.
	for more := true; more; {
		err := s.write(ctx, sc.Tenant, stepCost, func(t *txn) error {
			n, err := t.changed(`
				DELETE FROM vectors WHERE row IN (
					SELECT row FROM vectors WHERE tenant = ?1 AND uid = ?2 LIMIT ?3)`,
				sc.Tenant, sc.UID, deleteRows)
			vectors += int(n)
			more = n == deleteRows
			return err
		})
		if err != nil {
			return 0, vectors, err
		}
	}
	attempts, err := s.AttemptsOf(ctx, sc)
	if err != nil {
		return 0, vectors, err
	}
	ids := make([]string, len(attempts))
	for i, a := range attempts {
		ids[i] = a.ID
	}
	chunks, err = s.DeleteAttempts(ctx, sc, ids)
	return chunks, vectors, err
}

// CountAttempts implements journal.ChunkStore.
func (s *Store) CountAttempts(ctx context.Context, sc journal.Scope, attempts []string) (chunks, vectors int, err error) {
	if err := checkScope(sc); err != nil {
		return 0, 0, err
	}
	query := `
		SELECT (SELECT count(*) FROM attempts a JOIN chunks c
		          ON c.tenant = a.tenant AND c.uid = a.uid AND c.attempt = a.attempt AND c.gen = a.gen
		        WHERE a.tenant = ?1 AND a.uid = ?2),
		       (SELECT count(*) FROM vectors WHERE tenant = ?1 AND uid = ?2)`
	args := []any{sc.Tenant, sc.UID}
	if attempts != nil {
		list, err := json.Marshal(attempts)
		if err != nil {
			return 0, 0, fmt.Errorf("embedded: encode attempts: %w", err)
		}
		args = append(args, string(list))
		query = `
		SELECT (SELECT count(*) FROM attempts a JOIN chunks c
		          ON c.tenant = a.tenant AND c.uid = a.uid AND c.attempt = a.attempt AND c.gen = a.gen
		        WHERE a.tenant = ?1 AND a.uid = ?2 AND a.attempt IN (SELECT value FROM json_each(?3))),
		       (SELECT count(*) FROM vectors v
		        WHERE v.tenant = ?1 AND v.uid = ?2
		          AND v.hash IN (SELECT hash FROM chunks WHERE tenant = ?1 AND uid = ?2 AND attempt IN (SELECT value FROM json_each(?3)))
		          AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.tenant = ?1 AND c.uid = ?2 AND c.hash = v.hash
		                            AND c.attempt NOT IN (SELECT value FROM json_each(?3))))`
	}
	err = s.read.row(ctx, query, args, &chunks, &vectors)
	return chunks, vectors, err
}
