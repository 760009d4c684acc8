package auth

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"granary.dev/granary/actors/kb"
)

// Times of a key set. A set is read again beside the calls that use it, and never
// while nobody does.
const (
	// refreshAfter is the age from which a set in use is read again: how long a key
	// that was withdrawn may still be good.
	refreshAfter = 5 * time.Minute
	// refetchAfter is the least time between two reads, whatever tokens name. A kid
	// nobody knows asks for a read; what forged ones can do is bring the next read
	// forward, never hold it up, and cause one in this time.
	refetchAfter = 5 * time.Second
	// staleAfter is the age from which a set that cannot be read again is not used.
	staleAfter = 24 * time.Hour
	// fetchTime bounds one read.
	fetchTime = 5 * time.Second
	// mostWaiting bounds the calls that wait for one read; the others are refused
	// at once, and may come again.
	mostWaiting = 256
)

var errNoKey = errors.New("auth: no key of the issuer is the token's")

// keySet is the keys of one issuer, read when they are needed. Safe for concurrent use.
type keySet struct {
	name  string // of the issuer, for the log
	read  func(context.Context) ([]byte, error)
	now   func() time.Time
	log   *slog.Logger
	base  context.Context // of reads
	reads sync.WaitGroup

	mu         sync.Mutex
	keys       []publicKey
	generation uint64    // rises when the keys change
	fresh      time.Time // when the read of keys began
	tried      time.Time // when the last read began
	failed     bool      // the last read
	reading    chan struct{}
	waiting    int
	closed     bool
}

// candidates are the keys a token may be signed with: by its kid, or, when it names
// none, the only one that fits its algorithm. Errors are errNoKey, a context's, or
// of code UNAVAILABLE when the keys cannot be had.
func (s *keySet) candidates(ctx context.Context, alg, kid string) ([]publicKey, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if found := s.find(alg, kid, now); len(found) > 0 {
		if !s.outdated(now) {
			return found, s.generation, nil
		}
		// After a pause the first calls wait, so that a key withdrawn meanwhile is not
		// used once more. In an outage nobody waits.
		if reading := s.start(now); reading == nil || s.failed || now.Sub(s.fresh) < 2*refreshAfter || s.waiting >= mostWaiting {
			return found, s.generation, nil
		} else if err := s.wait(ctx, reading); err != nil {
			return nil, 0, err
		}
		return s.result(alg, kid)
	}
	if reading := s.start(now); reading == nil || s.waiting >= mostWaiting {
		return nil, 0, s.missing(now)
	} else if err := s.wait(ctx, reading); err != nil {
		return nil, 0, err
	}
	return s.result(alg, kid)
}

func (s *keySet) result(alg, kid string) ([]publicKey, uint64, error) {
	now := s.now()
	found := s.find(alg, kid, now)
	if len(found) == 0 {
		return nil, 0, s.missing(now)
	}
	return found, s.generation, nil
}

func (s *keySet) outdated(now time.Time) bool { return now.Sub(s.fresh) >= refreshAfter }

// wait waits for a read, without the lock.
func (s *keySet) wait(ctx context.Context, reading <-chan struct{}) error {
	s.waiting++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.waiting--
	}()
	select {
	case <-reading:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *keySet) find(alg, kid string, now time.Time) []publicKey {
	if now.Sub(s.fresh) >= staleAfter {
		return nil
	}
	var found []publicKey
	for _, k := range s.keys {
		if k.fits(alg) && (kid == "" || kid == k.kid) {
			found = append(found, k)
		}
	}
	if kid == "" && len(found) > 1 {
		return nil
	}
	return found
}

// missing tells a key that does not exist from keys that cannot be had.
func (s *keySet) missing(now time.Time) error {
	if s.failed || len(s.keys) == 0 || now.Sub(s.fresh) >= staleAfter {
		return kb.Errorf(kb.CodeUnavailable, kb.ReasonUnavailable, "The issuer's keys cannot be read now; try again.").After(refetchAfter)
	}
	return errNoKey
}

// current is the generation of the keys, and whether they are still good.
func (s *keySet) current() (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.outdated(now) {
		s.start(now)
	}
	return s.generation, now.Sub(s.fresh) < staleAfter
}

// start reads the keys beside the call, unless that is being done (then it gives
// the same) or was done a moment ago (nil).
func (s *keySet) start(now time.Time) <-chan struct{} {
	if s.reading != nil {
		return s.reading
	}
	if !s.tried.IsZero() && now.Sub(s.tried) < refetchAfter || s.closed {
		return nil
	}
	done := make(chan struct{})
	s.tried, s.reading = now, done
	s.reads.Go(func() {
		ctx, cancel := context.WithTimeout(s.base, fetchTime)
		defer cancel()
		text, err := s.read(ctx)
		s.took(text, err, now)
		close(done)
	})
	return done
}

// close waits for the read under way, after base has ended, and starts no more.
func (s *keySet) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.reads.Wait()
}

// took takes over what was read at a time. What cannot be used changes nothing.
func (s *keySet) took(text []byte, err error, at time.Time) {
	var keys []publicKey
	var skipped []error
	if err == nil {
		keys, skipped, err = parseSet(text)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading, s.failed = nil, err != nil
	if err != nil {
		s.log.Warn("the keys of an issuer cannot be read", slog.String("issuer", s.name),
			slog.Int("keys", len(s.keys)), slog.Time("since", s.fresh), slog.Any("error", err))
		return
	}
	s.fresh = at
	if sameKeys(s.keys, keys) {
		return
	}
	s.keys = keys
	s.generation++
	s.log.Info("keys of an issuer", slog.String("issuer", s.name), slog.Int("keys", len(keys)))
	for _, why := range skipped {
		s.log.Warn("a key of an issuer is not used", slog.String("issuer", s.name), slog.Any("error", why))
	}
}

func sameKeys(a, b []publicKey) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].text != b[i].text {
			return false
		}
	}
	return true
}
