package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal/trail"
	"granary.dev/granary/cluster"
	"granary.dev/granary/gateway/audit"
	"granary.dev/granary/storage/postgres"
	"granary.dev/granary/storage/sealed"
)

// Encryption shows how encryption failed (F4, I2).
func (r *Registry) Encryption(stats func() sealed.Stats) error {
	fields := by("granary_encryption_failures_total",
		"Values that could not be encrypted or decrypted: seal (nothing was written), keys (the store or the master key), unknown_key, "+
			"tampered (changed or moved), not_sealed (plain where everything is encrypted).", "cause", prometheus.CounterValue,
		split[sealed.Stats]{"seal", func(s sealed.Stats) int64 { return s.Seal }},
		split[sealed.Stats]{"keys", func(s sealed.Stats) int64 { return s.Keys }},
		split[sealed.Stats]{"unknown_key", func(s sealed.Stats) int64 { return s.Unknown }},
		split[sealed.Stats]{"tampered", func(s sealed.Stats) int64 { return s.Tampered }},
		split[sealed.Stats]{"not_sealed", func(s sealed.Stats) int64 { return s.Unsealed }})
	fields = append(fields, counter("granary_encryption_destroyed_reads_total",
		"Values that were asked for after the keys of their tenant were destroyed: no failure.", func(s sealed.Stats) int64 { return s.Destroyed }))
	return r.register(&counted[sealed.Stats]{stats, fields})
}

// auditState is the log's counters, and whether it can be written.
type auditState struct {
	audit.Stats
	writable bool
}

// Audit shows the node's log of calls (F4, I1). Limit is the backlog that makes it refuse more.
func (r *Registry) Audit(log *audit.Log, limit int64) error {
	type s = auditState
	return r.register(&counted[s]{func() s { return s{log.Stats(), log.Ready() == nil} }, []field[s]{
		counter("granary_audit_records_total", "Records of calls made durable on this node.", func(s s) int64 { return s.Records }),
		counter("granary_audit_write_failures_total", "Records that were not made durable: their calls failed.", func(s s) int64 { return s.Refused }),
		gauge("granary_audit_writable", "1 while records can be written; else all calls are refused.", func(s s) float64 { return truth(s.writable) }),
		counter("granary_audit_summarised_calls_total", "Calls without a good credential that were only counted in the audit.", func(s s) int64 { return s.Summarised }),
		counter("granary_audit_shipped_records_total", "Records that the store has taken.", func(s s) int64 { return s.Shipped }),
		counter("granary_audit_ship_failures_total", "Batches that the store did not take and that are sent again.", func(s s) int64 { return s.ShipErrors }),
		counter("granary_audit_damages_total", "Damaged places in segments on this node: what stood there never reaches the store.", func(s s) int64 { return s.Lost }),
		gauge("granary_audit_backlog_bytes", "Records on this node's disk that the store does not have yet.", func(s s) int64 { return s.Backlog }),
		gauge("granary_audit_lag_seconds", "Age of the oldest record that the store is asked to take; 0 when it has all.", func(s s) float64 { return s.Lag.Seconds() }),
		gauge("granary_audit_backlog_limit_bytes", "The backlog above which calls are refused.", func(s) int64 { return limit }),
	}})
}

// Trail shows the signing of checkpoints (I1).
func (r *Registry) Trail(stats func() trail.Stats) error {
	type s = trail.Stats
	return r.register(&counted[s]{stats, []field[s]{
		counter("granary_audit_checkpoints_total", "Rounds in which the checkpoint of a tenant was there or was made.", func(s s) int64 { return s.Made }),
		counter("granary_audit_checkpoint_failures_total", "Rounds in which the store did not answer.", func(s s) int64 { return s.Failed }),
		counter("granary_audit_contradictions_total", "Checkpoints that were not signed, since the audit contradicts the last one.", func(s s) int64 { return s.Broken }),
	}})
}

// Grains shows what the grains of the node do.
func (r *Registry) Grains(stats func() actors.Stats) error {
	type s = actors.Stats
	fields := []field[s]{
		counter("granary_journal_broken_chains_total", "Loads that failed since the journal was changed by somebody else.", func(s s) int64 { return s.BrokenChains }),
		gauge("granary_processing_places_granted", "Places of concurrent processing that tenants have granted to this node.", func(s s) int64 { return s.Places.Granted }),
		gauge("granary_processing_places_in_use", "Places that documents at work hold.", func(s s) int64 { return s.Places.InUse }),
		gauge("granary_processing_places_waiting", "Knowledge bases that wait for a place.", func(s s) int64 { return s.Places.Waiting }),
		gauge("granary_processing_slots", "Units of work this node does at a time.", func(s s) int64 { return s.Slots.Total }),
		gauge("granary_processing_slots_in_use", "Units of work that are being done.", func(s s) int64 { return s.Slots.InUse }),
		gauge("granary_processing_slots_waiting", "Units of work that wait for a slot.", func(s s) int64 { return s.Slots.Waiting }),
	}
	fields = append(fields, by("granary_erasures_total", "Erasures that are over, by what was erased.", "target", prometheus.CounterValue,
		split[s]{"document", func(s s) int64 { return s.ErasedDocuments }},
		split[s]{"knowledge_base", func(s s) int64 { return s.ErasedKnowledgeBases }},
		split[s]{"tenant", func(s s) int64 { return s.ErasedTenants }})...)
	fields = append(fields, by("granary_erasure_failures_total", "Steps of erasures that failed and are repeated: in a knowledge base, or of a whole tenant.",
		"target", prometheus.CounterValue,
		split[s]{"knowledge_base", func(s s) int64 { return s.ErasureFailures }},
		split[s]{"tenant", func(s s) int64 { return s.PurgeFailures }})...)
	return r.register(&counted[s]{stats, fields})
}

// Cluster shows how the node stands in its cluster; alone, only what is in memory.
func (r *Registry) Cluster(stats func() cluster.Stats, shared bool) error {
	type s = cluster.Stats
	fields := []field[s]{gauge("granary_activations", "Tenants and knowledge bases in memory.", func(s s) int64 { return s.Activations })}
	if shared {
		fields = append(fields,
			gauge("granary_cluster_lease_valid", "1 while the node's lease holds.", func(s s) float64 { return truth(s.LeaseValid) }),
			counter("granary_cluster_lease_lapses_total", "Times the lease ran out before it was renewed.", func(s s) int64 { return s.Lapses }),
			counter("granary_cluster_evictions_total", "Times the cluster gave this node up and it came back.", func(s s) int64 { return s.Evictions }),
			gauge("granary_cluster_handovers_pending", "Grains that are being handed over.", func(s s) int64 { return s.Handovers }),
			gauge("granary_cluster_view_version", "Version of the view this node acts on.", func(s s) int64 { return s.View }),
			gauge("granary_cluster_load_ratio", "Share of its processors that the node uses, averaged over some seconds.", func(s s) float64 { return s.Load }))
	}
	return r.register(&counted[s]{stats, fields})
}

// tokenStats is what a node holds of tenants' limits.
type tokenStats struct{ credited, held int64 }

// Tokens is what tells of a node's tokens.
type Tokens interface {
	Credited() int64
	Tenants() int64
}

// Tokens shows what the node holds of tenants' limits in windows of time.
func (r *Registry) Tokens(t Tokens) error {
	type s = tokenStats
	return r.register(&counted[s]{func() s { return s{t.Credited(), t.Tenants()} }, []field[s]{
		counter("granary_tokens_credited_total", "Calls that went on without a token, since their tenant could not be reached.", func(s s) int64 { return s.credited }),
		gauge("granary_token_meters", "Meters of tenants that this node knows something of.", func(s s) int64 { return s.held }),
	}})
}

// Gateway shows what is open at the node's door.
func (r *Registry) Gateway(inFlight func() int64) error {
	return r.register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "granary_http_requests_in_flight",
		Help: "HTTP requests being served, open streams among them."}, func() float64 { return float64(inFlight()) }))
}

// Database shows the pools of connections to PostgreSQL (D4).
func (r *Registry) Database(stats func() postgres.Stats) error {
	return r.register(newPools(stats))
}
