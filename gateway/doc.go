// Package gateway is the door of a node: one HTTP handler that speaks Connect,
// gRPC and gRPC-Web (A6), knows who asks (B1), refuses what is not valid, and
// passes the rest to the grains.
//
// Authority: none over data, and none over the cluster ([Cluster]). What a
// knowledge base or tenant answers is decided by its grain; the gateway only
// decides who may ask, and turns answers and errors into the wire's form. It keeps
// no state between requests: an upload in parts and a watched stream live in signed
// or opaque tokens their clients hold, so that any node can serve the next request.
//
// Invariants:
//
//   - The tenant of every call to a grain comes from the verified credential,
//     never from a message of the client (I13).
//   - Operators see and steer the cluster over a server of their own, on the same
//     port: no credential is good for both, and an operator's for no tenant's data.
//   - No RPC without a row in the table of roles is served.
//   - No text of a foreign error reaches a client: only a [kb.Error] does. Every
//     other error is logged in full and answered as INTERNAL with a request id.
//   - Bytes of an upload are streamed, never held in memory whole.
//   - A blob is deleted only when the grain itself answered that it did not take
//     it. In every doubt it is left to the store's collection of unclaimed blobs.
//
// The way of a request, outermost first: connection deadlines and CORS (plain
// HTTP), then request id, access log, error table, recovery of panics, deadline,
// authentication and role, decoding and validation, caching headers, handler. The
// deadline comes before authentication, which must not wait for ever either, and
// which adds a deadline of its own, the credential's end. Recovery stands inside
// the first three, so that a panic too gets its request id, its line in the access
// log and an answer from the table; those three run no code of a request.
package gateway
