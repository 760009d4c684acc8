// Package audit is the log of accesses of one node: each call's record is on this
// machine's disk before the call's answer leaves, and in the store soon after (I1).
//
// The store may be away, the disk may not: a record that cannot be written fails its
// request, and later ones are refused at once until writing works again. Records that
// come together share one fsync.
//
//	Record ──▶ queue ──▶ chained, written, fsync ──▶ Record returns
//	                          segments ──▶ store (in batches, again until it took them) ──▶ segment removed
//
// Authority: the log numbers and chains records per (tenant, stream). A stream is one
// life of the log; after a failed write, whose records may or may not be on the disk,
// and when more tenants were served than are kept in memory, it goes on under the next
// name (name/1, name/2 …), so that no number is ever given twice. The store keeps the
// first record of each number: shipping again doubles nothing.
//
// Who proves no identity can make the log grow no faster than a limit: what is beyond
// it is counted, and the count recorded.
package audit
