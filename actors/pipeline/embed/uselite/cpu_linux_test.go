package uselite

import (
	"time"

	"golang.org/x/sys/unix"
)

// threadCPU is the CPU time that this thread has used, which other work on the
// machine does not stretch. The caller has locked its thread.
func threadCPU() time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
