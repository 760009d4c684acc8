//go:build unix

package e2e

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// H3: a node that is told to stop while it waits for its database, or for its
// place among the members, has done nothing wrong.
func TestNodeToldToStopBeforeItIsReadyEndsInOrder_H3(t *testing.T) {
	log := &logBuffer{}
	cmd := exec.Command(binary, "serve", "--dev", "--data", t.TempDir(), "--node", "n1", "--store", "postgres://nobody@"+freePort(t)+"/none",
		"--listen", freePort(t), "--gossip", freePort(t), "--actors", freePort(t))
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, childAttributes()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(log.String(), "waits for it"); {
		if time.Now().After(deadline) {
			t.Fatalf("the node does not wait for its database\n%s", log)
		}
		time.Sleep(20 * time.Millisecond) // polling another process
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v\n%s", err, log)
	}
}
