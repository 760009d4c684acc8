package embedded

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/crashpoint"
)

// commitGroup runs the operations in one transaction and answers each.
// An operation that fails is rolled back alone; the others commit. When the
// commit itself fails, no operation of the group can know its outcome.
func (w *writer) commitGroup(group []*op) {
	began := time.Now()
	committing, err := w.transact(group)
	w.queue.done(group, committing.Sub(began), time.Since(committing))
	w.groups.Add(1)
	w.ops.Add(int64(len(group)))
	w.largest.Store(max(w.largest.Load(), int64(len(group))))
	for _, o := range group {
		if err != nil {
			o.done <- err
		} else {
			o.done <- o.err
		}
	}
	w.foldRest(group)
}

// transact tells when the commit began. It returns an error only when it holds for
// the whole group.
func (w *writer) transact(group []*op) (committing time.Time, err error) {
	committing = time.Now()
	if err := w.ensureConn(); err != nil {
		return committing, err
	}
	t := &txn{w: w}
	if err := t.exec("BEGIN IMMEDIATE"); err != nil {
		w.log.Error("begin failed", "err", err)
		w.dropConn()
		return committing, err
	}
	wrote := false
	for _, o := range group {
		if err := t.runOp(o, len(group) == 1); err != nil {
			// SQLite gave up the whole transaction: nothing of it was written.
			w.log.Error("transaction lost", "operations", len(group), "err", err)
			w.dropConn()
			return committing, err
		}
		wrote = wrote || o.err == nil
	}
	committing = time.Now()
	if !wrote {
		if err := t.exec("ROLLBACK"); err != nil {
			w.dropConn()
		}
		return committing, nil
	}
	st, err := t.stmt("COMMIT")
	if err != nil { // COMMIT was never sent, so nothing was written
		w.dropConn()
		return committing, err
	}
	crashpoint.Here("commit")
	if _, err := st.ExecContext(context.Background()); err != nil {
		err = commitError(err)
		w.log.Error("commit failed", "operations", len(group), "err", err)
		w.dropConn()
		return committing, err
	}
	return committing, nil
}

// ensureConn opens the writing connection again after it was dropped, and
// proves that it can read the schema before anything is written through it.
func (w *writer) ensureConn() error {
	if w.conn != nil {
		return nil
	}
	ctx := context.Background()
	conn, err := w.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("%w: open the database: %w", journal.ErrUnavailable, err)
	}
	var version int64
	err = conn.QueryRowContext(ctx, "SELECT max(version_id) FROM schema_version").Scan(&version)
	if err != nil {
		_ = conn.Close() // already reporting why
		return classify(err)
	}
	w.conn = conn
	return nil
}

// dropConn closes the physical connection, which rolls back what was open in
// it. The next transaction opens a new one.
func (w *writer) dropConn() {
	if w.conn == nil {
		return
	}
	for _, st := range w.stmts {
		if err := st.Close(); err != nil {
			w.log.Debug("close statement", "err", err)
		}
	}
	clear(w.stmts)
	// ErrBadConn makes database/sql close the connection instead of pooling it.
	err := w.conn.Raw(func(any) error { return driver.ErrBadConn })
	if err != nil && !errors.Is(err, driver.ErrBadConn) {
		w.log.Debug("close connection", "err", err)
	}
	_ = w.conn.Close() // reports that the connection is already closed
	w.conn = nil
}

// txn is the open transaction as an operation sees it. Errors of the driver
// come out classified; what an operation returns itself passes unchanged.
type txn struct{ w *writer }

// runOp runs one operation. Its own error lands in o.err; the error returned
// means that the whole transaction is gone.
func (t *txn) runOp(o *op, alone bool) error {
	if alone { // the transaction itself is the savepoint
		o.err = o.run(t)
		return nil
	}
	if err := t.exec("SAVEPOINT op"); err != nil {
		return err
	}
	if o.err = o.run(t); o.err != nil {
		if err := t.exec("ROLLBACK TO op"); err != nil {
			return fmt.Errorf("%w (the transaction ended after: %w)", err, o.err)
		}
	}
	return t.exec("RELEASE op")
}

// stmt gives the cached prepared statement; query texts are constants.
func (t *txn) stmt(query string) (*sql.Stmt, error) {
	if st, ok := t.w.stmts[query]; ok {
		return st, nil
	}
	st, err := t.w.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, classify(err)
	}
	t.w.stmts[query] = st
	return st, nil
}

func (t *txn) exec(query string, args ...any) error {
	st, err := t.stmt(query)
	if err != nil {
		return err
	}
	_, err = st.ExecContext(context.Background(), args...)
	return classify(err)
}

// changed runs a statement and tells how many rows it changed.
func (t *txn) changed(query string, args ...any) (int64, error) {
	st, err := t.stmt(query)
	if err != nil {
		return 0, err
	}
	res, err := st.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, classify(err)
	}
	n, err := res.RowsAffected()
	return n, classify(err)
}

// row reads one row inside the transaction; found is false when there is none.
func (t *txn) row(query string, args []any, dest ...any) (found bool, err error) {
	st, err := t.stmt(query)
	if err != nil {
		return false, err
	}
	err = st.QueryRowContext(context.Background(), args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, classify(err)
}

// each reads all rows of a query that is bounded by its own LIMIT.
func (t *txn) each(query string, args []any, scan func(*sql.Rows) error) error {
	st, err := t.stmt(query)
	if err != nil {
		return err
	}
	rows, err := st.QueryContext(context.Background(), args...)
	if err != nil {
		return classify(err)
	}
	defer func() { _ = rows.Close() }() // rows.Err below tells what matters
	for rows.Next() {
		if err := scan(rows); err != nil {
			return classify(err)
		}
	}
	return classify(rows.Err())
}
