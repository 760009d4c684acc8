package actors

import nodev1 "granary.dev/granary/proto/gen/granary/node/v1"

// serveAdmin carries out what concerns the tenant's own life: tier, suspension, deletion; false when
// the operation is not of these.
func (g *tenantGrain) serveAdmin(call, *nodev1.TenantCall) bool { return false }
