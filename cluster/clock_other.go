//go:build !linux

package cluster

import "time"

// bootClock is the process's monotonic clock. Where that stops while the machine
// is suspended, a lease seems to last longer than it does: nodes of a cluster
// should run on Linux.
func bootClock() time.Duration { return processClock() }
