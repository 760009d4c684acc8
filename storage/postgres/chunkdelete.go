package postgres

import (
	"context"

	"granary.dev/granary/actors/journal"
)

// DeleteAttempts implements journal.ChunkStore. Each attempt goes in one
// transaction, with the vectors that no chunk of the scope refers to any more.
func (s *Store) DeleteAttempts(ctx context.Context, sc journal.Scope, attempts []string) (int, error) {
	if err := checkScope(sc); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	removed := 0
	for _, a := range attempts {
		n := 0
		err := s.bulk.of(sc.Tenant).transact(ctx, func(ctx context.Context, tx querier) error {
			return deleteAttemptOn(ctx, tx, sc, a, &n)
		})
		if err != nil {
			return removed, err
		}
		removed += n
	}
	return removed, nil
}

func deleteAttemptOn(ctx context.Context, tx querier, sc journal.Scope, attempt string, n *int) (err error) {
	if err := lockScope(ctx, tx, sc); err != nil {
		return err
	}
	*n, err = dropAttempt(ctx, tx, sc, attempt)
	return err
}

// dropAttempt removes an attempt under the scope's lock and tells how many
// chunks it had.
func dropAttempt(ctx context.Context, tx querier, sc journal.Scope, attempt string) (int, error) {
	_, err := tx.Exec(ctx, `DELETE FROM attempts WHERE tenant = $1 AND uid = $2 AND attempt = $3`, sc.Tenant, sc.UID, attempt)
	if err != nil {
		return 0, err
	}
	n, hashes, err := dropChunks(ctx, tx, sc, attempt)
	if err != nil {
		return 0, err
	}
	return n, dropVectors(ctx, tx, sc, hashes)
}

// lockScope takes the scope's lock alone, in a statement of its own: those after
// it see what was committed until then, and so all of the writers it waited for.
func lockScope(ctx context.Context, q querier, sc journal.Scope) error {
	_, err := q.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, scopeLock(sc))
	return err
}

// dropChunks removes an attempt's chunks and tells how many, and their hashes.
func dropChunks(ctx context.Context, tx querier, sc journal.Scope, attempt string) (n int, hashes []string, err error) {
	err = tx.QueryRow(ctx, `
		WITH gone AS (DELETE FROM chunks WHERE tenant = $1 AND uid = $2 AND attempt = $3 RETURNING hash)
		SELECT count(*), coalesce(array_agg(DISTINCT hash), '{}') FROM gone`,
		sc.Tenant, sc.UID, attempt).Scan(&n, &hashes)
	return n, hashes, err
}

// dropVectors removes the vectors of these hashes that no chunk of the scope
// refers to, under any model.
func dropVectors(ctx context.Context, tx querier, sc journal.Scope, hashes []string) error {
	if len(hashes) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `
		DELETE FROM vectors v WHERE v.tenant = $1 AND v.uid = $2 AND v.hash = ANY ($3::text[])
		  AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.tenant = $1 AND c.uid = $2 AND c.hash = v.hash)`,
		sc.Tenant, sc.UID, hashes)
	return err
}

// DeleteScope implements journal.ChunkStore: the vectors first, in steps, as
// no deletion of chunks then needs to ask which are still referred to.
func (s *Store) DeleteScope(ctx context.Context, sc journal.Scope) (chunks, vectors int, err error) {
	if err := checkScope(sc); err != nil {
		return 0, 0, err
	}
	for n := rowStep; n >= rowStep; {
		err := s.bulk.of(sc.Tenant).transact(ctx, func(ctx context.Context, tx querier) error {
			if err := lockScope(ctx, tx, sc); err != nil {
				return err
			}
			tag, err := tx.Exec(ctx, `
				DELETE FROM vectors WHERE ctid = ANY (ARRAY(
					SELECT ctid FROM vectors WHERE tenant = $1 AND uid = $2 LIMIT $3))`, sc.Tenant, sc.UID, rowStep)
			n = int(tag.RowsAffected())
			return err
		})
		if err != nil {
			return 0, vectors, err
		}
		vectors += n
	}
	attempts, err := s.AttemptsOf(ctx, sc)
	if err != nil {
		return 0, vectors, err
	}
	chunks, err = s.DeleteAttempts(ctx, sc, column(attempts, func(a *journal.Attempt) string { return a.ID }))
	return chunks, vectors, err
}

// CountAttempts implements journal.ChunkStore.
func (s *Store) CountAttempts(ctx context.Context, sc journal.Scope, attempts []string) (chunks, vectors int, err error) {
	if err := checkScope(sc); err != nil {
		return 0, 0, err
	}
	query := `
		SELECT (SELECT count(*) FROM chunks WHERE tenant = $1 AND uid = $2),
		       (SELECT count(*) FROM vectors WHERE tenant = $1 AND uid = $2)`
	args := []any{sc.Tenant, sc.UID}
	if attempts != nil {
		args = append(args, attempts)
		query = `
		SELECT (SELECT count(*) FROM chunks WHERE tenant = $1 AND uid = $2 AND attempt = ANY ($3::text[])),
		       (SELECT count(*) FROM vectors v
		        WHERE v.tenant = $1 AND v.uid = $2
		          AND v.hash IN (SELECT hash FROM chunks WHERE tenant = $1 AND uid = $2 AND attempt = ANY ($3::text[]))
		          AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.tenant = $1 AND c.uid = $2 AND c.hash = v.hash
		                            AND c.attempt <> ALL ($3::text[])))`
	}
	err = s.row(ctx, sc.Tenant, query, args, &chunks, &vectors)
	return chunks, vectors, err
}
