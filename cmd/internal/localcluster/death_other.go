//go:build unix && !linux

package main

import "syscall"

// dieWithParent: only Linux can tie a process to its parent.
func dieWithParent(*syscall.SysProcAttr) {}
