//go:build !unix

package sandbox

import "syscall"

// workerAttr is nothing: a worker ends with its input when its parent dies.
func workerAttr() *syscall.SysProcAttr { return nil }
