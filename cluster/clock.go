package cluster

import "time"

var processStart = time.Now() // the zero of a monotonic clock

// processClock is the time since the process started, by Go's monotonic clock.
func processClock() time.Duration { return time.Since(processStart) }
