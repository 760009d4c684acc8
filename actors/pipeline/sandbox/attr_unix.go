//go:build unix && !linux

package sandbox

import "syscall"

// workerAttr gives a worker a session of its own. It ends with its input when
// its parent dies.
func workerAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
