package actors

import nodev1 "granary.dev/granary/proto/gen/granary/node/v1"

// serveSlots carries out what concerns places of concurrent processing; false when
// the operation is not of these.
func (g *tenantGrain) serveSlots(call, *nodev1.TenantCall) bool { return false }
