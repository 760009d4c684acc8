package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"

	"modernc.org/sqlite"
)

const (
	// pageSize: vectors (1.5 KB at 384 dimensions) and chunks (1–4 KB of text)
	// fit several to a page; larger pages would make every small commit write more.
	pageSize = 8192
	// logLimit is what the log file is cut back to after a burst, in bytes.
	logLimit = 64 << 20
	// writerCache and readerCache are page caches per connection, in KiB. The
	// readers' are small: the kernel caches the file for all of them.
	writerCache = 64 << 10
	readerCache = 8 << 10
	// readers is the number of connections for reading; reads are short.
	readers = 8
	// busyMillis is how long SQLite waits for a lock of an outside tool.
	busyMillis = 5000
)

// dataSource builds the driver's address of the database file. Memory mapping
// stays off: a read error in a mapped page would kill the process instead of
// failing one read.
func dataSource(path string, writer bool) string {
	q := url.Values{}
	pragma := func(name string, value any) { q.Add("_pragma", fmt.Sprintf("%s(%v)", name, value)) }
	pragma("busy_timeout", busyMillis)
	pragma("temp_store", "MEMORY")
	pragma("mmap_size", 0)
	if writer {
		pragma("cache_size", -writerCache)
		pragma("synchronous", "FULL")
		pragma("wal_autocheckpoint", 0) // see checkpointer
		pragma("journal_size_limit", logLimit)
		pragma("secure_delete", "FAST") // zeroes what is deleted in pages that are written anyway
	} else {
		pragma("cache_size", -readerCache)
		pragma("query_only", 1)
	}
	u := url.URL{Path: path}
	return "file:" + u.EscapedPath() + "?" + q.Encode()
}

// openDB opens a pool of up to n connections.
func openDB(path string, writer bool, n int) (*sql.DB, error) {
	c, err := sqlite.NewConnector(dataSource(path, writer))
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// createDB makes the database file with our modes (SQLite's log files take
// after it) and sets what can only be set on an empty one.
func createDB(ctx context.Context, db *sql.DB, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("embedded: create database: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("embedded: create database: %w", err)
	}
	for _, pragma := range []string{
		fmt.Sprintf("PRAGMA page_size = %d", pageSize),
		"PRAGMA auto_vacuum = INCREMENTAL",
	} {
		if _, err := db.ExecContext(ctx, pragma); err != nil {
			return fmt.Errorf("embedded: %s: %w", pragma, classify(err))
		}
	}
	var mode string
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return fmt.Errorf("embedded: switch to write-ahead log: %w", classify(err))
	}
	if mode != "wal" {
		return fmt.Errorf("embedded: the file system does not allow a write-ahead log (journal mode %q)", mode)
	}
	return nil
}

// reader is the pool of read-only connections with its prepared statements.
// Reads see everything committed before they began and never wait for the writer.
type reader struct {
	db    *sql.DB
	mu    sync.Mutex
	stmts map[string]*sql.Stmt
}

func newReader(path string) (*reader, error) {
	db, err := openDB(path, false, readers)
	if err != nil {
		return nil, err
	}
	return &reader{db: db, stmts: map[string]*sql.Stmt{}}, nil
}

// prepared gives the cached statement; texts are constants, so the cache is bounded.
func (r *reader) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if st, ok := r.stmts[query]; ok {
		return st, nil
	}
	st, err := r.db.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	r.stmts[query] = st
	return st, nil
}

// row reads one row. It is found by key in microseconds, so the context is only
// asked before: a cancellable query would cost a goroutine. sql.ErrNoRows when none.
func (r *reader) row(ctx context.Context, query string, args []any, dest ...any) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	free := context.WithoutCancel(ctx)
	st, err := r.prepared(free, query)
	if err != nil {
		return classify(err)
	}
	err = st.QueryRowContext(free, args...).Scan(dest...)
	if err == nil || errors.Is(err, sql.ErrNoRows) {
		return err
	}
	return classify(err)
}

// each calls scan for every row of the answer.
func (r *reader) each(ctx context.Context, query string, args []any, scan func(*sql.Rows) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	st, err := r.prepared(context.WithoutCancel(ctx), query)
	if err != nil {
		return classify(err)
	}
	rows, err := st.QueryContext(ctx, args...)
	if err != nil {
		return classify(err)
	}
	defer func() { _ = rows.Close() }() // rows.Err below tells what matters
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return classify(rows.Err())
}

func (r *reader) close() error { return r.db.Close() }
