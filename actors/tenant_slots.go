package actors

import (
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// serveSlots carries out what concerns places of concurrent processing; false when
// the operation is not of these.
func (g *tenantGrain) placeQuota() *granaryv1.Quota {
	n := g.tenant.Limits().ConcurrentProcessing
	return &granaryv1.Quota{Metric: metricProcessing, Limit: n, Base: n, Remaining: n}
}

func (g *tenantGrain) running() int64 { return 0 }

func (g *tenantGrain) serveSlots(call, *nodev1.TenantCall) bool { return false }
