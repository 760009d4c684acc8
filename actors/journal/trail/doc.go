// Package trail proves that the audit of a tenant is whole: it makes signed
// checkpoints over its chains, exports them, and verifies an export, on a server or far
// from one. It reads the ports of package journal only, and needs no network.
//
// Authority: chains (journals and streams of accesses) show that nothing inside them
// was changed. They do not show that they were not made anew, or cut: that is what
// checkpoints are for. A checkpoint names the head of every chain, the checkpoint
// before it, and is signed with a key that the database does not have.
//
// What a verifier finds: the first link that does not hold and what is wrong with it, a
// removed beginning, middle or end, a missing chain, a checkpoint that is missing,
// changed, signed by somebody else or older than the one before it. What it cannot
// find alone is a database set back as a whole to an earlier moment: who wants to know
// keeps the number and hash of the last checkpoint somewhere else (Report.Last).
//
// Erasing a journal is no break: its chain goes on from the anchor in the owner row.
// Erasures are reported, for whoever verifies to compare with the accesses.
package trail
