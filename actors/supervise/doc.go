// Package supervise decides what becomes of a grain's child that failed: it is
// restarted after a growing, random delay, and stopped after the last try.
//
// Authority: a [Backoff] belongs to one parent, which decides about its own
// children only. Whether a child's work is worth another try is the parent's
// business; here only time and number count.
//
// Invariants
//   - The parent is never blocked: a delay is a timer, and the child's mailbox
//     is suspended meanwhile.
//   - A child is restarted at most MaxRetries times between two stretches of
//     ResetAfter without a failure; the failure after that stops it.
//   - After Close no timer is left and no child is restarted.
//
// protoactor's own "exponential" strategy grows linearly, jitters by
// nanoseconds, never gives up and cannot be cancelled.
package supervise
