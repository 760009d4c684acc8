package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"granary.dev/granary/actors/journal"
)

var _ journal.ResealStore = (*Store)(nil)

// sealedTable is where values of a kind lie.
type sealedTable struct {
	key  []string // columns
	at   []string // expressions
	data string   // expression of the bytes
	put  string   // what is set to ?2
}

var sealedTables = map[string]sealedTable{
	journal.SealedEvents: {key: []string{"kind", "id", "seq"}, at: []string{"kind", "id", "seq", "type"}, data: "data", put: "data = ?2"},
	journal.SealedSnapshots: {key: []string{"kind", "id"}, at: []string{"kind", "id", "seq"}, data: "state",
		put: "state = ?2, packed = 0, state_sum = ?3"},
	journal.SealedResponses: {key: []string{"kind", "id", "principal", "method", "key"},
		at: []string{"kind", "id", "principal", "method", "key", "expires / 1000"}, data: "response", put: "response = ?2"},
	journal.SealedDeadLetters: {key: []string{"kind", "id", "key"}, at: []string{"kind", "id", "key"},
		data: "CAST(name AS BLOB)", put: "name = CAST(?2 AS TEXT)"},
	journal.SealedChunks: {key: []string{"uid", "attempt", "gen", "ordinal"}, at: []string{"uid", "attempt", "ordinal"},
		data: "CAST(text AS BLOB)", put: "text = CAST(?2 AS TEXT)"},
	journal.SealedVectors: {key: []string{"uid", "hash", "model"}, at: []string{"uid", "model", "hash", "space"}, data: "data", put: "data = ?2"},
}

// numbers are the columns of keys that are no texts.
var numbers = map[string]bool{"seq": true, "gen": true, "ordinal": true}

// params gives the parameters of a key from ?n on.
func (t sealedTable) params(n int) string {
	var out []string
	for i, name := range t.key {
		p := fmt.Sprintf("?%d", n+i)
		if numbers[name] {
			p = "CAST(" + p + " AS INTEGER)"
		}
		out = append(out, p)
	}
	return strings.Join(out, ", ")
}

func sealedTableOf(kind string, key []string, may bool) (sealedTable, error) {
	t, ok := sealedTables[kind]
	if !ok || len(key) != len(t.key) && (!may || key != nil) {
		return t, fmt.Errorf("embedded: no kind of sealed rows: %q with a key of %d", kind, len(key))
	}
	return t, nil
}

func anys(list []string) (out []any) {
	for _, s := range list {
		out = append(out, s)
	}
	return out
}

// SealedRows implements journal.ResealStore.
func (s *Store) SealedRows(ctx context.Context, tenant, kind string, done []byte, after []string, limit int) (out []journal.SealedRow, err error) {
	t, err := sealedTableOf(kind, after, true)
	if err != nil {
		return nil, err
	}
	names, where := strings.Join(t.key, ", "), ""
	if after != nil {
		where = " AND (" + names + ") > (" + t.params(4) + ")"
	}
	query := `SELECT ` + names + `, ` + strings.Join(t.at, ", ") + `, CASE WHEN substr(` + t.data + `, 3, 5) = ?2 THEN NULL ELSE ` + t.data + ` END
		FROM ` + kind + ` WHERE tenant = ?1` + where + ` ORDER BY ` + names + ` LIMIT ?3`
	err = s.read.each(ctx, query, append([]any{tenant, done, limit}, anys(after)...), func(rows *sql.Rows) error {
		row := journal.SealedRow{Key: make([]string, len(t.key)), At: make([]string, len(t.at))}
		var dest []any
		for i := range row.Key {
			dest = append(dest, &row.Key[i])
		}
		for i := range row.At {
			dest = append(dest, &row.At[i])
		}
		err := rows.Scan(append(dest, &row.Data)...)
		out = append(out, row)
		return classify(err)
	})
	return out, err
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
	query := fmt.Sprintf("UPDATE %s SET %s WHERE tenant = ?1 AND %s = ?%d AND (%s) = (%s)", kind, t.put, t.data, len(args)+1,
		strings.Join(t.key, ", "), t.params(len(args)+2))
	args = append(append(args, row.Data), anys(row.Key)...)
	err = s.write(ctx, tenant, 256+len(data), func(tx *txn) error {
		n, err := tx.changed(query, args...)
		done = n == 1
		return err
	})
	return done, err
}

// SealedBlobs implements journal.ResealStore.
func (s *Store) SealedBlobs(ctx context.Context, tenant, after string, limit int) (out []journal.SealedBlob, err error) {
	var filed []bool
	err = s.read.each(ctx, `
		SELECT id, note, data IS NULL, substr(data, 1, ?4) FROM blobs WHERE tenant = ?1 AND id > ?2 AND note IS NOT NULL ORDER BY id LIMIT ?3`,
		[]any{tenant, after, limit, journal.SealedHead}, func(rows *sql.Rows) error {
			var b journal.SealedBlob
			var inFile bool
			err := rows.Scan(&b.ID, &b.Note, &inFile, &b.Head)
			out, filed = append(out, b), append(filed, inFile)
			return classify(err)
		})
	for i := range out {
		if err == nil && filed[i] {
			out[i].Head, err = s.fileHead(out[i].ID)
		}
	}
	return out, err
}

// fileHead gives the first bytes of a file, none of one that is gone.
func (s *Store) fileHead(id string) ([]byte, error) {
	f, err := s.files.open(id)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", journal.ErrUnavailable, err)
	}
	head := make([]byte, journal.SealedHead)
	n, err := io.ReadFull(f, head)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("%w: %w", journal.ErrUnavailable, err)
	}
	return head[:n], nil
}

// PutSealedBlob implements journal.ResealStore. A file takes the other's place; who has
// that open reads on. Of file and note either may be the new one after a crash.
func (s *Store) PutSealedBlob(ctx context.Context, tenant string, b journal.SealedBlob, r io.Reader, note []byte) (done bool, err error) {
	w := &blobWriter{s: s, tenant: tenant, id: b.ID}
	if !s.files.begin(w) {
		return false, errClosed()
	}
	defer w.Abort() // does nothing after the end
	if _, err := io.Copy(w, r); err != nil {
		return false, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var data []byte
	inFile := w.file != nil
	if !inFile {
		data = blob(w.small)
	} else if err := s.files.publish(w.file, b.ID); err != nil {
		return false, fmt.Errorf("%w: %w", journal.ErrUnavailable, err)
	}
	w.ended = true
	defer s.files.end(b.ID)
	gone := false
	err = s.write(ctx, tenant, 256+len(data), func(t *txn) error {
		n, err := t.changed(`UPDATE blobs SET note = ?4, data = ?5 WHERE tenant = ?1 AND id = ?2 AND note = ?3 AND (data IS NULL) = ?6`,
			tenant, b.ID, b.Note, note, data, inFile)
		if done = n == 1; err == nil && !done {
			var one int
			there, find := t.row(`SELECT 1 FROM blobs WHERE tenant = ?1 AND id = ?2`, []any{tenant, b.ID}, &one)
			gone, err = !there, find
		}
		return err
	})
	if err == nil && gone && inFile {
		s.removeFile(b.ID)
	}
	return done, err
}

// SealedIndexes implements journal.ResealStore.
func (s *Store) SealedIndexes(ctx context.Context, tenant string, after []string, limit int) (out []journal.SealedRow, err error) {
	if len(after) != 2 {
		after = []string{"", ""}
	}
	err = s.read.each(ctx, `
		SELECT i.kind, i.id, i.gen, substr(coalesce(p.data, i.data), 1, ?5) FROM indexes i
		LEFT JOIN index_parts p ON p.tenant = i.tenant AND p.kind = i.kind AND p.id = i.id AND p.gen = i.gen AND p.part = 0
		WHERE i.tenant = ?1 AND (i.kind, i.id) > (?2, ?3) ORDER BY i.kind, i.id LIMIT ?4`,
		[]any{tenant, after[0], after[1], limit, journal.SealedHead}, func(rows *sql.Rows) error {
			row := journal.SealedRow{Key: make([]string, 2), At: make([]string, 3)}
			err := rows.Scan(&row.Key[0], &row.Key[1], &row.At[2], &row.Data)
			copy(row.At, row.Key)
			out = append(out, row)
			return classify(err)
		})
	return out, err
}

// DropIndex implements journal.ResealStore. Parts that nothing names any more go at once.
func (s *Store) DropIndex(ctx context.Context, tenant string, row journal.SealedRow) error {
	var gen int64
	err := s.write(ctx, tenant, 256, func(t *txn) error {
		_, err := t.row(`DELETE FROM indexes WHERE tenant = ?1 AND kind = ?2 AND id = ?3 AND gen = CAST(?4 AS INTEGER) RETURNING gen`,
			[]any{tenant, row.At[0], row.At[1], row.At[2]}, &gen)
		return err
	})
	if err == nil && gen > 0 {
		s.purgeLogged(ctx, journal.Identity{Kind: row.At[0], Tenant: tenant, ID: row.At[1]}, gen, gen+1)
	}
	return err
}
