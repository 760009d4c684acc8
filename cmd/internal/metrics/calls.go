package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"granary.dev/granary/gateway"
)

// callBuckets are upper bounds of seconds: finer below the 0.2 s that answers may take (D5),
// with one at the 2 s above which an alert is given (F4).
func callBuckets() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60}
}

// Calls counts how calls end. It implements [gateway.Observer].
type Calls struct {
	requests *prometheus.CounterVec // by method and code
	errors   *prometheus.CounterVec // by reason
	seconds  *prometheus.HistogramVec
	refused  *prometheus.CounterVec // credentials, by cause
	tenants  *prometheus.CounterVec // of the listed ones, by outcome

	methods sync.Map // of names to *method: those this server has
	reasons words
	listed  map[string]*tenant
}

// method keeps at hand what nearly every call needs.
type method struct {
	good    prometheus.Counter
	seconds prometheus.Observer // nil: streams
}

// tenant are the series of a listed tenant.
type tenant struct{ ok, refused, failed prometheus.Counter }

func newCalls(tenants []string) *Calls {
	c := &Calls{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "granary_api_requests_total",
			Help: "Calls that ended, of tenants and operators, by method and code."}, []string{"method", "code"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "granary_api_errors_total",
			Help: "Calls that were answered with an error, by its stable reason."}, []string{"reason"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "granary_api_request_duration_seconds",
			Help: "Time from a call to its answer, by method; of streams nothing.", Buckets: callBuckets()}, []string{"method"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "granary_authentication_failures_total",
			Help: "Credentials that were refused, by the check they failed."}, []string{"cause"}),
		tenants: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "granary_tenant_requests_total",
			Help: "Calls of tenants listed in metrics.tenants: ok, refused (the fault of the caller, limits among it), failed (of the server)."},
			[]string{"tenant", "outcome"}),
		reasons: words{most: mostReasons}, listed: make(map[string]*tenant),
	}
	for _, cause := range []string{gateway.CauseMissing, gateway.CauseMalformed, gateway.CauseSignature, gateway.CauseIssuer, gateway.CauseAudience,
		gateway.CauseTime, gateway.CauseClaims, gateway.CauseKey, gateway.CauseTenant, gateway.CauseOther} {
		c.refused.WithLabelValues(cause)
	}
	for _, id := range tenants {
		of := func(outcome string) prometheus.Counter { return c.tenants.WithLabelValues(id, outcome) }
		c.listed[id] = &tenant{of("ok"), of("refused"), of("failed")}
	}
	return c
}

func (c *Calls) collectors() []prometheus.Collector {
	return []prometheus.Collector{c.requests, c.errors, c.seconds, c.refused, c.tenants}
}

// Called implements [gateway.Observer].
func (c *Calls) Called(o gateway.Outcome) {
	m := c.method(o)
	if m.seconds != nil {
		m.seconds.Observe(o.Took.Seconds())
	}
	if o.Code == "ok" {
		m.good.Inc()
	} else {
		c.requests.WithLabelValues(o.Method, o.Code).Inc()
	}
	if o.Reason != "" {
		c.errors.WithLabelValues(c.reasons.of(o.Reason)).Inc()
	}
	if t := c.listed[o.Tenant]; t != nil {
		t.count(o.Code)
	}
}

func (c *Calls) method(o gateway.Outcome) *method {
	if m, ok := c.methods.Load(o.Method); ok {
		return m.(*method)
	}
	first := &method{good: c.requests.WithLabelValues(o.Method, "ok")}
	if !o.Stream {
		first.seconds = c.seconds.WithLabelValues(o.Method)
	}
	m, _ := c.methods.LoadOrStore(o.Method, first)
	return m.(*method)
}

// CredentialRefused implements [gateway.Observer].
func (c *Calls) CredentialRefused(cause string) { c.refused.WithLabelValues(cause).Inc() }

func (t *tenant) count(code string) {
	switch code {
	case "ok", "not_modified":
		t.ok.Inc()
	case "internal", "unavailable", "unknown", "data_loss", "deadline_exceeded":
		t.failed.Inc()
	default:
		t.refused.Inc()
	}
}

// mostReasons is more than there are; see actors/kb/errors.go.
const mostReasons = 150

// words bounds the values of a label: reasons may come from a node of a later version,
// and of them, too, no more become series than this.
type words struct {
	most  int
	mu    sync.RWMutex
	known map[string]bool
}

func (w *words) of(word string) string {
	w.mu.RLock()
	ok := w.known[word]
	w.mu.RUnlock()
	if ok {
		return word
	}
	if !isReason(word) {
		return "other"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.known[word] && len(w.known) >= w.most {
		return "other"
	}
	if w.known == nil {
		w.known = make(map[string]bool)
	}
	w.known[word] = true
	return word
}

// isReason reports whether a text has the form of a stable reason.
func isReason(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'A' || c > 'Z') && (c < '0' || c > '9' || i == 0) && c != '_' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 64
}
