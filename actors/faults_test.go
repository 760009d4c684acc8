package actors_test

import (
	"context"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"granary.dev/granary/actors/journal"
)

// op is one call of a port, as a hook sees it.
type op struct {
	ctx   context.Context
	name  string
	grain journal.Identity
	batch journal.Batch // of Append
	text  string        // of Parse
}

// hook stands in the place of an operation: it may run it, fail, or both.
type hook func(o op, do func() error) error

// faults decides what becomes of each operation of a node's ports. The zero
// decision is that of the real store.
type faults struct {
	mu      sync.Mutex
	hooks   map[string]hook
	any     hook // of operations without one
	calls   map[string]int
	seen    map[string]bool // chunk hashes that were given vectors
	created []string        // ids of blobs that fetches made
	dead    bool
	fuse    int  // operations until it is dead, 0 = never
	late    bool // the last one takes effect, and nobody hears of it
}

func newFaults() *faults {
	return &faults{hooks: make(map[string]hook), calls: make(map[string]int), seen: make(map[string]bool)}
}

// on sets the hook of an operation; nil takes it away.
func (f *faults) on(name string, h hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hooks[name] = h
}

// die makes every later operation fail without effect.
func (f *faults) die() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
}

func (f *faults) count(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[name]
}

func (f *faults) hashes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.seen))
}

func (f *faults) run(o op, do func() error) error {
	f.mu.Lock()
	f.calls[o.name]++
	f.calls[o.name+"/"+o.grain.Kind]++
	h := f.hooks[o.name]
	if h == nil {
		h = f.any
	}
	burnt := o.name != "DueWakeups" && f.burn() // looks at the clock, not at the work
	f.mu.Unlock()
	if burnt {
		if f.late {
			_ = do()
		}
		return journal.ErrUnavailable
	}
	alive := func() error {
		f.mu.Lock()
		dead := f.dead
		f.mu.Unlock()
		if dead {
			return journal.ErrUnavailable
		}
		return do()
	}
	if h == nil {
		return alive()
	}
	return h(o, alive)
}

// dieAt makes the node die with its nth operation from now: before it took
// effect, or after.
func (f *faults) dieAt(n int, late bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fuse, f.late = n, late
}

// burn counts down to the end; true for the operation that is the last.
func (f *faults) burn() bool {
	if f.fuse == 0 {
		return false
	}
	f.fuse--
	f.dead = f.dead || f.fuse == 0
	return f.fuse == 0
}

// burntOut reports whether the node died of dieAt.
func (f *faults) burntOut() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// failOnce makes the next matching operation fail with err, before or after it
// took effect.
func (f *faults) failOnce(name string, match func(op) bool, err error, applied bool) {
	var once sync.Once
	f.on(name, func(o op, do func() error) error {
		out, mine := error(nil), false
		if match == nil || match(o) {
			once.Do(func() { mine = true })
		}
		if !mine {
			return do()
		}
		if applied {
			if out = do(); out != nil {
				return out
			}
		}
		return err
	})
}

// held is an operation that waits to be let go.
type held struct {
	entered chan struct{}
	let     chan error
}

// hold stops the next matching operation before it takes effect. One whose
// context ends meanwhile fails with it, as a well-behaved one does.
func (f *faults) hold(name string, match func(op) bool) *held {
	h := &held{entered: make(chan struct{}), let: make(chan error, 1)}
	var once sync.Once
	f.on(name, func(o op, do func() error) error {
		mine := false
		if match == nil || match(o) {
			once.Do(func() { mine = true })
		}
		if !mine {
			return do()
		}
		close(h.entered)
		select {
		case err := <-h.let:
			if err != nil {
				return err
			}
			return do()
		case <-o.ctx.Done():
			return o.ctx.Err()
		}
	})
	return h
}

// stubborn is hold for an operation that does not heed its context.
func (f *faults) stubborn(name string, match func(op) bool) *held {
	h := &held{entered: make(chan struct{}), let: make(chan error, 1)}
	var once sync.Once
	f.on(name, func(o op, do func() error) error {
		mine := false
		if match == nil || match(o) {
			once.Do(func() { mine = true })
		}
		if mine {
			close(h.entered)
			if err := <-h.let; err != nil {
				return err
			}
		}
		return do()
	})
	return h
}

// release lets it take effect; fail makes it fail without.
func (h *held) release()       { h.let <- nil }
func (h *held) fail(err error) { h.let <- err }

// ofKB matches operations of knowledge bases; carrying those whose batch has an
// event of this type.
func ofKB(o op) bool { return o.grain.Kind == "kb" }

func carrying(typ string) func(op) bool {
	return func(o op) bool {
		return ofKB(o) && slices.ContainsFunc(o.batch.Events, func(e journal.Event) bool { return e.Type == typ })
	}
}

// store is the journal with faults.
type store struct {
	journal.Store
	f *faults
}

func (s *store) Acquire(ctx context.Context, id journal.Identity, c journal.Claim) (fence journal.Fence, head int64, err error) {
	err = s.f.run(op{ctx: ctx, name: "Acquire", grain: id}, func() (e error) { fence, head, e = s.Store.Acquire(ctx, id, c); return e })
	return fence, head, err
}

func (s *store) Verify(ctx context.Context, fence journal.Fence) error {
	return s.f.run(op{ctx: ctx, name: "Verify", grain: fence.Identity}, func() error { return s.Store.Verify(ctx, fence) })
}

func (s *store) Release(ctx context.Context, fence journal.Fence) error {
	return s.f.run(op{ctx: ctx, name: "Release", grain: fence.Identity}, func() error { return s.Store.Release(ctx, fence) })
}

func (s *store) Owner(ctx context.Context, id journal.Identity) (o journal.Owner, err error) {
	err = s.f.run(op{ctx: ctx, name: "Owner", grain: id}, func() (e error) { o, e = s.Store.Owner(ctx, id); return e })
	return o, err
}

func (s *store) Append(ctx context.Context, fence journal.Fence, b journal.Batch) error {
	return s.f.run(op{ctx: ctx, name: "Append", grain: fence.Identity, batch: b}, func() error { return s.Store.Append(ctx, fence, b) })
}

func (s *store) Events(ctx context.Context, id journal.Identity, after int64, limit int) (out []journal.Event, err error) {
	err = s.f.run(op{ctx: ctx, name: "Events", grain: id}, func() (e error) { out, e = s.Store.Events(ctx, id, after, limit); return e })
	return out, err
}

func (s *store) FindIdempotency(ctx context.Context, fence journal.Fence, key journal.IdempotencyKey) (r journal.Idempotency, ok bool, err error) {
	err = s.f.run(op{ctx: ctx, name: "FindIdempotency", grain: fence.Identity},
		func() (e error) { r, ok, e = s.Store.FindIdempotency(ctx, fence, key); return e })
	return r, ok, err
}

func (s *store) SaveSnapshot(ctx context.Context, fence journal.Fence, snap journal.Snapshot) error {
	return s.f.run(op{ctx: ctx, name: "SaveSnapshot", grain: fence.Identity}, func() error { return s.Store.SaveSnapshot(ctx, fence, snap) })
}

func (s *store) LoadSnapshot(ctx context.Context, id journal.Identity) (snap journal.Snapshot, err error) {
	err = s.f.run(op{ctx: ctx, name: "LoadSnapshot", grain: id}, func() (e error) { snap, e = s.Store.LoadSnapshot(ctx, id); return e })
	return snap, err
}

func (s *store) SaveIndex(ctx context.Context, fence journal.Fence, data []byte) error {
	return s.f.run(op{ctx: ctx, name: "SaveIndex", grain: fence.Identity}, func() error { return s.Store.SaveIndex(ctx, fence, data) })
}

func (s *store) LoadIndex(ctx context.Context, id journal.Identity) (data []byte, err error) {
	err = s.f.run(op{ctx: ctx, name: "LoadIndex", grain: id}, func() (e error) { data, e = s.Store.LoadIndex(ctx, id); return e })
	return data, err
}

func (s *store) DueWakeups(ctx context.Context, now time.Time, limit int) (out []journal.DueWakeup, err error) {
	err = s.f.run(op{ctx: ctx, name: "DueWakeups"}, func() (e error) { out, e = s.Store.DueWakeups(ctx, now, limit); return e })
	return out, err
}

func (s *store) EndTenant(ctx context.Context, fence journal.Fence) error {
	return s.f.run(op{ctx: ctx, name: "EndTenant", grain: fence.Identity}, func() error { return s.Store.EndTenant(ctx, fence) })
}

func (s *store) Erase(ctx context.Context, fence journal.Fence) error {
	return s.f.run(op{ctx: ctx, name: "Erase", grain: fence.Identity}, func() error { return s.Store.Erase(ctx, fence) })
}

// blobs is the blob store with faults.
type blobs struct {
	journal.BlobStore
	f *faults
}

func (b *blobs) CreateBlob(ctx context.Context, tenant string) (w journal.BlobWriter, err error) {
	err = b.f.run(op{ctx: ctx, name: "CreateBlob"}, func() (e error) { w, e = b.BlobStore.CreateBlob(ctx, tenant); return e })
	if err != nil {
		return nil, err
	}
	return &blobWriter{w, b.f}, nil
}

type blobWriter struct {
	journal.BlobWriter
	f *faults
}

func (w *blobWriter) Commit(ctx context.Context) (info journal.BlobInfo, err error) {
	err = w.f.run(op{ctx: ctx, name: "CommitBlob"}, func() (e error) { info, e = w.BlobWriter.Commit(ctx); return e })
	if err == nil {
		w.f.mu.Lock()
		w.f.created = append(w.f.created, info.ID)
		w.f.mu.Unlock()
	}
	return info, err
}

func (b *blobs) OpenBlob(ctx context.Context, tenant, id string) (r io.ReadCloser, info journal.BlobInfo, err error) {
	err = b.f.run(op{ctx: ctx, name: "OpenBlob"}, func() (e error) { r, info, e = b.BlobStore.OpenBlob(ctx, tenant, id); return e })
	return r, info, err
}

func (b *blobs) DeleteBlob(ctx context.Context, tenant, id string) error {
	return b.f.run(op{ctx: ctx, name: "DeleteBlob"}, func() error { return b.BlobStore.DeleteBlob(ctx, tenant, id) })
}

func (b *blobs) ClaimedBlobs(ctx context.Context, id journal.Identity, after string, limit int) (out []string, err error) {
	err = b.f.run(op{ctx: ctx, name: "ClaimedBlobs", grain: id}, func() (e error) { out, e = b.BlobStore.ClaimedBlobs(ctx, id, after, limit); return e })
	return out, err
}
