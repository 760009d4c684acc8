package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
)

var _ journal.ResealStore = (*Store)(nil)

// sealedTable is where values of a kind lie.
type sealedTable struct {
	key  []string // columns with their types
	at   []string // expressions
	data string   // expression of the bytes
	put  string   // what is set to $2
}

var sealedTables = map[string]sealedTable{
	journal.SealedEvents: {key: []string{"kind text", "id text", "seq bigint"}, at: []string{"kind", "id", "seq", "type"}, data: "data", put: "data = $2"},
	journal.SealedSnapshots: {key: []string{"kind text", "id text"}, at: []string{"kind", "id", "seq"}, data: "state",
		put: "state = $2, packed = false, state_sum = $3"},
	journal.SealedResponses: {key: []string{"kind text", "id text", "principal text", "method text", "key text"},
		at:   []string{"kind", "id", "principal", "method", "key", "(extract(epoch FROM expires) * 1000)::bigint"},
		data: "response", put: "response = $2"},
	journal.SealedDeadLetters: {key: []string{"kind text", "id text", "key text"}, at: []string{"kind", "id", "key"},
		data: "convert_to(name, 'UTF8')", put: "name = convert_from($2, 'UTF8')"},
	journal.SealedChunks:  {key: []string{"uid text", "attempt text", "ordinal bigint"}, at: []string{"uid", "attempt", "ordinal"}, data: "text", put: "text = $2"},
	journal.SealedVectors: {key: []string{"uid text", "hash text", "model text"}, at: []string{"uid", "model", "hash", "space"}, data: "data", put: "data = $2"},
}

// keyColumns gives the names, and the parameters from $n on, of a key.
func (t sealedTable) keyColumns(n int) (names, params string) {
	var ns, ps []string
	for i, k := range t.key {
		name, typ, _ := strings.Cut(k, " ")
		ns, ps = append(ns, name), append(ps, fmt.Sprintf("$%d::text::%s", n+i, typ))
	}
	return strings.Join(ns, ", "), strings.Join(ps, ", ")
}

func sealedTableOf(kind string, key []string, may bool) (sealedTable, error) {
	t, ok := sealedTables[kind]
	if !ok || len(key) != len(t.key) && (!may || key != nil) {
		return t, fmt.Errorf("%w: no kind of sealed rows: %q with a key of %d", ErrInvalid, kind, len(key))
	}
	return t, nil
}

func textArray(columns string) string {
	return "ARRAY[" + strings.ReplaceAll(columns, ", ", "::text, ") + "::text]"
}

func anys(list []string) (out []any) {
	for _, s := range list {
		out = append(out, s)
	}
	return out
}

// SealedRows implements journal.ResealStore.
func (s *Store) SealedRows(ctx context.Context, tenant, kind string, done []byte, after []string, limit int) ([]journal.SealedRow, error) {
	t, err := sealedTableOf(kind, after, true)
	if err != nil {
		return nil, err
	}
	names, params := t.keyColumns(4)
	where := ""
	if after != nil {
		where = " AND (" + names + ") > (" + params + ")"
	}
	return collect(ctx, s.bulk.of(tenant), `
		SELECT `+textArray(names)+`, `+textArray(strings.Join(t.at, ", "))+`, CASE WHEN substr(`+t.data+`, 3, 5) = $2 THEN NULL ELSE `+t.data+` END
		FROM `+kind+` WHERE tenant = $1`+where+` ORDER BY `+names+` LIMIT $3`,
		append([]any{tenant, done, limit}, anys(after)...), func(r pgx.CollectableRow) (row journal.SealedRow, err error) {
			return row, r.Scan(&row.Key, &row.At, &row.Data)
		})
}

// PutSealed implements journal.ResealStore.
func (s *Store) PutSealed(ctx context.Context, tenant, kind string, row journal.SealedRow, data []byte) (done bool, err error) {
	t, err := sealedTableOf(kind, row.Key, false)
	if err != nil {
		return false, err
	}
	args := []any{tenant, data}
	if kind == journal.SealedSnapshots {
		args = append(args, int64(s.codec.Sum(data)))
	}
	names, params := t.keyColumns(len(args) + 2)
	query := fmt.Sprintf("UPDATE %s SET %s WHERE tenant = $1 AND %s = $%d AND (%s) = (%s)", kind, t.put, t.data, len(args)+1, names, params)
	args = append(append(args, row.Data), anys(row.Key)...)
	err = s.bulk.of(tenant).write(ctx, func(ctx context.Context, q querier) error {
		tag, err := q.Exec(ctx, query, args...)
		done = tag.RowsAffected() == 1
		return err
	})
	return done, err
}

// SealedBlobs implements journal.ResealStore.
func (s *Store) SealedBlobs(ctx context.Context, tenant, after string, limit int) ([]journal.SealedBlob, error) {
	return collect(ctx, s.bulk.of(tenant), `
		SELECT b.id, b.note, substr(p.data, 1, $4) FROM blobs b JOIN blob_parts p ON p.tenant = b.tenant AND p.id = b.id AND p.part = 0
		WHERE b.tenant = $1 AND b.id > $2 AND b.ready AND NOT b.deleted AND b.note IS NOT NULL ORDER BY b.id LIMIT $3`,
		[]any{tenant, after, limit, journal.SealedHead}, func(r pgx.CollectableRow) (b journal.SealedBlob, err error) {
			return b, r.Scan(&b.ID, &b.Note, &b.Head)
		})
}

// errBlobChanged ends the transaction of a blob that is not what it was.
var errBlobChanged = errors.New("postgres: the blob is gone or another by now")

// PutSealedBlob implements journal.ResealStore. All parts change in one transaction.
func (s *Store) PutSealedBlob(ctx context.Context, tenant string, b journal.SealedBlob, r io.Reader, note []byte) (bool, error) {
	err := s.bulk.of(tenant).transact(ctx, func(ctx context.Context, tx querier) error {
		var parts int64
		err := tx.QueryRow(ctx, `UPDATE blobs SET note = $4 WHERE tenant = $1 AND id = $2 AND note = $3 AND ready AND NOT deleted RETURNING parts`,
			tenant, b.ID, b.Note, note).Scan(&parts)
		if isNoRows(err) {
			return errBlobChanged
		}
		part := make([]byte, blobPart)
		for n := int64(0); err == nil && n < parts; n++ {
			var got int
			if got, err = io.ReadFull(r, part); errors.Is(err, io.ErrUnexpectedEOF) && n == parts-1 {
				err = nil
			}
			if err != nil {
				break
			}
			tag, put := tx.Exec(ctx, `UPDATE blob_parts SET data = $4 WHERE tenant = $1 AND id = $2 AND part = $3 AND length(data) = $5`,
				tenant, b.ID, n, part[:got], got)
			if err = put; err == nil && tag.RowsAffected() != 1 {
				err = errBlobChanged
			}
		}
		return err
	})
	if errors.Is(err, errBlobChanged) {
		return false, nil
	}
	return err == nil, err
}

// SealedIndexes implements journal.ResealStore.
func (s *Store) SealedIndexes(ctx context.Context, tenant string, after []string, limit int) ([]journal.SealedRow, error) {
	if len(after) != 2 {
		after = []string{"", ""}
	}
	return collect(ctx, s.bulk.of(tenant), `
		SELECT ARRAY[i.kind, i.id], ARRAY[i.kind, i.id, i.gen::text], substr(coalesce(p.data, i.data), 1, $5) FROM indexes i
		LEFT JOIN index_parts p ON p.tenant = i.tenant AND p.kind = i.kind AND p.id = i.id AND p.gen = i.gen AND p.part = 0
		WHERE i.tenant = $1 AND (i.kind, i.id) > ($2, $3) ORDER BY i.kind, i.id LIMIT $4`,
		[]any{tenant, after[0], after[1], limit, journal.SealedHead}, func(r pgx.CollectableRow) (row journal.SealedRow, err error) {
			return row, r.Scan(&row.Key, &row.At, &row.Data)
		})
}

// DropIndex implements journal.ResealStore. Parts that nothing names any more go at once.
func (s *Store) DropIndex(ctx context.Context, tenant string, row journal.SealedRow) error {
	var gen int64
	err := s.bulk.of(tenant).write(ctx, func(ctx context.Context, q querier) error {
		err := q.QueryRow(ctx, `DELETE FROM indexes WHERE tenant = $1 AND kind = $2 AND id = $3 AND gen = $4::text::bigint RETURNING gen`,
			tenant, row.At[0], row.At[1], row.At[2]).Scan(&gen)
		if isNoRows(err) {
			return nil
		}
		return err
	})
	if err == nil && gen > 0 {
		s.purgeLogged(ctx, journal.Identity{Kind: row.At[0], Tenant: tenant, ID: row.At[1]}, gen, gen+1)
	}
	return err
}
