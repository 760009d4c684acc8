package cluster

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootClock is the time since the machine started, suspended time included: a
// lease goes on running out while the machine sleeps, and Go's own monotonic
// clock stops then.
func bootClock() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return processClock()
	}
	return time.Duration(t.Nano())
}
