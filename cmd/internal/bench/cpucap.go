package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// capPeriod is how often a capped process gets its share: often enough that a
// node is slow instead of absent.
const capPeriod = 20 * time.Millisecond

// errNoCap says that this machine does not let us cap the CPU of a process.
var errNoCap = errors.New("control groups cannot be made here")

// cpuCap is a control group that holds one process to a share of a core.
type cpuCap struct {
	dir     string
	unified bool // version 2
}

// newCPUCap makes a group without a limit. Remove it once its process has ended.
func newCPUCap(name string) (*cpuCap, error) {
	for _, at := range []cpuCap{{dir: "/sys/fs/cgroup/cpu"}, {dir: "/sys/fs/cgroup", unified: true}} {
		limit := at.limitFile()
		at.dir = filepath.Join(at.dir, name)
		if os.Mkdir(at.dir, 0o755) != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(at.dir, limit)); err == nil {
			return &at, nil
		}
		_ = os.Remove(at.dir)
	}
	return nil, errNoCap
}

// canCap tells whether groups can be made.
func canCap() bool {
	c, err := newCPUCap(fmt.Sprintf("granary-bench-%d", os.Getpid()))
	return err == nil && c.remove() == nil
}

func (c *cpuCap) limitFile() string {
	if c.unified {
		return "cpu.max"
	}
	return "cpu.cfs_quota_us"
}

// hold puts a process into the group.
func (c *cpuCap) hold(pid int) error {
	return os.WriteFile(filepath.Join(c.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// limit sets the share of a core, 0 for none.
func (c *cpuCap) limit(share float64) error {
	period := capPeriod.Microseconds()
	quota := int64(share * float64(period))
	if c.unified {
		text := fmt.Sprintf("max %d", period)
		if share > 0 {
			text = fmt.Sprintf("%d %d", quota, period)
		}
		return os.WriteFile(filepath.Join(c.dir, c.limitFile()), []byte(text), 0)
	}
	if share <= 0 {
		quota = -1
	}
	return errors.Join(
		os.WriteFile(filepath.Join(c.dir, "cpu.cfs_period_us"), []byte(strconv.FormatInt(period, 10)), 0),
		os.WriteFile(filepath.Join(c.dir, c.limitFile()), []byte(strconv.FormatInt(quota, 10)), 0))
}

func (c *cpuCap) remove() error { return os.Remove(c.dir) }

// cpuOfProcess is the CPU time that a process has used, its ended children aside.
func cpuOfProcess(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:]) // state is the first
	var ticks int64
	for _, i := range []int{11, 12} { // utime, stime
		if i >= len(fields) {
			return 0, fmt.Errorf("process %d: no CPU time in its status", pid)
		}
		n, err := strconv.ParseInt(string(fields[i]), 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}
