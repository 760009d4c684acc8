package audit

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"granary.dev/granary/actors/journal"
)

const (
	shipBatch   = 512
	shipTime    = 30 * time.Second // one batch may take this long
	shipGather  = 200 * time.Millisecond
	shipAgain   = 500 * time.Millisecond // doubles
	shipAgainTo = 15 * time.Second
)

// shipper is what is on the disk and how far it was read.
type shipper struct {
	mu       sync.Mutex
	segments []*segment // in order; the last may still be written to
	last     int64
}

func (s *shipper) add(seg *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments = append(s.segments, seg)
	s.last = max(s.last, seg.number)
}

// next gives a number no segment has had.
func (s *shipper) next() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	return s.last
}

func (s *shipper) first() *segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.segments) == 0 {
		return nil
	}
	return s.segments[0]
}

func (s *shipper) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments = s.segments[1:]
}

// ship brings segments to the store until the log is closed and all is there, or ctx ends.
func (l *Log) ship(ctx context.Context) {
	defer close(l.idle)
	for {
		seg := l.ships.first()
		if seg == nil {
			l.shipping.Store(0)
			select {
			case <-l.done:
				if l.ships.first() == nil {
					return
				}
			case <-l.kick:
			}
			continue
		}
		if !l.shipSegment(ctx, seg) {
			return
		}
		l.ships.drop()
		if err := l.disk.remove(seg.number); err != nil && !isGone(err) {
			l.log.Warn("a shipped segment of the audit stays, it will be shipped again", slog.Any("error", err))
		}
	}
}

// shipSegment ships one segment to its end; false when ctx ended before.
func (l *Log) shipSegment(ctx context.Context, seg *segment) bool {
	r := reader{log: l, seg: seg}
	defer r.close()
	for {
		closed := seg.closed.Load() // before reading: then the end that is read is the end
		batch, size, err := r.batch()
		if err != nil && !errors.Is(err, io.EOF) {
			l.lost.Add(1)
			l.log.Error("a segment of the audit is damaged, what stands behind the damage is lost",
				slog.String("segment", segmentName(seg.number)), slog.Int64("at", r.at), slog.Any("error", err))
		}
		if err != nil { // the rest, if there is any, is zeros or damaged
			size += r.end - r.at
			r.at = r.end
		}
		if len(batch) > 0 && !l.deliver(ctx, batch) {
			return false
		}
		l.backlog.Add(-size)
		switch {
		case len(batch) == shipBatch:
		case closed:
			return true
		default:
			l.shipping.Store(0) // the store has all
			select {
			case <-l.kick:
				gather(ctx, l.quit)
			case <-ctx.Done():
				return false
			}
		}
	}
}

// gather lets a batch grow.
func gather(ctx context.Context, quit <-chan struct{}) {
	t := time.NewTimer(shipGather)
	defer t.Stop()
	select {
	case <-t.C:
	case <-quit:
	case <-ctx.Done():
	}
}

// deliver gives a batch to the store, again until it takes it; false when ctx ended.
func (l *Log) deliver(ctx context.Context, batch []journal.Access) bool {
	l.shipping.Store(batch[0].Time.UnixNano())
	for wait, told := shipAgain, false; ; wait = min(2*wait, shipAgainTo) {
		try, cancel := context.WithTimeout(ctx, shipTime)
		err := l.cfg.Store.PutAccesses(try, batch)
		cancel()
		if err == nil {
			l.shipped.Add(int64(len(batch)))
			if told {
				l.log.Info("the store takes the audit again")
			}
			return true
		}
		l.shipErrors.Add(1)
		if !told && ctx.Err() == nil {
			told = true
			l.log.Warn("the store does not take the audit, it waits on this machine's disk", slog.Any("error", err))
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return false
		}
	}
}

// reader reads a segment as far as it is durable.
type reader struct {
	log  *Log
	seg  *segment
	file reading
	at   int64
	end  int64 // of what was durable when the last batch was read
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close() // it was only read
	}
}

// batch reads up to shipBatch records and tells their size. io.EOF when the durable
// part ends. Nothing behind it is looked at, not ahead of time either: it changes.
func (r *reader) batch() (list []journal.Access, size int64, err error) {
	r.end = r.seg.durable.Load()
	if r.file == nil {
		if r.file, err = r.log.disk.open(r.seg.number); err != nil {
			return nil, 0, err
		}
	}
	buf := bufio.NewReaderSize(io.NewSectionReader(r.file, r.at, r.end-r.at), 64<<10)
	if r.at == 0 {
		if err := readMark(buf); err != nil {
			return nil, 0, err
		}
		r.at = int64(len(segmentMark))
		if r.seg.file == nil {
			size = r.at // the mark of a segment of this life was never counted
		}
	}
	for len(list) < shipBatch {
		if r.at >= r.end {
			return list, size, io.EOF
		}
		a, n, err := readFrame(buf)
		if err != nil {
			return list, size, err
		}
		r.at += n
		size += n
		list = append(list, a)
	}
	return list, size, nil
}
