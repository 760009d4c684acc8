package audit

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"granary.dev/granary/actors/journal"
)

// write is the writing goroutine: it takes what waits, writes it with one fsync, and
// answers all of it.
func (l *Log) write() {
	defer close(l.done)
	tick := time.NewTicker(retryTime)
	defer tick.Stop()
	summed := l.now()
	for {
		select {
		case e := <-l.queue:
			l.commit(l.group(e))
		case <-tick.C:
			l.mend()
			if now := l.now(); now.Sub(summed) >= summaryEvery {
				summed = now
				l.summarise()
			}
		case <-l.quit:
			for {
				select {
				case e := <-l.queue:
					l.commit(l.group(e))
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

// group takes what else waits.
func (l *Log) group(first *entry) []*entry {
	list := []*entry{first}
	for len(list) < groupLength {
		select {
		case e := <-l.queue:
			list = append(list, e)
		default:
			return list
		}
	}
	return list
}

// commit makes a group durable and answers it.
func (l *Log) commit(list []*entry) {
	err := l.put(list)
	if err != nil {
		l.refused.Add(int64(len(list)))
	} else {
		l.records.Add(int64(len(list)))
	}
	l.stuck.Store(false)
	for _, e := range list {
		e.done <- err
	}
	if err == nil {
		l.poke()
	}
}

func (l *Log) put(list []*entry) error {
	if l.active == nil {
		return fmt.Errorf("%w: the last write failed", ErrUnavailable)
	}
	if l.active.durable.Load() >= segmentBytes {
		if err := l.rotate(); err != nil {
			l.fail(err)
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	l.buffer = l.buffer[:0]
	for _, e := range list {
		l.link(&e.rec)
		l.buffer = appendFrame(l.buffer, e.rec)
	}
	if err := l.active.append(l.buffer); err != nil {
		l.fail(err)
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	l.backlog.Add(int64(len(l.buffer)))
	return nil
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

func (l *Log) rotate() error {
	l.active.finish()
	s, err := l.newSegment()
	if err == nil {
		l.active = s
	}
	return err
}

// fail gives the segment up: what is behind its durable part may or may not be on the
// disk, so the numbers used for it are never used again.
func (l *Log) fail(err error) {
	l.log.Error("the audit cannot be written: requests are refused until it can", slog.Any("error", err))
	l.failed.Store(true)
	l.active.abandon()
	l.active = nil
	l.next()
	l.poke()
}

// mend tries to write again after a failure.
func (l *Log) mend() {
	if l.active != nil {
		return
	}
	s, err := l.newSegment()
	if err != nil {
		return
	}
	l.active = s
	l.failed.Store(false)
	l.log.Info("the audit can be written again")
}

// summarise records how many calls of strangers were only counted.
func (l *Log) summarise() {
	n := l.strangers.takeDropped()
	if n == 0 {
		return
	}
	e := &entry{rec: clean(journal.Access{Time: l.now(), Phase: journal.PhaseSummary, Code: "unauthenticated", Count: n}), done: make(chan error, 1)}
	l.commit([]*entry{e})
	if err := <-e.done; err != nil {
		l.strangers.giveBack(n)
		return
	}
	l.summarised.Add(n)
}

func (l *Log) end() {
	if l.active != nil {
		l.active.finish()
		l.active = nil
	}
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
