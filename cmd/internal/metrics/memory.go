package metrics

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
)

// memoryLimit is what this process may use at most; ok is false where nobody tells.
func memoryLimit() (bytes float64, ok bool) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return 0, false
	}
	if m, err := fs.Meminfo(); err == nil && m.MemTotalBytes != nil {
		bytes, ok = float64(*m.MemTotalBytes), true
	}
	self, err := fs.Self()
	if err != nil {
		return bytes, ok
	}
	groups, err := self.Cgroups()
	if err != nil {
		return bytes, ok
	}
	for _, g := range groups {
		if g.HierarchyID != 0 {
			continue // of version 1
		}
		if limit, set := groupLimit("/sys/fs/cgroup", g.Path); set && (!ok || limit < bytes) {
			bytes, ok = limit, true
		}
	}
	return bytes, ok
}

// groupLimit is the least memory.max of a control group and those it is in.
func groupLimit(root, group string) (bytes float64, ok bool) {
	for dir := filepath.Clean("/" + group); ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(root, dir, "memory.max"))
		if n, bad := strconv.ParseFloat(strings.TrimSpace(string(text)), 64); err == nil && bad == nil && (!ok || n < bytes) {
			bytes, ok = n, true // "max" is no number
		}
		if dir == "/" {
			return bytes, ok
		}
	}
}
