package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"granary.dev/granary/actors/journal"
)

// ownerRow is what an operation under a fence needs to know of the grain.
type ownerRow struct {
	head     int64
	erased   int64 // events up to here are erased
	erasures int64
}

// holder reads the owner row under the fence inside a transaction.
// For PostgreSQL: FOR UPDATE.
func holder(t *txn, f journal.Fence) (ownerRow, error) {
	var o ownerRow
	found, err := t.row(`
		SELECT head, erased, erasures FROM owner
		WHERE tenant = ?1 AND kind = ?2 AND id = ?3 AND epoch = ?4 AND activation = ?5 AND released = 0`,
		[]any{f.Identity.Tenant, f.Identity.Kind, f.Identity.ID, f.Epoch, f.Activation},
		&o.head, &o.erased, &o.erasures)
	if err == nil && !found {
		err = fenced(f)
	}
	return o, err
}

// SaveSnapshot implements journal.Store. A snapshot of before an erasure is
// as old as any and is ignored; one beyond the head is refused.
func (s *Store) SaveSnapshot(ctx context.Context, f journal.Fence, snap journal.Snapshot) error {
	if err := checkIdentity(f.Identity); err != nil {
		return err
	}
	state, packed := s.codec.Pack(snap.State)
	sum := int64(s.codec.Sum(snap.State))
	return s.write(ctx, f.Identity.Tenant, 256+len(state), func(t *txn) error {
		o, err := holder(t, f)
		switch {
		case err != nil:
			return err
		case snap.Seq > o.head || snap.Seq < 0:
			return fmt.Errorf("embedded: snapshot at %d, head of %s is %d", snap.Seq, f.Identity, o.head)
		case snap.Seq < o.erased:
			return nil
		}
		return t.exec(`
			INSERT INTO snapshots (tenant, kind, id, seq, packed, state_sum, state, hash)
			VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
			ON CONFLICT (tenant, kind, id) DO UPDATE SET
				seq = excluded.seq, packed = excluded.packed,
				state_sum = excluded.state_sum, state = excluded.state, hash = excluded.hash
			WHERE excluded.seq >= snapshots.seq`,
			f.Identity.Tenant, f.Identity.Kind, f.Identity.ID, snap.Seq, packed, sum, blob(state), blob(snap.Hash))
	})
}

// LoadSnapshot implements journal.Store. journal.ErrCorrupt when the stored
// bytes do not match their checksum: the holder can still replay all events.
func (s *Store) LoadSnapshot(ctx context.Context, id journal.Identity) (journal.Snapshot, error) {
	if err := checkIdentity(id); err != nil {
		return journal.Snapshot{}, err
	}
	var (
		snap   journal.Snapshot
		packed bool
		sum    uint32
		stored []byte
	)
	err := s.read.row(ctx, `
		SELECT seq, packed, state_sum, state, hash FROM snapshots
		WHERE tenant = ?1 AND kind = ?2 AND id = ?3`,
		[]any{id.Tenant, id.Kind, id.ID}, &snap.Seq, &packed, &sum, &stored, &snap.Hash)
	if errors.Is(err, sql.ErrNoRows) {
		return journal.Snapshot{}, fmt.Errorf("%w: snapshot of %s", journal.ErrNotFound, id)
	}
	if err != nil {
		return journal.Snapshot{}, err
	}
	if snap.State, err = s.codec.Unpack(stored, packed, sum); err != nil {
		return journal.Snapshot{}, fmt.Errorf("state of %s at %d: %w", id, snap.Seq, err)
	}
	return snap, nil
}
