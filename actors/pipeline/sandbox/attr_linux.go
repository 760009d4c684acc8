package sandbox

import "syscall"

// workerAttr gives a worker a session of its own, out of reach of signals from
// the server's terminal, and has the kernel kill it when its parent dies.
func workerAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}
