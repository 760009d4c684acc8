package embedded

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"

	"granary.dev/granary/actors/journal"
)

const (
	// indexInline is the largest index kept in one row, in bytes.
	indexInline = 256 << 10
	// indexPart is the size of one part of a larger index, in bytes.
	indexPart = 1 << 20
)

// indexRow names what readers see of a grain's index.
type indexRow struct {
	gen    int64
	parts  int
	sum    uint32
	inline []byte
}

// SaveIndex implements journal.Store. A large index is written in parts under
// a new generation, each part under the fence; the row that names the
// generation changes last, so that readers see the old index or the new one.
// Of two saves at once the one that began later stays.
func (s *Store) SaveIndex(ctx context.Context, f journal.Fence, data []byte) error {
	return s.SaveIndexFrom(ctx, f, bytes.NewReader(data), int64(len(data)))
}

// SaveIndexFrom implements journal.SealedStore.
func (s *Store) SaveIndexFrom(ctx context.Context, f journal.Fence, r io.Reader, size int64) error {
	if err := checkIdentity(f.Identity); err != nil {
		return err
	}
	if size > indexInline {
		return s.saveParts(ctx, f, r, size)
	}
	row := indexRow{inline: make([]byte, size)}
	if _, err := io.ReadFull(r, row.inline); err != nil {
		return fmt.Errorf("embedded: read index to save: %w", err)
	}
	row.sum = s.codec.Sum(row.inline)
	var replaced int // parts of a larger one that must go
	err := s.write(ctx, f.Identity.Tenant, 256+int(size), func(t *txn) error {
		o, err := holder(t, f)
		if err != nil {
			return err
		}
		row.gen = s.newGen()
		if _, err := t.row(`SELECT parts FROM indexes WHERE tenant = ?1 AND kind = ?2 AND id = ?3`,
			[]any{f.Identity.Tenant, f.Identity.Kind, f.Identity.ID}, &replaced); err != nil {
			return err
		}
		return row.save(t, f, o.erasures)
	})
	if err == nil && replaced > 0 {
		s.purgeLogged(ctx, f.Identity, 0, row.gen)
	}
	return err
}

// saveParts takes its generation number inside the writer, so that numbers
// and erasures have one order: what an erasure purges is older than it.
func (s *Store) saveParts(ctx context.Context, f journal.Fence, r io.Reader, size int64) error {
	row := indexRow{inline: []byte{}}
	var began int64 // the grain's erasures at the first part
	part := make([]byte, indexPart)
	for ; size > 0; row.parts++ {
		part = part[:min(indexPart, size)]
		size -= int64(len(part))
		_, err := io.ReadFull(r, part)
		if err == nil {
			row.sum = s.codec.SumMore(row.sum, part)
			err = s.write(ctx, f.Identity.Tenant, indexPart, func(t *txn) error { return row.addPart(t, s, f, part, &began) })
		}
		if err != nil {
			s.purgeLogged(ctx, f.Identity, row.gen, row.gen+1)
			return err
		}
	}
	err := s.write(ctx, f.Identity.Tenant, 256, func(t *txn) error { return row.save(t, f, began) })
	switch {
	case err == nil:
		s.purgeLogged(ctx, f.Identity, 0, row.gen+1) // and its own parts, if a later save was faster
	case !errors.Is(err, journal.ErrInDoubt): // in doubt, the row may name the parts
		s.purgeLogged(ctx, f.Identity, row.gen, row.gen+1)
	}
	return err
}

// addPart writes one part under the fence; the first takes the generation.
func (r *indexRow) addPart(t *txn, s *Store, f journal.Fence, part []byte, began *int64) error {
	o, err := holder(t, f)
	if err != nil {
		return err
	}
	if r.parts == 0 {
		r.gen, *began = s.newGen(), o.erasures
	}
	return t.exec(`
		INSERT INTO index_parts (tenant, kind, id, gen, part, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6)`,
		f.Identity.Tenant, f.Identity.Kind, f.Identity.ID, r.gen, r.parts, part)
}

// save makes the index the grain's, under the fence. erasures is what the
// grain's count was when the save began: an index of before an erasure must
// not come back after it.
func (r *indexRow) save(t *txn, f journal.Fence, erasures int64) error {
	o, err := holder(t, f)
	if err != nil {
		return err
	}
	if o.erasures != erasures {
		return fmt.Errorf("%w: %s was erased while its index was being written", journal.ErrFenced, f.Identity)
	}
	return t.exec(`
		INSERT INTO indexes (tenant, kind, id, gen, parts, sum, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
		ON CONFLICT (tenant, kind, id) DO UPDATE SET
			gen = excluded.gen, parts = excluded.parts, sum = excluded.sum, data = excluded.data
		WHERE excluded.gen > indexes.gen`,
		f.Identity.Tenant, f.Identity.Kind, f.Identity.ID, r.gen, r.parts, int64(r.sum), r.inline)
}

// purgeLogged removes parts that nothing names. A failure loses nothing: the
// collection at the next start removes them.
func (s *Store) purgeLogged(ctx context.Context, id journal.Identity, from, below int64) {
	if err := s.purgeParts(context.WithoutCancel(ctx), id, from, below); err != nil {
		s.log.Warn("unused parts of an index remain until the next start", "grain", id.String(), "err", err)
	}
}

// purgeParts removes the grain's index parts of the generations from … below
// that the index row does not name, a few megabytes at a time.
func (s *Store) purgeParts(ctx context.Context, id journal.Identity, from, below int64) error {
	const step = 4
	for more := true; more; {
		err := s.write(ctx, id.Tenant, stepCost, func(t *txn) error {
			n, err := t.changed(`
				DELETE FROM index_parts WHERE rowid IN (
					SELECT p.rowid FROM index_parts p
					WHERE p.tenant = ?1 AND p.kind = ?2 AND p.id = ?3 AND p.gen >= ?4 AND p.gen < ?5
					  AND NOT EXISTS (SELECT 1 FROM indexes i WHERE i.tenant = ?1 AND i.kind = ?2
					                  AND i.id = ?3 AND i.gen = p.gen)
					LIMIT ?6)`,
				id.Tenant, id.Kind, id.ID, from, below, step)
			more = n == step
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// LoadIndex implements journal.Store. journal.ErrCorrupt when the stored bytes
// do not match their checksum: the index can be built again from the chunks.
func (s *Store) LoadIndex(ctx context.Context, id journal.Identity) ([]byte, error) {
	if err := checkIdentity(id); err != nil {
		return nil, err
	}
	row, err := s.readIndexRow(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.indexData(ctx, id, row)
}

// indexData reads what the row names. When that was replaced since the row
// was read, its parts are gone and the row has to be read again.
func (s *Store) indexData(ctx context.Context, id journal.Identity, row indexRow) ([]byte, error) {
	for {
		data, complete := row.inline, true
		if row.parts > 0 {
			var err error
			if data, complete, err = s.readParts(ctx, id, row); err != nil {
				return nil, err
			}
		}
		if complete {
			if s.codec.Sum(data) != row.sum {
				return nil, fmt.Errorf("%w: search index of %s", journal.ErrCorrupt, id)
			}
			return data, nil
		}
		next, err := s.readIndexRow(ctx, id)
		if err != nil {
			return nil, err
		}
		if next.gen == row.gen {
			return nil, fmt.Errorf("%w: search index of %s lacks parts", journal.ErrCorrupt, id)
		}
		row = next
	}
}

func (s *Store) readIndexRow(ctx context.Context, id journal.Identity) (indexRow, error) {
	var r indexRow
	err := s.read.row(ctx, `
		SELECT gen, parts, sum, data FROM indexes WHERE tenant = ?1 AND kind = ?2 AND id = ?3`,
		[]any{id.Tenant, id.Kind, id.ID}, &r.gen, &r.parts, &r.sum, &r.inline)
	if errors.Is(err, sql.ErrNoRows) {
		return r, fmt.Errorf("%w: search index of %s", journal.ErrNotFound, id)
	}
	return r, err
}

func (s *Store) readParts(ctx context.Context, id journal.Identity, r indexRow) ([]byte, bool, error) {
	data := make([]byte, 0, r.parts*indexPart)
	n := 0
	err := s.read.each(ctx, `
		SELECT data FROM index_parts
		WHERE tenant = ?1 AND kind = ?2 AND id = ?3 AND gen = ?4 ORDER BY part`,
		[]any{id.Tenant, id.Kind, id.ID, r.gen}, func(rows *sql.Rows) error {
			var part sql.RawBytes
			if err := rows.Scan(&part); err != nil {
				return classify(err)
			}
			data = append(data, part...)
			n++
			return nil
		})
	return data, n == r.parts, err
}
