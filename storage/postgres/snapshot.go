package postgres

import (
	"context"
	"fmt"

	"granary.dev/granary/actors/journal"
)

// holderRow is the owner row under its fence, locked until the transaction
// ends: whoever waited for it looks at it again.
const holderRow = `
	SELECT head, erased, erasures FROM owner
	WHERE tenant = $1 AND kind = $2 AND id = $3 AND epoch = $4 AND activation = $5 AND NOT released
	FOR UPDATE`

// fenceArgs are the parameters $1…$5 of every fenced statement.
func fenceArgs(f journal.Fence, more ...any) []any {
	return append([]any{f.Identity.Tenant, f.Identity.Kind, f.Identity.ID, f.Epoch, f.Activation}, more...)
}

const saveSnapshot = `WITH fenced AS (` + holderRow + `), put AS (
	INSERT INTO snapshots AS s (tenant, kind, id, seq, packed, state_sum, state, hash)
	SELECT $1, $2, $3, $6::bigint, $7::boolean, $8::bigint, $9::bytea, $10::bytea FROM fenced WHERE $6::bigint BETWEEN erased AND head
	ON CONFLICT (tenant, kind, id) DO UPDATE SET
		seq = excluded.seq, packed = excluded.packed, state_sum = excluded.state_sum, state = excluded.state, hash = excluded.hash
	WHERE excluded.seq >= s.seq)
	SELECT head FROM fenced`

// SaveSnapshot implements journal.Store. A snapshot of before an erasure is
// as old as any and is ignored; one beyond the head is refused.
func (s *Store) SaveSnapshot(ctx context.Context, f journal.Fence, snap journal.Snapshot) error {
	if err := checkIdentity(f.Identity); err != nil {
		return err
	}
	if snap.Seq < 0 {
		return fmt.Errorf("%w: snapshot at %d", ErrInvalid, snap.Seq)
	}
	state, packed := s.codec.Pack(snap.State)
	sum := int64(s.codec.Sum(snap.State))
	return s.commits.of(f.Identity.Tenant).write(ctx, func(ctx context.Context, q querier) error {
		return saveSnapshotOn(ctx, q, f, snap.Seq, packed, sum, blob(state), blob(snap.Hash))
	})
}

func saveSnapshotOn(ctx context.Context, q querier, f journal.Fence, seq int64, packed bool, sum int64, state, hash []byte) error {
	var head int64
	err := q.QueryRow(ctx, saveSnapshot, fenceArgs(f, seq, packed, sum, state, hash)...).Scan(&head)
	switch {
	case isNoRows(err):
		return fenced(f)
	case err == nil && seq > head:
		return fmt.Errorf("%w: snapshot at %d, head of %s is %d", ErrInvalid, seq, f.Identity, head)
	}
	return err
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
		sum    int64
		stored []byte
	)
	err := s.row(ctx, id.Tenant, `
		SELECT seq, packed, state_sum, state, hash FROM snapshots WHERE tenant = $1 AND kind = $2 AND id = $3`,
		[]any{id.Tenant, id.Kind, id.ID}, &snap.Seq, &packed, &sum, &stored, &snap.Hash)
	if isNoRows(err) {
		return journal.Snapshot{}, fmt.Errorf("%w: snapshot of %s", journal.ErrNotFound, id)
	}
	if err != nil {
		return journal.Snapshot{}, err
	}
	if snap.State, err = s.codec.Unpack(stored, packed, uint32(sum)); err != nil {
		return journal.Snapshot{}, fmt.Errorf("state of %s at %d: %w", id, snap.Seq, err)
	}
	return snap, nil
}
