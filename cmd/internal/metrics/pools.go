package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"granary.dev/granary/storage/postgres"
)

// newPools makes the series of each pool.
func newPools(stats func() postgres.Stats) prometheus.Collector {
	type s = postgres.Stats
	pools := []struct {
		name string
		of   func(s) postgres.PoolStats
	}{
		{"commits", func(s s) postgres.PoolStats { return s.Commits }},
		{"bulk", func(s s) postgres.PoolStats { return s.Bulk }},
		{"across", func(s s) postgres.PoolStats { return s.Across }},
		{"leases", func(s s) postgres.PoolStats { return s.Leases }},
	}
	out := &counted[s]{stats: stats}
	for _, m := range []struct {
		name, help string
		kind       prometheus.ValueType
		of         func(postgres.PoolStats) float64
	}{
		{"granary_postgres_pool_max_connections", "Most connections the pool may have.", prometheus.GaugeValue, func(p postgres.PoolStats) float64 { return float64(p.Max) }},
		{"granary_postgres_pool_connections", "Connections open or being opened.", prometheus.GaugeValue, func(p postgres.PoolStats) float64 { return float64(p.Total) }},
		{"granary_postgres_pool_connections_in_use", "Connections taken by an operation.", prometheus.GaugeValue, func(p postgres.PoolStats) float64 { return float64(p.InUse) }},
		{"granary_postgres_pool_connections_idle", "Connections open and free.", prometheus.GaugeValue, func(p postgres.PoolStats) float64 { return float64(p.Idle) }},
		{"granary_postgres_pool_opened_total", "Connections opened.", prometheus.CounterValue, func(p postgres.PoolStats) float64 { return float64(p.Opened) }},
		{"granary_postgres_pool_acquired_total", "Times an operation took a connection.", prometheus.CounterValue, func(p postgres.PoolStats) float64 { return float64(p.Acquired) }},
		{"granary_postgres_pool_waits_total", "Times an operation had to wait for a connection.", prometheus.CounterValue, func(p postgres.PoolStats) float64 { return float64(p.Waited) }},
		{"granary_postgres_pool_wait_seconds_total", "Sum of those waits.", prometheus.CounterValue, func(p postgres.PoolStats) float64 { return p.WaitTime.Seconds() }},
		{"granary_postgres_pool_cancelled_waits_total", "Waits that ended with their context.", prometheus.CounterValue, func(p postgres.PoolStats) float64 { return float64(p.Cancelled) }},
		{"granary_postgres_pool_resets_total", "Times all connections were dropped since one was found broken.", prometheus.CounterValue, func(p postgres.PoolStats) float64 { return float64(p.Resets) }},
	} {
		desc := prometheus.NewDesc(m.name, m.help, []string{"pool"}, nil)
		for _, p := range pools {
			out.fields = append(out.fields, field[s]{desc, m.kind, func(s s) float64 { return m.of(p.of(s)) }, []string{p.name}})
		}
	}
	return out
}
