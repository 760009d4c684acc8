package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// usage is what a process uses.
type usage struct {
	private int64         // resident memory that is not file-backed or shared, bytes
	cpu     time.Duration // user and system time of all threads
}

// clockTick is the unit of times in /proc/PID/stat: USER_HZ, which is 100 in
// the interface of every Linux architecture Go supports.
const clockTick = time.Second / 100

// usageOf reads the usage of a process of ours.
func usageOf(pid int) (usage, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	statm, err := os.ReadFile(dir + "/statm")
	if err != nil {
		return usage{}, err
	}
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return usage{}, err
	}
	m := bytes.Fields(statm)
	// The name of the program, in parentheses, may hold anything.
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(m) < 3 || len(f) < 13 {
		return usage{}, fmt.Errorf("unexpected format of %s/stat", dir)
	}
	var n [4]int64
	for i, field := range [][]byte{m[1], m[2], f[11], f[12]} {
		if n[i], err = strconv.ParseInt(string(field), 10, 64); err != nil {
			return usage{}, err
		}
	}
	return usage{private: (n[0] - n[1]) * int64(os.Getpagesize()), cpu: time.Duration(n[2]+n[3]) * clockTick}, nil
}

// peakResident is the most memory a process that has ended ever held.
func peakResident(s *os.ProcessState) int64 {
	if u, ok := s.SysUsage().(*syscall.Rusage); ok {
		return int64(u.Maxrss) << 10 //nolint:unconvert // int32 on 32-bit systems
	}
	return 0
}
