package actors

import nodev1 "granary.dev/granary/proto/gen/granary/node/v1"

// serveStorage carries out what concerns stored bytes; false when
// the operation is not of these.
func (g *tenantGrain) serveStorage(call, *nodev1.TenantCall) bool { return false }
