//go:build unix && !linux

package pgtest

import "syscall"

// dieWithParent: only Linux can tie a process to its parent.
func dieWithParent(*syscall.SysProcAttr) {}
