package actors

import nodev1 "granary.dev/granary/proto/gen/granary/node/v1"

// serveRates carries out what concerns calls and vector operations; false when
// the operation is not of these.
func (g *tenantGrain) serveRates(call, *nodev1.TenantCall) bool { return false }
