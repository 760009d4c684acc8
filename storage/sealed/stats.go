package sealed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"granary.dev/granary/actors/journal"
)

// failure is a way in which encryption can fail.
type failure int

const (
	failSeal    failure = iota // a value could not be encrypted
	failKeys                   // keys could not be had: the store, or the master key
	failUnknown                // sealed with a key nobody has
	failTamper                 // changed, or moved from elsewhere
	failPlain                  // not sealed where everything is
	failGone                   // of a tenant whose keys are destroyed
	failKinds
)

var failureNames = [failKinds]string{"seal", "keys", "unknown key", "tampered", "not sealed", "destroyed"}

// Stats counts how encryption failed since Open.
type Stats struct {
	Seal      int64 // values that could not be encrypted; nothing was written
	Keys      int64 // keys could not be read, unwrapped, written, rotated or destroyed
	Unknown   int64 // values sealed with a key that is not among the tenant's
	Tampered  int64 // values that were changed, belong elsewhere, or hold what nobody wrote
	Unsealed  int64 // values that are not sealed where everything is
	Destroyed int64 // values of tenants whose keys are destroyed
}

// Failures is the sum of what an operator must look at. Of destroyed tenants some
// values may be asked for until all is erased.
func (s Stats) Failures() int64 { return s.Seal + s.Keys + s.Unknown + s.Tampered + s.Unsealed }

// failures counts and logs.
type failures struct {
	log    *slog.Logger
	counts [failKinds]atomic.Int64

	logMu  sync.Mutex
	logged [failKinds]time.Time
}

// Stats reads the counters.
func (f *failures) Stats() Stats {
	n := func(kind failure) int64 { return f.counts[kind].Load() }
	return Stats{Seal: n(failSeal), Keys: n(failKeys), Unknown: n(failUnknown), Tampered: n(failTamper), Unsealed: n(failPlain), Destroyed: n(failGone)}
}

// logEvery is how often one kind of failure is told at most.
const logEvery = time.Minute

// failed counts a failure, tells of it once a minute, and gives the error that the
// caller hears: nothing was done, and may be done later.
func (f *failures) failed(kind failure, tenant, what string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, errDestroyed) {
		kind = failGone
	}
	f.count(kind, tenant, what, err)
	if errors.Is(err, journal.ErrUnavailable) || errors.Is(err, journal.ErrCorrupt) || errors.Is(err, journal.ErrInDoubt) {
		return err
	}
	return fmt.Errorf("%w: %s of %s: %w", journal.ErrUnavailable, what, tenant, err)
}

// unreadable is failed for values that do not open: they are corrupt, unless it was
// the keys that could not be had.
func (f *failures) unreadable(tenant, what string, err error) error {
	kind := failTamper
	switch {
	case errors.Is(err, errUnknownKey), errors.Is(err, errNoKeys):
		kind = failUnknown
	case errors.Is(err, errDestroyed):
		kind = failGone
	case errors.Is(err, errUnsealed):
		kind = failPlain
	case errors.Is(err, errTampered):
	case !errors.Is(err, journal.ErrCorrupt):
		return f.failed(failKeys, tenant, what, err)
	}
	f.count(kind, tenant, what, err)
	return fmt.Errorf("%w: %s of %s: %w", journal.ErrCorrupt, what, tenant, err)
}

func (f *failures) count(kind failure, tenant, what string, err error) {
	n := f.counts[kind].Add(1)
	f.logMu.Lock()
	now := time.Now()
	tell := now.Sub(f.logged[kind]) >= logEvery
	if tell {
		f.logged[kind] = now
	}
	f.logMu.Unlock()
	if tell {
		f.log.Error("encryption failed", "cause", failureNames[kind], "tenant", tenant, "what", what, "count", n, "error", err)
	}
}
