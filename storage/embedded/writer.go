package embedded

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"granary.dev/granary/actors/journal"
)

const (
	// smallCost parts the two queues: an operation that writes more, in bytes,
	// waits in the bulk queue, where only one transaction's worth is taken at a time.
	smallCost = 64 << 10
	// groupOps and groupCost bound one transaction.
	groupOps  = 256
	groupCost = 4 << 20
	// bulkCost bounds what bulk operations add to one transaction, and with it
	// how long a small commit waits for them.
	bulkCost = 1 << 20
	// stepCost is what a step of a deletion counts for: one of them to a transaction.
	stepCost = bulkCost
	// smallQueue and bulkQueue bound what waits; submitters block when full.
	smallQueue = 1024
	bulkQueue  = 64
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
	run   func(*txn) error
	cost  int // bytes it writes, roughly
	state atomic.Int32
	done  chan error // capacity 1
	err   error      // the writer's own: result of run
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
	small    chan *op
	bulk     chan *op
	quit     chan struct{} // closed by stop
	done     chan struct{} // closed when the loop has ended
	stopOnce sync.Once
	groupOps int // 1 in the benchmark that compares

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
		small: make(chan *op, smallQueue), bulk: make(chan *op, bulkQueue),
		quit: make(chan struct{}), done: make(chan struct{}),
		groupOps: groupOps, stmts: map[string]*sql.Stmt{},
	}
}

// submit queues one operation and waits for its outcome. A context that ends
// before the writer took the operation yields its error and nothing is written.
func (w *writer) submit(ctx context.Context, cost int, run func(*txn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o := &op{run: run, cost: cost, done: make(chan error, 1)}
	queue := w.small
	if cost > smallCost {
		queue = w.bulk
	}
	select {
	case <-w.quit:
		return errClosed()
	default:
	}
	select {
	case queue <- o:
	case <-ctx.Done():
		return ctx.Err()
	case <-w.quit:
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

// collect waits for an operation and takes what else waits. nil means stop.
func (w *writer) collect() []*op {
	select {
	case <-w.quit:
		return nil
	default:
	}
	group := make([]*op, 0, 16)
	var first *op
	bulkTaken := 0
	select {
	case <-w.quit:
		return nil
	case first = <-w.small:
	case first = <-w.bulk:
		bulkTaken = first.cost
	}
	group = take(group, first)
	total := first.cost
	for len(group) < w.groupOps && total < groupCost {
		select {
		case o := <-w.small:
			group = take(group, o)
			total += o.cost
			continue
		default:
		}
		break
	}
	for len(group) < w.groupOps && bulkTaken < bulkCost {
		select {
		case o := <-w.bulk:
			group = take(group, o)
			bulkTaken += o.cost
			continue
		default:
		}
		break
	}
	return group
}

// take adds o unless its submitter gave up.
func take(group []*op, o *op) []*op {
	if o.state.CompareAndSwap(opWaiting, opTaken) {
		return append(group, o)
	}
	return group
}

// refuseRest answers what is still queued. Submitters that enqueue after it
// see w.done closed.
func (w *writer) refuseRest() {
	for {
		var o *op
		select {
		case o = <-w.small:
		case o = <-w.bulk:
		default:
			return
		}
		if o.state.CompareAndSwap(opWaiting, opTaken) {
			o.done <- errClosed()
		}
	}
}
