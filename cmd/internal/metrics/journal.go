package metrics

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// Appends counts how commits of journals end.
type Appends struct {
	ended   map[string]prometheus.Counter
	all     *prometheus.CounterVec
	seconds prometheus.Histogram
}

// How an append can end.
const (
	appendCommitted   = "committed"
	appendFenced      = "fenced"   // another activation owns the grain: nothing was written
	appendInDoubt     = "in_doubt" // the answer got lost
	appendUnavailable = "unavailable"
	appendCancelled   = "cancelled" // its caller gave up before it began
	appendFailed      = "failed"
)

func newAppends() *Appends {
	a := &Appends{ended: make(map[string]prometheus.Counter),
		all: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "granary_journal_appends_total",
			Help: "Commits of journals, by how they ended; fenced ones were refused since another activation owns the grain."}, []string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "granary_journal_append_duration_seconds",
			Help: "Time of one commit of a journal.", Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}}),
	}
	for _, o := range []string{appendCommitted, appendFenced, appendInDoubt, appendUnavailable, appendCancelled, appendFailed} {
		a.ended[o] = a.all.WithLabelValues(o)
	}
	return a
}

func (a *Appends) collectors() []prometheus.Collector {
	return []prometheus.Collector{a.all, a.seconds}
}

// Ended counts an append and how it ended.
func (a *Appends) Ended(err error, took time.Duration) {
	a.seconds.Observe(took.Seconds())
	a.ended[appendOutcome(err)].Inc()
}

func appendOutcome(err error) string {
	switch {
	case err == nil:
		return appendCommitted
	case errors.Is(err, journal.ErrFenced):
		return appendFenced
	case errors.Is(err, journal.ErrInDoubt):
		return appendInDoubt
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return appendCancelled
	case errors.Is(err, journal.ErrUnavailable):
		return appendUnavailable
	}
	return appendFailed
}

// Leases counts what this node asked tenants for tokens of their limits.
type Leases struct{ requests *prometheus.CounterVec }

func newLeases() *Leases {
	l := &Leases{prometheus.NewCounterVec(prometheus.CounterOpts{Name: "granary_token_lease_requests_total",
		Help: "Requests to tenants for tokens of their limits, by meter and outcome; returned ones gave tokens back."}, []string{"meter", "outcome"})}
	for _, m := range []kb.Meter{kb.MeterCalls, kb.MeterVectors} {
		for _, o := range []string{"granted", "refused", "returned", "failed"} {
			l.requests.WithLabelValues(string(m), o)
		}
	}
	return l
}

// Ended counts a request and its answer.
func (l *Leases) Ended(m kb.Meter, q kb.TokenRequest, a kb.TokenLease, err error) {
	outcome := "granted"
	switch {
	case err != nil:
		outcome = "failed"
	case q.Want == 0:
		outcome = "returned"
	case a.Window == q.Window && a.Held <= q.Held, a.Held == 0:
		outcome = "refused"
	}
	l.requests.WithLabelValues(string(m), outcome).Inc()
}
