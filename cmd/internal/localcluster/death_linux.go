package main

import "syscall"

// dieWithParent ends a node when this process is gone: killed, it leaves none behind.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGTERM }
