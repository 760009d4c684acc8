//go:build crashpoints

package crashpoint

import (
	"os"
	"strconv"
	"strings"
	"sync"
)

var (
	file = os.Getenv("GRANARY_CRASHPOINTS")
	mu   sync.Mutex
	left int // steps until the last one; 0: not armed
)

// Here marks a step.
func Here(step string) {
	mu.Lock()
	defer mu.Unlock()
	switch n := armed(); {
	case n == 0:
		left = 0
		return
	case left == 0:
		left = n
	}
	if left--; left > 0 {
		return
	}
	if self, err := os.FindProcess(os.Getpid()); err == nil && os.WriteFile(file+".died", []byte(step), 0o600) == nil {
		_ = self.Kill()
	}
	select {} // with the lock: no other step is taken until the process is gone
}

// armed reads the file; 0 when there is none.
func armed() int {
	if file == "" {
		return 0
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return max(n, 0)
}
