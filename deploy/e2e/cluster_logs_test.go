//go:build unix

package e2e

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// trouble are lines of a node's log that no fault excuses.
var trouble = regexp.MustCompile(`(?m)^(panic:|fatal error:|WARNING: DATA RACE)|msg="internal error"|grain panicked`)

// checkLogs wants no crash and no secret in the nodes' logs.
func (c *cluster) checkLogs(t *testing.T) {
	c.mu.Lock()
	surprises := c.surprises
	c.mu.Unlock()
	for _, s := range surprises {
		t.Error(s)
	}
	for _, m := range c.members {
		raw, err := os.ReadFile(m.log.Name())
		if err != nil {
			t.Error(err)
		}
		for i, found := range trouble.FindAllIndex(raw, -1) {
			if i < 3 {
				end := min(len(raw), found[0]+2000)
				t.Errorf("log of %s: %s", m.name, raw[found[0]:end])
			}
		}
		if bytes.Contains(raw, []byte(c.pg.Password())) {
			t.Errorf("the log of %s has the password of the store", m.name)
		}
	}
}

// keepLogs copies the logs to where they outlive the test.
func (c *cluster) keepLogs(t *testing.T) {
	dir, err := os.MkdirTemp(*chaosLogs, "granary-chaos-logs-")
	if err != nil {
		t.Error(err)
		return
	}
	for _, m := range c.members {
		raw, err := os.ReadFile(m.log.Name())
		if err = errors.Join(err, os.WriteFile(filepath.Join(dir, m.name+".log"), raw, 0o600)); err != nil {
			t.Error(err)
		}
		if !t.Failed() {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
		t.Logf("end of the log of %s:\n%s", m.name, strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
	t.Logf("the nodes' logs are kept in %s", dir)
}
