package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/internal/codec"
)

// Config says where and how to keep the data.
type Config struct {
	// Dir is the data folder; made when it does not exist (mode 0700).
	Dir string
	// Logger is told of what an operator should know; nil discards.
	Logger *slog.Logger
	// Clock gives the time that expiry and collection go by; nil is time.Now.
	Clock func() time.Time
	// CollectEvery is how often leftovers are collected, besides at start; 0 is one hour.
	CollectEvery time.Duration
}

// Store implements journal.Store, journal.BlobStore and journal.ChunkStore in
// one folder of one process. Safe for concurrent use.
type Store struct {
	dir    string
	log    *slog.Logger
	now    func() time.Time
	lock   *os.File
	read   *reader
	writer *writer
	codec  *codec.Codec
	files  *blobFiles

	bootGen int64 // generations at or below it belong to an earlier run
	lastGen atomic.Int64

	collector context.CancelFunc
	collected chan struct{} // closed when the collector has ended
	closeOnce sync.Once
	closeErr  error
}

var (
	_ journal.Store        = (*Store)(nil)
	_ journal.BlobStore    = (*Store)(nil)
	_ journal.ChunkStore   = (*Store)(nil)
	_ journal.CounterStore = (*Store)(nil)
	_ journal.SealedStore  = (*Store)(nil)
	_ journal.AuditStore   = (*Store)(nil)
	_ journal.Directory    = (*Store)(nil)
)

// Open takes the folder for this process and brings its schema up to date.
// Errors: journal.ErrLocked when another process holds the folder,
// ErrNewerSchema when a newer version has written it, journal.ErrCorrupt when
// the database is not readable. Close the store when done.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Dir == "" {
		return nil, errors.New("embedded: no data folder given")
	}
	s := &Store{dir: cfg.Dir, log: cfg.Logger, now: cfg.Clock, collected: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.release())
	}
	every := cfg.CollectEvery
	if every <= 0 {
		every = time.Hour
	}
	s.writer.folder.start()
	s.writer.start()
	collectCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.collector = cancel
	go s.collectLoop(collectCtx, every)
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if err := privateDir(s.dir); err != nil {
		return err
	}
	var err error
	if s.lock, err = lockFolder(s.dir); err != nil {
		return err
	}
	if s.codec, err = codec.New(); err != nil {
		return err
	}
	if s.files, err = openBlobFiles(s.dir); err != nil {
		return err
	}
	path := filepath.Join(s.dir, "granary.db")
	if err := s.openWriter(ctx, path); err != nil {
		return err
	}
	s.read, err = newReader(path)
	return err
}

func (s *Store) openWriter(ctx context.Context, path string) error {
	db, err := openDB(path, true, 1)
	if err != nil {
		return err
	}
	s.writer = newWriter(path, db, s.log)
	if err := createDB(ctx, db, path); err != nil {
		return err
	}
	if err := migrate(ctx, db, s.log); err != nil {
		return err
	}
	var boot int64
	err = db.QueryRowContext(ctx, "UPDATE boot SET count = count + 1 RETURNING count").Scan(&boot)
	if err != nil {
		return fmt.Errorf("embedded: count start: %w", classify(err))
	}
	s.bootGen = boot << 32
	s.lastGen.Store(s.bootGen)
	s.writer.folder, err = newCheckpointer(path, s.log)
	return err
}

// newGen gives a number that no earlier write of this folder ever used.
func (s *Store) newGen() int64 { return s.lastGen.Add(1) }

// Close ends the transaction at work, refuses what still waits with
// ErrUnavailable, discards blobs not yet committed and gives the folder free.
// Idempotent.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.collector()
		<-s.collected
		s.writer.stop()
		s.writer.folder.stop()
		s.closeErr = s.release()
	})
	return s.closeErr
}

// release closes what open has opened, in reverse: the lock goes last, so that
// no other process can come in while files are still being closed.
func (s *Store) release() error {
	var errs []error
	if s.files != nil {
		s.files.abortAll()
	}
	if s.read != nil {
		errs = append(errs, s.read.close())
	}
	if s.writer != nil && s.writer.folder != nil {
		errs = append(errs, s.writer.folder.db.Close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.db.Close())
	}
	if s.codec != nil {
		s.codec.Close()
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("embedded: close: %w", err)
	}
	return nil
}

// Stats tells how well writes are grouped, since Open.
type Stats struct {
	Groups  int64 // transactions
	Ops     int64 // operations in them
	Largest int64 // most operations in one
}

// Stats reads the counters.
func (s *Store) Stats() Stats {
	w := s.writer
	return Stats{Groups: w.groups.Load(), Ops: w.ops.Load(), Largest: w.largest.Load()}
}

// write runs one operation of a tenant through the writer, in its turn; cost is about
// the bytes it writes.
func (s *Store) write(ctx context.Context, tenant string, cost int, run func(*txn) error) error {
	return s.writer.submit(ctx, tenant, cost, run)
}

// privateDir makes a folder that only our user can enter, or closes an existing one to others.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("embedded: make data folder: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("embedded: data folder: %w", err)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("embedded: close data folder to others: %w", err)
	}
	return nil
}

// micros and fromMicros: times are kept in microseconds, as PostgreSQL does.
func micros(t time.Time) int64 { return t.UnixMicro() }

func fromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }
