//go:build !unix

package cluster

import "time"

// cpuTime is not known here: such a node never counts as loaded.
func cpuTime() time.Duration { return 0 }
