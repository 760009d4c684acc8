// Package gossip says which nodes there seem to be, where they listen and how
// loaded they are. It is memberlist behind a small API.
//
// # Authority
//
// None. Gossip is a hint: it makes a node look sooner, and it carries load and
// addresses. Who is a member and who owns what is decided by the view and the
// leases in the store (package protocol). A member that is reported dead may be
// alive behind a broken network, and one reported alive may just have died.
//
// # States of a member
//
//	               no answer            nobody heard it refute
//	Alive ───────────────────▶ Suspect ───────────────────────▶ Dead
//	  │  ◀─────────────────────────┘ an answer, an update         │
//	  │  ◀────────────────────────────────────────────────────────┘ a network that healed
//	  └── said good-bye ─▶ Left
//
// A member is one boot of a node: its id is "name#boot". A node that crashed
// and comes back is another member, and its former boot becomes Dead at once
// when the new one listens at the same address. Suspect is this node's own
// impression (its stream to the member failed), the others are the cluster's.
//
// # Times
//
// From kill -9 of a member's process until one other member suspects it, and
// until all others report it dead; median, 95th percentile and longest of 30
// kills in milliseconds, over loopback on two cores that were busy with other
// work (load average 8):
//
//	            nodes   suspected           dead everywhere
//	Probe 100 ms  3     168  268   368       529   668   907
//	              5     331  533   634       606   684   733
//	Probe 200 ms  3     365  790   792      1065  1291  1389   (the default)
//	              5     651 1203  1263      1203  1462  2553
//	Probe 500 ms  3     996 1538  2075      2549  3247  3644
//	              5    1446 2462  3669      2909  3459  3669
//
// In two minutes with four times as much work as the machine can do (load
// average 28), five members in five processes were never reported dead, and one
// was suspected once. Both by
// go test -run XXX -bench . -benchtime 30x ./cluster/gossip.
//
// The times grow with the logarithm of the number of nodes above ten. Leave is
// seen at once.
//
// # Invariants
//
//   - An id that was reported Left or Dead is never reported under another
//     boot's state, metadata or address.
//   - With keys, nothing of a peer without one of them is believed. The first
//     key encrypts, all decrypt: add the new key everywhere as the second one,
//     then make it the first everywhere, then drop the old one.
//   - Without keys, whoever reaches the port can say anything: for loopback and
//     networks of one's own. Ids and metadata that are not ours are refused.
//   - Groups of nodes that formed apart find each other as long as one knows a
//     seed, or a former member, of another. Every Config.Retry each node tries
//     the seeds it does not see, and one member that died.
//   - After Stop no goroutine of this package or of memberlist is left, and the
//     port is free.
package gossip
