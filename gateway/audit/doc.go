// Package audit is the log of accesses of one node: each call's record is on this
// machine's disk before the call's answer leaves, and in the store soon after (I1).
//
// The store may be away, the disk may not: a record that cannot be written fails its
// request, and later ones are refused at once until writing works again. Records that
// come together share one sync; a caller that comes alone writes by itself.
//
//	Record ──▶ (queue) ──▶ chained, written, synced ──▶ Record returns
//	                          segments ──▶ store (in batches, again until it took them) ──▶ segment removed
//
// A segment is written full of zeros before it is used, the next while the one before is
// in use: to make a record durable is one write to the disk, without a commit of the file
// system's journal, and a disk that has no more room is known half a segment ahead. What
// is left is for calls under way; new ones are refused. So they are when more waits for
// the store than may.
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
