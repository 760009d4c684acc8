package metrics

import (
	"fmt"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// MaxTenants is how many tenants may have series of their own.
const MaxTenants = 100

// Registry is what one node counts. Make it with [New].
type Registry struct {
	reg *prometheus.Registry

	Calls   *Calls
	Appends *Appends
	Leases  *Leases
}

// New makes the registry of a node: of what it is called, and of the process and the Go
// runtime. Tenants are those that have series of their own.
func New(version, node string, tenants []string) (*Registry, error) {
	if len(tenants) > MaxTenants {
		return nil, fmt.Errorf("metrics: %d tenants are more than %d", len(tenants), MaxTenants)
	}
	r := &Registry{reg: prometheus.NewRegistry(), Calls: newCalls(tenants), Appends: newAppends(), Leases: newLeases()}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "granary_build_info", Help: "Always 1; which node and version this is."},
		[]string{"version", "node", "go_version"})
	build.WithLabelValues(version, node, runtime.Version()).Set(1)
	all := []prometheus.Collector{build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})}
	if limit, ok := memoryLimit(); ok {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "granary_memory_limit_bytes",
			Help: "What this process may use at most: the limit of its control group, or the memory of the machine."},
			func() float64 { return limit }))
	}
	all = append(all, r.Calls.collectors()...)
	all = append(all, r.Appends.collectors()...)
	all = append(all, r.Leases.requests)
	return r, r.register(all...)
}

func (r *Registry) register(all ...prometheus.Collector) error {
	for _, c := range all {
		if err := r.reg.Register(c); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
	}
	return nil
}

// counted shows a struct of counters that a part of the node keeps. It is read once a scrape.
type counted[S any] struct {
	stats  func() S
	fields []field[S]
}

// field is a series: a value of the struct.
type field[S any] struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	of     func(S) float64
	labels []string
}

// number is what counters and gauges are kept in.
type number interface{ ~int32 | ~int64 | ~float64 }

// counter is a series that only rises.
func counter[S any, N number](name, help string, of func(S) N) field[S] {
	return field[S]{prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue, func(s S) float64 { return float64(of(s)) }, nil}
}

// gauge is a series that rises and falls.
func gauge[S any, N number](name, help string, of func(S) N) field[S] {
	return field[S]{prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue, func(s S) float64 { return float64(of(s)) }, nil}
}

// split are the series of one name: one for each value of a label.
type split[S any] struct {
	value string
	of    func(S) int64
}

func by[S any](name, help, label string, kind prometheus.ValueType, parts ...split[S]) []field[S] {
	desc := prometheus.NewDesc(name, help, []string{label}, nil)
	out := make([]field[S], len(parts))
	for i, p := range parts {
		out[i] = field[S]{desc, kind, func(s S) float64 { return float64(p.of(s)) }, []string{p.value}}
	}
	return out
}

// Describe implements prometheus.Collector.
func (c *counted[S]) Describe(ch chan<- *prometheus.Desc) {
	told := make(map[*prometheus.Desc]bool)
	for _, f := range c.fields {
		if !told[f.desc] {
			told[f.desc] = true
			ch <- f.desc
		}
	}
}

// Collect implements prometheus.Collector.
func (c *counted[S]) Collect(ch chan<- prometheus.Metric) {
	s := c.stats()
	for _, f := range c.fields {
		ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.of(s), f.labels...)
	}
}

func truth(ok bool) float64 {
	if ok {
		return 1
	}
	return 0
}
