//go:build !unix

package search_test

import "time"

// cpuTime is not known here; ratios then compare nothing.
func cpuTime() time.Duration { return 0 }
