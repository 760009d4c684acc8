package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// confine sets the limits of the calling process, for good.
//
// RLIMIT_DATA counts what is mapped, touched or not, and the runtime has mapped
// some 100 MiB before it runs a line of ours, so the limit is MemoryBytes on
// top of that. What is touched in truth, the watchdog of the parent sees.
func confine(h hello) error {
	base, err := mappedData()
	if err != nil {
		return err
	}
	limits := []struct {
		name     string
		resource int
		value    uint64
	}{
		{"data", unix.RLIMIT_DATA, base + uint64(h.MemoryBytes)},
		{"cpu", unix.RLIMIT_CPU, h.CPUSeconds},
		{"core", unix.RLIMIT_CORE, 0},
		{"nofile", unix.RLIMIT_NOFILE, 64},
		{"fsize", unix.RLIMIT_FSIZE, 256 << 20}, // the compiled PDF module is all it writes
	}
	for _, l := range limits {
		if err := lowerLimit(l.resource, l.value); err != nil {
			return fmt.Errorf("limit of %s: %w", l.name, err)
		}
	}
	if err := dropSystemCalls(); err != nil {
		// Kernels and containers without seccomp exist; the limits above hold.
		fmt.Fprintf(os.Stderr, "network and exec are not dropped: %v\n", err)
	}
	return nil
}

// lowerLimit sets a soft and hard limit, or keeps a lower hard limit.
func lowerLimit(resource int, value uint64) error {
	var old unix.Rlimit
	if err := unix.Getrlimit(resource, &old); err != nil {
		return err
	}
	value = min(value, old.Max)
	return unix.Setrlimit(resource, &unix.Rlimit{Cur: value, Max: value})
}

// mappedData is the size of the private writable mappings of this process.
func mappedData() (uint64, error) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b)
	if len(f) < 6 {
		return 0, errors.New("unexpected format of /proc/self/statm")
	}
	pages, err := strconv.ParseUint(string(f[5]), 10, 64)
	return pages * uint64(os.Getpagesize()), err
}
