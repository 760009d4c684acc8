package trail

import (
	"context"
	"errors"
	"time"

	"granary.dev/granary/actors/journal"
)

// Export gives everything of a tenant's audit to emit, in the order of Item. With data,
// events carry what they say, which may name documents; without, its hash, which is
// enough to verify. What changes meanwhile is in it or not, and is no break.
func Export(ctx context.Context, s Store, keys PublicKeys, tenant string, data bool, emit func(Item) error) error {
	x := &exporter{ctx: ctx, store: s, tenant: tenant, data: data, emit: emit}
	public, err := keys.PEM()
	if err != nil {
		return err
	}
	head, err := s.CheckpointHead(ctx, tenant)
	if err != nil {
		return err
	}
	err = x.put(Item{Header: &Header{Format: Format, Tenant: tenant, Time: time.Now().UTC(), PublicKeys: string(public),
		Checkpoints: head.Seq, Hash: head.Hash}})
	if err != nil {
		return err
	}
	if err := x.checkpoints(); err != nil {
		return err
	}
	if err := eachOwner(ctx, s, tenant, x.journal); err != nil {
		return err
	}
	if err := eachStream(ctx, s, tenant, x.stream); err != nil {
		return err
	}
	return x.put(Item{End: &End{Items: x.items}})
}

type exporter struct {
	ctx    context.Context
	store  Store
	tenant string
	data   bool
	emit   func(Item) error
	items  int64
}

func (x *exporter) put(i Item) error {
	x.items++
	if i.End != nil {
		x.items--
	}
	return x.emit(i)
}

// checkpoints begins with the one from which on they are kept.
func (x *exporter) checkpoints() error {
	after := int64(0)
	last, ok, err := Last(x.ctx, x.store, x.tenant)
	if err != nil && !errors.Is(err, journal.ErrChain) {
		return err
	}
	if b, err := parseBody(last); ok && err == nil {
		after = max(b.Base-1, 0)
	}
	for {
		page, err := x.store.Checkpoints(x.ctx, x.tenant, after, pageLength)
		if err != nil {
			return err
		}
		for _, c := range page {
			if err := x.put(Item{Checkpoint: &Checkpoint{Number: c.Number, Body: c.Body, KeyID: c.KeyID, Signature: c.Signature}}); err != nil {
				return err
			}
			after = c.Number
		}
		if len(page) < pageLength {
			return nil
		}
	}
}

// journal exports one journal. The row is read before the events and again after them,
// so that what was added or erased meanwhile is told from what was taken away.
func (x *exporter) journal(listed journal.Owner) error {
	begin := exportJournal(listed)
	snap, err := x.store.LoadSnapshot(x.ctx, listed.Identity)
	switch {
	case err == nil:
		begin.Snapshot, begin.SnapshotHash = snap.Seq, snap.Hash
	case errors.Is(err, journal.ErrCorrupt):
		if err := x.put(Item{Unreadable: &Unreadable{Chain: journalChain(listed.Identity) + " (snapshot)", Seq: listed.Head}}); err != nil {
			return err
		}
	case !errors.Is(err, journal.ErrNotFound):
		return err
	}
	if err := x.put(Item{Journal: begin}); err != nil {
		return err
	}
	for after := listed.Erased; ; {
		page, err := x.store.Events(x.ctx, listed.Identity, after, pageLength)
		if errors.Is(err, journal.ErrCorrupt) {
			page, err = x.oneByOne(listed, after)
		}
		if err != nil {
			return err
		}
		for _, e := range page {
			if err := x.put(Item{Event: exportEvent(e, x.data)}); err != nil {
				return err
			}
			after = e.Seq
		}
		if len(page) == 0 {
			break
		}
	}
	now, err := x.store.Owner(x.ctx, listed.Identity)
	if errors.Is(err, journal.ErrNotFound) {
		now, err = listed, nil // taken away while we read: the next export misses it
	}
	if err != nil {
		return err
	}
	return x.put(Item{JournalEnd: exportJournal(now)})
}

// oneByOne reads a page with rows that do not open: it names them, and gives the next
// row that does.
func (x *exporter) oneByOne(o journal.Owner, after int64) ([]journal.Event, error) {
	for ; after < o.Head; after++ {
		page, err := x.store.Events(x.ctx, o.Identity, after, 1)
		if err == nil {
			return page, nil
		}
		if !errors.Is(err, journal.ErrCorrupt) {
			return nil, err
		}
		if err := x.put(Item{Unreadable: &Unreadable{Chain: journalChain(o.Identity), Seq: after + 1}}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (x *exporter) stream(h journal.StreamHead) error {
	if err := x.put(Item{Stream: &Stream{Stream: h.Stream, Seq: h.Seq, Hash: h.Hash}}); err != nil {
		return err
	}
	for after := int64(0); ; {
		page, err := x.store.StreamAccesses(x.ctx, x.tenant, h.Stream, after, pageLength)
		if err != nil {
			return err
		}
		for _, a := range page {
			if err := x.put(Item{Access: exportAccess(a)}); err != nil {
				return err
			}
			after = a.Seq
		}
		if len(page) < pageLength {
			return nil
		}
	}
}
