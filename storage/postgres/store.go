package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/storage/internal/codec"
)

// Store implements journal.Store, journal.BlobStore and journal.ChunkStore on
// one database, which any number of nodes share. Safe for concurrent use.
type Store struct {
	log     *slog.Logger
	commits tenantPools // appends, acquisitions, reads
	bulk    tenantPools // blobs, chunks, vectors, indexes, erasure
	wide    *pool       // what concerns several tenants, by across only
	leases  *pool       // renewals and the view: never behind anything else
	ttl     time.Duration
	view    atomic.Pointer[protocol.View] // the last one read, to decode each once
	codec   *codec.Codec
	append  [appendShapes]string // statements by what a batch carries

	outcomes  outcomes
	collector context.CancelFunc
	collected chan struct{} // closed when the collector has ended
	closeOnce sync.Once
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

// Open connects, brings the schema up to date and starts the collector.
// Errors: ErrInvalid when the address is not one, journal.ErrUnavailable when
// the database cannot be reached, ErrNewerSchema when this binary is too old
// for it. Close the store when done.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	log := cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	roles, err := migrate(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	s := &Store{log: log, collected: make(chan struct{}), append: appendStatements(),
		ttl: cmp.Or(cfg.LeaseTTL, protocol.DefaultTiming().TTL)}
	s.view.Store(&protocol.View{})
	if err := s.open(ctx, cfg, roles); err != nil {
		s.release()
		return nil, err
	}
	collectCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.collector = cancel
	every := cfg.CollectEvery
	if every <= 0 {
		every = time.Hour
	}
	go s.collectLoop(collectCtx, every)
	return s, nil
}

func (s *Store) open(ctx context.Context, cfg Config, as roles) error {
	var err error
	if s.codec, err = codec.New(); err != nil {
		return err
	}
	n := cfg.shares()
	if s.commits.pool, err = openPool(ctx, cfg, as.tenant, n.commits, lockTimeout, commitTimeout); err != nil {
		return err
	}
	if s.bulk.pool, err = openPool(ctx, cfg, as.tenant, n.bulk, bulkLock, bulkTimeout); err != nil {
		return err
	}
	if s.wide, err = openPool(ctx, cfg, as.system, n.wide, bulkLock, bulkTimeout); err != nil {
		return err
	}
	if s.leases, err = openPool(ctx, cfg, as.system, n.leases, leaseLock, leaseTimeout); err != nil {
		return err
	}
	s.leases.timeout, s.leases.patience = leaseCall, leaseCall
	return errors.Join(s.checkEncoding(ctx), s.checkIsolation(ctx))
}

// checkEncoding refuses a database whose text is not UTF-8: keys would not come
// back as they were.
func (s *Store) checkEncoding(ctx context.Context) error {
	var encoding string
	err := s.across(forHealth).read(ctx, func(ctx context.Context, q querier) error {
		return q.QueryRow(ctx, "SHOW server_encoding").Scan(&encoding)
	})
	if err == nil && encoding != "UTF8" {
		err = fmt.Errorf("%w: the database has encoding %s, need UTF8", ErrInvalid, encoding)
	}
	return err
}

// Ping tells whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	return s.across(forHealth).read(ctx, func(ctx context.Context, q querier) error {
		_, err := q.Exec(ctx, "SELECT 1")
		return err
	})
}

// Close ends the collector, waits for the operations under way (each is
// bounded by its time-out) and closes the connections. Later operations fail
// with journal.ErrUnavailable. Idempotent.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.collector()
		<-s.collected
		s.release()
	})
	return nil
}

func (s *Store) release() {
	for _, p := range []*pool{s.commits.pool, s.bulk.pool, s.wide, s.leases} {
		if p != nil {
			p.Close()
		}
	}
	if s.codec != nil {
		s.codec.Close()
	}
}

// outcomes counts how appends ended.
type outcomes struct{ ok, fenced, inDoubt, unavailable, refused atomic.Int64 }

func (o *outcomes) count(err error) {
	switch {
	case err == nil:
		o.ok.Add(1)
	case errors.Is(err, journal.ErrFenced):
		o.fenced.Add(1)
	case errors.Is(err, journal.ErrInDoubt):
		o.inDoubt.Add(1)
	case errors.Is(err, journal.ErrUnavailable):
		o.unavailable.Add(1)
	default:
		o.refused.Add(1)
	}
}

// Stats tells how the connections are used and how appends ended, since Open.
type Stats struct {
	Commits PoolStats // appends, acquisitions and reads
	Bulk    PoolStats // blobs, chunks, vectors, indexes, erasure
	Across  PoolStats // what concerns several tenants: due work, the audit, collection
	Leases  PoolStats // renewals, changes and reads of the view

	Appended    int64 // appends committed
	Fenced      int64 // appends of a stale holder
	InDoubt     int64 // appends whose answer got lost
	Unavailable int64 // appends that could not be tried
	Refused     int64 // appends that were malformed, or their caller gave up before
}

// Stats reads the counters.
func (s *Store) Stats() Stats {
	o := &s.outcomes
	return Stats{
		Commits: s.commits.pool.stats(), Bulk: s.bulk.pool.stats(), Across: s.wide.stats(), Leases: s.leases.stats(),
		Appended: o.ok.Load(), Fenced: o.fenced.Load(), InDoubt: o.inDoubt.Load(),
		Unavailable: o.unavailable.Load(), Refused: o.refused.Load(),
	}
}
