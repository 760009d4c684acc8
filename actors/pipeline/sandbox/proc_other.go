//go:build !linux

package sandbox

import (
	"errors"
	"os"
	"time"
)

// usage is what a process uses.
type usage struct {
	private int64
	cpu     time.Duration
}

// usageOf is not available: only the wall-clock deadline is watched.
func usageOf(int) (usage, error) { return usage{}, errors.ErrUnsupported }

// peakResident is not available.
func peakResident(*os.ProcessState) int64 { return 0 }
