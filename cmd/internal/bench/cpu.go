package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// usage is what was used since a moment.
type usage struct {
	wall time.Duration
	cpu  time.Duration // of this process and of those children that have ended
	kids time.Duration // of these children alone
	host time.Duration // of all processes of the machine; 0 where that is unknown
}

// meter measures from its making on.
type meter struct {
	at   time.Time
	cpu  time.Duration
	kids time.Duration
	host time.Duration
}

func newMeter() meter {
	return meter{at: time.Now(), cpu: cpuTime(), kids: cpuOf(syscall.RUSAGE_CHILDREN), host: hostTime()}
}

func (m meter) read() usage {
	return usage{wall: time.Since(m.at), cpu: cpuTime() - m.cpu, kids: cpuOf(syscall.RUSAGE_CHILDREN) - m.kids, host: hostTime() - m.host}
}

// ours is how many cores were ours to use: all, less what other programs of
// the machine kept busy meanwhile.
func (u usage) ours() float64 {
	cores := float64(runtime.GOMAXPROCS(0))
	others := float64(u.host-u.cpu) / float64(u.wall)
	return max(cores-max(others, 0), float64(u.cpu)/float64(u.wall))
}

func cpuTime() time.Duration { return cpuOf(syscall.RUSAGE_SELF) + cpuOf(syscall.RUSAGE_CHILDREN) }

func cpuOf(who int) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// tick is the unit of /proc/stat, which Linux has fixed at 1/100 s.
const tick = 10 * time.Millisecond

// hostTime is the time that all processors of the machine were busy.
func hostTime() time.Duration {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	fields := bytes.Fields(line) // cpu user nice system idle iowait irq softirq steal …
	var sum time.Duration
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		if i < len(fields) {
			n, _ := strconv.ParseInt(string(fields[i]), 10, 64)
			sum += time.Duration(n) * tick
		}
	}
	return sum
}

// quantile gives the value below which a share p of the durations lies.
func quantile(d []time.Duration, p float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[min(len(d)-1, int(p*float64(len(d))))]
}

// heap is the live Go heap.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools kept in the first one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func ms(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}
