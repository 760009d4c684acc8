package audit

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"granary.dev/granary/actors/journal"
)

// write is the goroutine that writes for callers that come together: it takes what
// waits, writes it with one sync, and answers all of it.
func (l *Log) write() {
	defer close(l.done)
	tick := time.NewTicker(retryTime)
	defer tick.Stop()
	summed := l.now()
	renewed := summed
	for {
		select {
		case e := <-l.queue:
			l.together(e)
		case <-tick.C:
			l.look()
			now := l.now()
			if now.Sub(summed) >= summaryEvery {
				summed = now
				l.summarise()
			}
			if l.cfg.Renew > 0 && now.Sub(renewed) >= l.cfg.Renew {
				renewed = now
				l.renew()
			}
		case <-l.quit:
			for {
				select {
				case e := <-l.queue:
					l.together(e)
					continue
				default:
				}
				l.summarise()
				l.end()
				return
			}
		}
	}
}

func (l *Log) together(e *entry) {
	l.writing.Lock()
	defer l.writing.Unlock()
	_ = l.commit(l.group(e)) // all of it is answered
}

// group takes what else waits.
func (l *Log) group(first *entry) []*entry {
	l.list = append(l.list[:0], first)
	for len(l.list) < groupLength {
		select {
		case e := <-l.queue:
			l.list = append(l.list, e)
		default:
			return l.list
		}
	}
	return l.list
}

// commit makes a group durable and answers it.
func (l *Log) commit(list []*entry) error {
	l.began.Store(l.now().UnixNano())
	err := l.put(list)
	l.began.Store(0)
	if err != nil {
		l.refused.Add(int64(len(list)))
	} else {
		l.records.Add(int64(len(list)))
	}
	for i, e := range list {
		if list[i] = nil; e.done != nil {
			e.done <- err
		}
	}
	if err == nil {
		l.poke()
	}
	return err
}

func (l *Log) put(list []*entry) error {
	if l.active == nil {
		return fmt.Errorf("%w: the last write failed", ErrUnavailable)
	}
	l.buffer = l.buffer[:0]
	for _, e := range list {
		l.link(&e.rec)
		l.buffer = appendFrame(l.buffer, e.rec)
	}
	if l.active.room() < int64(len(l.buffer)) {
		if err := l.rotate(); err != nil {
			l.fail(err)
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	err := l.active.write(l.buffer)
	if err == nil {
		err = l.active.sync()
	}
	if err != nil {
		l.fail(err)
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	l.left.Store(l.active.room())
	l.warn(l.backlog.Add(int64(len(l.buffer))))
	return nil
}

// warn tells once when what waits for the store comes to half of its bound, to all of
// it, and when it is below half again.
func (l *Log) warn(backlog int64) {
	now := min(backlog/max(l.cfg.MaxBytes/2, 1), 2)
	if now == l.told || now == 1 && l.told == 2 {
		return
	}
	l.told = now
	wait := []any{slog.Int64("bytes", backlog), slog.Int64("most", l.cfg.MaxBytes)}
	switch now {
	case 0:
		l.log.Info("little of the audit waits for the store again", wait...)
	case 1:
		l.log.Warn("half of what may wait of the audit waits for the store", wait...)
	default:
		l.log.Error("as much of the audit waits for the store as may: calls are refused until it takes some", wait...)
	}
}

// link gives a record its place in the stream of its tenant.
func (l *Log) link(a *journal.Access) {
	if len(l.chains) >= maxChains && l.chains[a.Tenant] == nil {
		l.next()
	}
	chain := l.chains[a.Tenant]
	if chain == nil {
		chain = &journal.Chain{}
		l.chains[a.Tenant] = chain
	}
	a.Stream = l.boot
	if l.generation > 0 {
		a.Stream = fmt.Sprintf("%s/%d", l.boot, l.generation)
	}
	chain.Seq++
	a.Seq = chain.Seq
	a.Hash = journal.LinkAccess(chain.Hash, *a)
	chain.Hash = a.Hash
}

// next begins the streams anew under another name.
func (l *Log) next() {
	l.generation++
	clear(l.chains)
}

// renew ends all streams.
func (l *Log) renew() {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.next()
}

// rotate goes on in the next segment; it waits for one that is being made.
func (l *Log) rotate() error {
	s, err := l.spare.take()
	if err != nil {
		return err
	}
	l.active.end()
	l.active = s
	return nil
}

// fail gives the segment up: what is behind its durable part may or may not be on the
// disk, so the numbers used for it are never used again.
func (l *Log) fail(err error) {
	l.log.Error("the audit cannot be written: requests are refused until it can", slog.Any("error", err))
	l.failed.Store(true)
	l.active.end()
	l.active = nil
	l.next()
	l.poke()
}

// look is what is to be done when nobody writes, too.
func (l *Log) look() {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.warn(l.backlog.Load())
	l.mend()
}

// mend tries to write again after a failure.
func (l *Log) mend() {
	if l.active != nil {
		return
	}
	s, err := l.spare.take()
	if err != nil {
		return
	}
	l.active = s
	l.left.Store(s.room())
	l.failed.Store(false)
	l.log.Info("the audit can be written again")
}

// summarise records how many calls of strangers were only counted.
func (l *Log) summarise() {
	n := l.strangers.takeDropped()
	if n == 0 {
		return
	}
	e := &entry{rec: clean(journal.Access{Time: l.now(), Phase: journal.PhaseSummary, Code: "unauthenticated", Count: n})}
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.commit([]*entry{e}); err != nil {
		l.strangers.giveBack(n)
		return
	}
	l.summarised.Add(n)
}

// end closes the segments.
func (l *Log) end() {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.ended = true
	if l.active != nil {
		l.active.end()
		l.active = nil
	}
	l.spare.close()
	l.poke()
}

// poke tells the shipper that there is something.
func (l *Log) poke() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// bucket lets so many things pass a second, and counts the others.
type bucket struct {
	mu      sync.Mutex
	rate    float64
	burst   float64
	tokens  float64
	at      time.Time
	dropped int64
}

func newBucket(rate, burst float64, now time.Time) *bucket {
	return &bucket{rate: rate, burst: burst, tokens: burst, at: now}
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(b.burst, b.tokens+b.rate*now.Sub(b.at).Seconds())
	b.at = now
	if b.tokens < 1 {
		b.dropped++
		return false
	}
	b.tokens--
	return true
}

func (b *bucket) takeDropped() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.dropped
	b.dropped = 0
	return n
}

func (b *bucket) giveBack(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropped += n
}
