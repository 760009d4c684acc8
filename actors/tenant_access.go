package actors

import nodev1 "granary.dev/granary/proto/gen/granary/node/v1"

// serveAccess carries out what concerns credentials, role bindings and workspaces; false when
// the operation is not of these.
func (g *tenantGrain) serveAccess(call, *nodev1.TenantCall) bool { return false }
