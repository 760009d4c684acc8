// Package tokens is a node's side of the limits that are counted in windows of time: API
// calls an hour, vector operations a minute. The tenant's grain is the authority (kb.Rate);
// it leases tokens to nodes in blocks, and what is here spends them. So a check costs a few
// atomic operations and no hop, and the limit is exact all the same: a token is granted
// once, out of what the grain has made durable, and spent once.
//
//	Take ── a token is left ──────────────────────────────► go on
//	  └─── none ─► ask the tenant, once for all who wait ─► go on | the limit is reached
//	                              └─ nobody answers ──────► on credit | UNAVAILABLE
//
// What always holds:
//
//   - A node spends no more tokens of a window than it was leased. It lowers what it holds
//     before it tells the tenant so, never after.
//   - Tokens end with their window. Its end is counted from when the lease was asked for, on
//     this node's monotonic clock: clocks need not agree.
//   - Half of a block ahead the next one is fetched; blocks grow with use and shrink near the
//     limit, to single tokens. What nobody has used for [idleReturn] is given back.
//   - Refusals are local for [refuseFor], so that a client that hammers at the limit costs
//     the tenant two messages a second and node.
//
// When the tenant cannot be reached (its node died, the store is away) a bounded number of
// requests goes on without a token: a part of what the tenant had left when it was last heard
// of, see [Holder.Take]. They are charged when it is back, from the next window if this one
// has no room. Where nothing was left, or the tenant was never heard of, nothing goes on.
package tokens
