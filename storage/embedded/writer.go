package embedded

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"granary.dev/granary/actors/journal"
)

const (
	// smallCost parts small operations from bulk ones: of those that write more, in
	// bytes, only one transaction's worth is taken at a time.
	smallCost = 64 << 10
	// groupOps and groupCost bound one transaction.
	groupOps  = 256
	groupCost = 4 << 20
	// bulkCost bounds what bulk operations add to one transaction, and with it
	// how long a small commit waits for them.
	bulkCost = 1 << 20
	// stepCost is what a step of a deletion counts for: one of them to a transaction.
	stepCost = bulkCost
)

// States of an operation. Whoever moves it out of opWaiting decides its fate:
// the submitter (its context ended, nothing is written) or the writer (it runs
// to its end, whatever becomes of the context).
const (
	opWaiting int32 = iota
	opTaken
	opCancelled
)

// op is one unit of work for the writer: all of it or nothing.
type op struct {
	tenant string // who is charged; "" is the store itself
	run    func(*txn) error
	cost   int // bytes it writes, roughly
	state  atomic.Int32
	done   chan error // capacity 1
	err    error      // the writer's own: result of run
}

// writer owns the one connection that writes. It drains the operations that
// wait into one transaction, each inside a savepoint of its own, commits once
// (one fsync for all of them) and then answers all.
//
//	waiting ──take──▶ run in savepoint ──▶ COMMIT ──▶ answered
//	   └──context ended──▶ cancelled, nothing written
type writer struct {
	path     string
	log      *slog.Logger
	queue    *queue
	quit     chan struct{} // closed by stop
	done     chan struct{} // closed when the loop has ended
	stopOnce sync.Once
	groupOps int // 1 in the benchmark that compares

	folder   *checkpointer
	unfolded int // bytes written since the last checkpoint was asked for

	db    *sql.DB
	conn  *sql.Conn // nil after a failed commit, until it is opened again
	stmts map[string]*sql.Stmt

	groups  atomic.Int64
	ops     atomic.Int64
	largest atomic.Int64
}

func newWriter(path string, db *sql.DB, log *slog.Logger) *writer {
	return &writer{
		path: path, log: log, db: db,
		queue: newQueue(),
		quit:  make(chan struct{}), done: make(chan struct{}),
		groupOps: groupOps, stmts: map[string]*sql.Stmt{},
	}
}

// submit queues one operation and waits for its outcome. A context that ends
// before the writer took the operation yields its error and nothing is written.
func (w *writer) submit(ctx context.Context, tenant string, cost int, run func(*txn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o := &op{tenant: tenant, run: run, cost: cost, done: make(chan error, 1)}
	if !w.queue.put(o) {
		return errClosed()
	}
	return w.await(ctx, o)
}

func (w *writer) await(ctx context.Context, o *op) error {
	var gaveUp error
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		gaveUp = ctx.Err()
	case <-w.done:
		gaveUp = errClosed()
	}
	if o.state.CompareAndSwap(opWaiting, opCancelled) {
		return gaveUp
	}
	return <-o.done
}

func errClosed() error { return fmt.Errorf("%w: the store is closed", journal.ErrUnavailable) }

// start runs the loop until stop.
func (w *writer) start() { go w.loop() }

// stop ends the loop after the transaction at work; what still waits is
// answered with ErrUnavailable. Safe to call more than once.
func (w *writer) stop() {
	w.stopOnce.Do(func() { close(w.quit) })
	<-w.done
}

func (w *writer) loop() {
	defer close(w.done)
	defer w.dropConn()
	for {
		group := w.collect()
		if group == nil {
			w.refuseRest()
			return
		}
		if len(group) > 0 {
			w.commitGroup(group)
		}
	}
}

// collect waits for operations and takes those of one transaction; the group may
// be empty when their submitters gave up. nil means stop.
func (w *writer) collect() []*op {
	for {
		select {
		case <-w.quit:
			return nil
		default:
		}
		group, wait := w.queue.next(w.groupOps)
		if group != nil {
			return group
		}
		if !w.pause(wait) {
			return nil
		}
	}
}

// pause waits until an operation comes, and for no longer than wait unless it is 0;
// false means stop.
func (w *writer) pause(wait time.Duration) bool {
	var late <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-w.quit:
		return false
	case <-w.queue.filled:
	case <-late:
	}
	return true
}

// refuseRest answers what is still queued; nothing is queued any more then.
func (w *writer) refuseRest() {
	for _, o := range w.queue.close() {
		if o.state.CompareAndSwap(opWaiting, opTaken) {
			o.done <- errClosed()
		}
	}
}
