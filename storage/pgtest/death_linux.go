package pgtest

import "syscall"

// dieWithParent stops the server at once when the test process is gone: a test
// that is killed leaves no server behind.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }
