package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"granary.dev/granary/actors/journal"
)

const (
	// Engineering choices, all of them: what a burst of a full node needs, with room.
	queueLength = 8192
	groupLength = 1024

	// reserveBytes is room kept for the calls under way: some ten thousand records.
	reserveBytes = segmentBytes / 2

	maxChains     = 1 << 16          // tenants whose place in the stream is kept in memory
	maxFieldBytes = 1 << 10          // of one field of a record
	recordTime    = 10 * time.Second // a disk that takes longer has failed
	retryTime     = time.Second      // between two tries after a failed write

	// DefaultMaxBytes bounds what waits for the store on this machine's disk: some two
	// million records.
	DefaultMaxBytes = 1 << 30
	// MinMaxBytes is the least bound that means anything.
	MinMaxBytes = 2 * segmentBytes

	// Records of callers that nobody knows: so many a second, and so many at once.
	strangersPerSecond = 20
	strangersBurst     = 200
	summaryEvery       = 10 * time.Second
)

// ErrUnavailable says that a record could not be made durable.
var ErrUnavailable = errors.New("audit: the log cannot be written")

var errClosed = fmt.Errorf("%w: it is closed", ErrUnavailable)

// Config says where the log is and where it goes.
type Config struct {
	Dir    string // folder of the segments, made when it does not exist
	Node   string // name of this node; streams are named by it
	Store  journal.AuditStore
	Logger *slog.Logger // nil discards
	// MaxBytes bounds what is on disk and not in the store yet; beyond it the log is not
	// Ready, and takes the records of calls under way only, up to half a segment more.
	// 0 is DefaultMaxBytes.
	MaxBytes int64
	// Renew is how long one stream lasts; then its tenant goes on in another, so that a
	// stream of which everything is retired is over. 0: as long as the process.
	Renew time.Duration
}

// Log is the audit of one node. Safe for concurrent use.
type Log struct {
	cfg   Config
	log   *slog.Logger
	disk  disk
	lock  io.Closer // nil in tests that bring a disk of their own
	now   func() time.Time
	queue chan *entry
	spare *supply       // the segment to come
	quit  chan struct{} // closed by Close: nothing new is taken
	done  chan struct{} // closed when all that was taken is written
	kick  chan struct{} // there is something to ship
	idle  chan struct{} // closed when the shipper has ended
	halt  context.CancelFunc
	close sync.Once

	// Of whoever writes: a caller that comes alone, or the goroutine that writes for many.
	writing    sync.Mutex
	ended      bool
	boot       string
	generation int
	chains     map[string]*journal.Chain
	active     *segment // nil while writing fails
	list       []*entry
	buffer     []byte

	strangers *bucket

	failed  atomic.Bool  // the last write failed
	began   atomic.Int64 // when the write under way began, in nanoseconds since 1970; 0: there is none
	left    atomic.Int64 // room in the active segment
	told    int64        // the backlog the log has told of, of who writes: 0, half, all of MaxBytes
	ships   shipper
	backlog atomic.Int64 // bytes in segments that are not in the store

	shipping atomic.Int64 // Unix nanoseconds of the oldest record the store may not have; 0: it has all

	records, refused, summarised, shipped, shipErrors, lost atomic.Int64
}

// entry is a record on its way. done is nil when who brought it writes it.
type entry struct {
	rec  journal.Access
	done chan error
}

// Open makes the log ready. What an earlier life left is shipped with the rest.
func Open(cfg Config) (*Log, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	lock, err := lockFolder(cfg.Dir)
	if err != nil {
		return nil, err
	}
	l, err := open(cfg, osDisk{cfg.Dir})
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	l.lock = lock
	return l, nil
}

func open(cfg Config, d disk) (*Log, error) {
	boot, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("audit: name of the stream: %w", err)
	}
	l := &Log{cfg: cfg, log: cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)), disk: d, now: time.Now,
		queue: make(chan *entry, queueLength), quit: make(chan struct{}), done: make(chan struct{}),
		kick: make(chan struct{}, 1), idle: make(chan struct{}),
		boot: cfg.Node + "#" + boot.String(), chains: make(map[string]*journal.Chain)}
	l.spare = newSupply(l.newSegment)
	l.cfg.MaxBytes = cmp.Or(cfg.MaxBytes, DefaultMaxBytes)
	l.strangers = newBucket(strangersPerSecond, strangersBurst, l.now())
	left, err := d.list()
	if err != nil {
		return nil, err
	}
	for _, s := range left {
		l.ships.add(s)
		l.backlog.Add(s.durable.Load())
	}
	if l.active, err = l.newSegment(); err != nil {
		return nil, err
	}
	l.left.Store(l.active.room())
	ctx, cancel := context.WithCancel(context.Background())
	l.halt = cancel
	go l.spare.run(l.quit)
	go l.write()
	go l.ship(ctx)
	return l, nil
}

func (l *Log) newSegment() (*segment, error) {
	s, err := l.disk.create(l.ships.next())
	if err != nil {
		return nil, fmt.Errorf("%w: new segment: %w", ErrUnavailable, err)
	}
	l.ships.add(s)
	return s, nil
}

// Record makes a record durable before it returns; the log fills in its stream, number
// and hash. The error is ErrUnavailable. Of callers that nobody knows it records as
// many as the limit lets it, and counts the rest. Who comes while nobody writes does it
// itself, which spares it two changes of goroutines.
func (l *Log) Record(a journal.Access) error {
	if a.Tenant == "" && a.Principal == "" && !l.strangers.take(l.now()) {
		return nil
	}
	if l.backlog.Load() > l.cfg.MaxBytes+reserveBytes {
		l.refused.Add(1)
		return l.full()
	}
	e := &entry{rec: clean(a)}
	if l.writing.TryLock() {
		defer l.writing.Unlock()
		if l.ended {
			return errClosed
		}
		return l.commit(l.group(e))
	}
	e.done = make(chan error, 1)
	return l.await(e)
}

// await has a record written with others.
func (l *Log) await(e *entry) error {
	late := time.NewTimer(recordTime)
	defer late.Stop()
	select {
	case <-l.quit:
		return errClosed
	default:
	}
	select {
	case l.queue <- e:
	case <-l.done:
		return errClosed
	case <-late.C:
		l.refused.Add(1)
		return fmt.Errorf("%w: it does not keep up", ErrUnavailable)
	}
	select {
	case err := <-e.done:
		return err
	case <-late.C:
		l.refused.Add(1)
		return fmt.Errorf("%w: the disk does not answer", ErrUnavailable)
	case <-l.done:
	}
	select { // the last group was answered before done
	case err := <-e.done:
		return err
	default:
		return errClosed
	}
}

func (l *Log) full() error {
	return fmt.Errorf("%w: %d bytes wait for the store", ErrUnavailable, l.backlog.Load())
}

// Ready tells whether a record could be written now: a call is better refused before it
// is carried out than after. It is not ready when the last write failed or one lasts too
// long, when too much waits for the store, and when the room that is left is for the
// calls under way, and the disk has no more.
func (l *Log) Ready() error {
	began := l.began.Load()
	switch {
	case l.failed.Load():
		return fmt.Errorf("%w: the last write failed", ErrUnavailable)
	case began > 0 && l.now().UnixNano()-began > int64(recordTime):
		return fmt.Errorf("%w: the disk does not answer", ErrUnavailable)
	case l.left.Load() < reserveBytes && l.spare.failing.Load():
		return fmt.Errorf("%w: there is no room for more records", ErrUnavailable)
	case l.backlog.Load() > l.cfg.MaxBytes:
		return l.full()
	}
	return nil
}

// Close writes what was taken, and ships until all is in the store or ctx ends; what
// is left then the next life ships. Idempotent.
func (l *Log) Close(ctx context.Context) error {
	l.close.Do(func() {
		close(l.quit)
		<-l.done
		stop := context.AfterFunc(ctx, l.halt)
		defer stop()
		<-l.idle
		l.halt()
		if l.lock != nil {
			_ = l.lock.Close() // the kernel lets go of it
		}
	})
	return nil
}

// Stats are the counters since Open.
type Stats struct {
	Records    int64 // made durable
	Refused    int64 // not made durable: their requests failed
	Summarised int64 // calls of strangers that were only counted
	Shipped    int64 // records the store has
	ShipErrors int64 // batches the store did not take, and that are sent again
	Lost       int64 // damaged places in segments: what stood there never reaches the store
	Backlog    int64 // bytes on disk that the store does not have
	// Lag is the age of the oldest record that the store is asked to take; 0 when it has all.
	Lag time.Duration
}

// Stats reads the counters.
func (l *Log) Stats() Stats {
	lag := time.Duration(0)
	if t := l.shipping.Load(); t != 0 {
		lag = max(0, l.now().Sub(time.Unix(0, t)))
	}
	return Stats{Lag: lag, Records: l.records.Load(), Refused: l.refused.Load(), Summarised: l.summarised.Load(),
		Shipped: l.shipped.Load(), ShipErrors: l.shipErrors.Load(), Lost: l.lost.Load(), Backlog: l.backlog.Load()}
}

// clean makes fields fit for every store before they are hashed.
func clean(a journal.Access) journal.Access {
	for _, f := range []*string{&a.Principal, &a.KeyID, &a.Method, &a.Resource, &a.Remote, &a.RequestID, &a.Code, &a.Reason} {
		s := strings.ReplaceAll(strings.ToValidUTF8(*f, "?"), "\x00", "?")
		if len(s) > maxFieldBytes {
			s = strings.ToValidUTF8(s[:maxFieldBytes], "")
		}
		*f = s
	}
	a.Time = a.Time.UTC().Truncate(time.Microsecond)
	a.Duration = a.Duration.Truncate(time.Microsecond)
	if a.Count == 0 {
		a.Count = 1
	}
	return a
}

// isGone reports whether a file is not there.
func isGone(err error) bool { return errors.Is(err, os.ErrNotExist) }
