//go:build !linux

package uselite

import "time"

// threadCPU is the wall clock where threads have no clock of their own.
func threadCPU() time.Duration { return time.Duration(time.Now().UnixNano()) }
