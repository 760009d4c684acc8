// Package sim runs the ownership protocol through seeded schedules of faults and
// checks its invariants at each step. It is a test bench: nothing of the product
// imports it.
//
// One schedule is one [Run]: a seed draws a small cluster (2 to 5 nodes and a
// spare, 1 to 3 knowledge bases), its clients, how its network and clocks
// behave, and which faults strike when. Time is virtual. The nodes are
// [protocol.Node], the store executes the statements of package protocol, one
// at an instant each; what is modelled here is the rest: a grain as package
// actors has it, the vector store, the network, and clients that retry.
//
// Faults: kill and restart with a new boot, stop and continue (SIGSTOP, suspend),
// links that lose, repeat, delay, or fail one way, a store that is away or slow
// for one node or all, whose statements may happen long after their caller gave
// up, clocks of different speed; and the ordinary life: join, drain, relocate,
// passivate. After the last fault everything heals and each knowledge base must
// serve again.
//
// Authority and invariants: the checker (check.go) keeps its own record of what
// was acquired, committed and answered, and never asks the protocol. It checks
// I1–I12 and I14 of the design (I13 is not a matter of this protocol):
//
//	I1  a commit comes from the last activation that was acquired
//	I2  epochs rise by one
//	I3  head = number of events, before and after each commit
//	I4  what was acknowledged is in the journal at the end
//	I5  a key is in the journal once and always answered with the same seq
//	I6  reads and writes of a KB are linearizable
//	I7  nothing is acknowledged that is not in the journal; nothing that was
//	    answered as failed ever comes to be
//	I8  a search shows the points of the committed attempt only
//	I9  a committed attempt has exactly its points, as long as it is live
//	I10 unfinished work has a wake-up, and is done in the end
//	I11 a version of the view has one content; the view keeps its own rules
//	I12 a grain's state is the fold of the events up to its revision
//	I14 each KB serves a write and a leased read within 10 s after the last fault
//
// [Rules] switches single rules off, to show that the checker would notice.
//
// What it found in the protocol as it was first written, each now a test of
// package protocol: rounds that rushed ahead while leases of members had expired;
// a wait of one TTL that every later view began anew, so that a grain nobody held
// stayed shut for all ten rounds of a join; a view reported as acted on before the
// grains were handed over; two nodes that took turns in relocating a tenant. And
// once in 250,000 schedules, in the grain: an owner that had been fenced while it
// loaded found the idempotency record of its successor's commit and acknowledged
// it, when the successor did not know yet that it had committed and still
// answered reads without it. Records must be read under a verified fence.
package sim
