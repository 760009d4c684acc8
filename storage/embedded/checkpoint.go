package embedded

import (
	"context"
	"database/sql"
	"log/slog"
	"sync/atomic"
)

const (
	// checkpointEvery is after how many written bytes, roughly, the log is folded
	// back into the database file.
	checkpointEvery = 16 << 20
	// opPages is what an operation writes beside its own bytes: the pages of the
	// tables and indexes it touches.
	opPages = 4 * pageSize
	// logPages is how long the log is when the writer itself folds the rest of it
	// back, so that it begins anew: 16 MB.
	logPages = 2000
)

// checkpointer folds the write-ahead log back into the database file beside the
// writer: it takes tens of milliseconds, for which nobody's commit should wait. What
// comes meanwhile stays in the log, and while writes go on something always does; so
// the writer then folds back that small rest between two transactions, and the log
// begins anew. Without that it would grow for as long as writes go on.
type checkpointer struct {
	db   *sql.DB
	log  *slog.Logger
	due  chan struct{} // capacity 1
	rest atomic.Bool   // the log is long, and all but a rest is folded back
	quit chan struct{}
	done chan struct{}
}

func newCheckpointer(path string, log *slog.Logger) (*checkpointer, error) {
	db, err := openDB(path, true, 1)
	if err != nil {
		return nil, err
	}
	return &checkpointer{db: db, log: log, due: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}, nil
}

func (c *checkpointer) start() { go c.loop() }

// stop ends the loop after the checkpoint at work.
func (c *checkpointer) stop() {
	close(c.quit)
	<-c.done
}

func (c *checkpointer) ask() {
	select {
	case c.due <- struct{}{}:
	default:
	}
}

func (c *checkpointer) loop() {
	defer close(c.done)
	for {
		select {
		case <-c.quit:
			return
		case <-c.due:
		}
		pages, err := fold(c.db)
		if err != nil {
			// Nothing is lost, the log only grows; the next commits meet the same disk.
			c.log.Warn("the write-ahead log could not be folded back", "err", err)
			continue
		}
		c.rest.Store(pages >= logPages)
	}
}

// fold copies what it can of the log without keeping anybody waiting, and tells how
// long the log is, in pages.
func fold(db interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}) (pages int, err error) {
	var busy, copied int
	err = db.QueryRowContext(context.Background(), `PRAGMA wal_checkpoint(PASSIVE)`).Scan(&busy, &pages, &copied)
	return pages, classify(err)
}

// foldRest is the writer's part, between two transactions.
func (w *writer) foldRest(group []*op) {
	for _, o := range group {
		w.unfolded += o.cost + opPages
	}
	if w.unfolded >= checkpointEvery {
		w.unfolded = 0
		w.folder.ask()
	}
	if w.conn != nil && w.folder.rest.Swap(false) {
		if _, err := fold(w.conn); err != nil {
			w.log.Warn("the write-ahead log could not be folded back", "err", err)
		}
	}
}
