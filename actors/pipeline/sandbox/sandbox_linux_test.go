package sandbox

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tryMapping maps private memory and tells the error.
func tryMapping(size int) string {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err == nil {
		_ = unix.Munmap(b)
	}
	return fmt.Sprint(err)
}

func processExists(pid int) bool { return unix.Kill(pid, 0) == nil }

// orphanMaker starts a worker, tells its pid and waits to be killed.
func orphanMaker() {
	exe, err := os.Executable()
	if err != nil {
		exitWith(err)
	}
	p, err := NewPool(Config{Command: []string{exe, "hostile-worker"}})
	if err != nil {
		exitWith(err)
	}
	out, err := p.Parse(context.Background(), Request{Name: "ok", Data: strings.NewReader("")})
	if err != nil {
		exitWith(err)
	}
	_, _ = os.Stdout.WriteString(strings.Fields(out.Text)[0] + "\n")
	_, _ = p.Parse(context.Background(), Request{Name: "sleep", Data: strings.NewReader("")})
}

func TestWorkersDieWithTheServer(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "orphan-maker")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for deadline := time.Now().Add(10 * time.Second); running(pid); {
		if time.Now().After(deadline) {
			t.Fatalf("worker %d has outlived its server", pid)
		}
		time.Sleep(5 * time.Millisecond) // a process of another parent gives no signal
	}
}

// running tells a live process from one that waits to be reaped.
func running(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestUsageIsThatOfTheProcess(t *testing.T) {
	before, err := usageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 64<<20)
	for i := range block {
		block[i] = byte(i)
	}
	for start := time.Now(); time.Since(start) < 100*time.Millisecond; {
		block[0]++
	}
	after, err := usageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if after.private < before.private+48<<20 || after.cpu < before.cpu+50*time.Millisecond {
		t.Errorf("from %+v to %+v", before, after)
	}
	if block[1] != 1 {
		t.Error("unreachable, keeps the block alive")
	}
}
