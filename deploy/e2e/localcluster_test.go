//go:build unix

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"granary.dev/granary/storage/pgtest"
)

// local is a run of what `make cluster` runs.
type local struct {
	t    *testing.T
	dir  string
	port int // of the first API
	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended

	mu  sync.Mutex
	out bytes.Buffer
}

func (l *local) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *local) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

// row is how many ports a cluster of three nodes takes, one behind the other.
const row = 12

func startLocal(t *testing.T, program, dir string) *local {
	t.Helper()
	l := &local{t: t, dir: dir, port: freeRow(t), done: make(chan struct{})}
	l.cmd = exec.Command(program, "-granary", binary, "-data", dir, "-api-port", strconv.Itoa(l.port),
		"-gossip-port", strconv.Itoa(l.port+3), "-actors-port", strconv.Itoa(l.port+6), "-metrics-port", strconv.Itoa(l.port+9))
	l.cmd.Stdout, l.cmd.Stderr, l.cmd.SysProcAttr = l, l, &syscall.SysProcAttr{Setpgid: true}
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		l.err = l.cmd.Wait()
		close(l.done)
	}()
	t.Cleanup(func() {
		_ = l.cmd.Process.Kill()
		<-l.done
	})
	l.await("^C drains")
	return l
}

// freeRow gives the first of row free ports, below those the kernel hands out.
func freeRow(t *testing.T) int {
	t.Helper()
	for first := 20000; first < 32000; first += row {
		if portsFree(first + os.Getpid()%row) {
			return first + os.Getpid()%row
		}
	}
	t.Fatal("no free ports")
	return 0
}

func portsFree(first int) bool {
	for p := first; p < first+row; p++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}

// await waits for words in the output.
func (l *local) await(words string) {
	l.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !strings.Contains(l.text(), words); time.Sleep(50 * time.Millisecond) {
		select {
		case <-l.done:
			l.t.Fatalf("it ended (%v):\n%s", l.err, l.text())
		default:
		}
		if time.Now().After(end) {
			l.t.Fatalf("no %q in:\n%s", words, l.text())
		}
	}
}

var pidOf = regexp.MustCompile(`(n\d)  http.* pid (\d+) `)

// pids are the processes of the nodes at the start.
func (l *local) pids() map[string]int {
	out := map[string]int{}
	for _, m := range pidOf.FindAllStringSubmatch(l.text(), -1) {
		out[m[1]], _ = strconv.Atoi(m[2])
	}
	return out
}

// granary runs a command against a node, the first one being 0.
func (l *local) granary(node int, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	args = append(args, "--data", filepath.Join(l.dir, "n1"), "--server", fmt.Sprintf("http://127.0.0.1:%d", l.port+node))
	out, err := exec.CommandContext(ctx, binary, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("granary %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func (l *local) awaitEnd() {
	l.t.Helper()
	select {
	case <-l.done:
	case <-time.After(2 * time.Minute):
		l.t.Fatalf("it does not end:\n%s", l.text())
	}
}

func awaitGone(t *testing.T, pids map[string]int) {
	t.Helper()
	for name, pid := range pids {
		for end := time.Now().Add(time.Minute); !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s, process %d, is still there", name, pid)
			}
		}
	}
}

func TestOneCommandRunsAClusterThatOutlivesANodeAndLeavesNothing_A2_E5(t *testing.T) {
	if testing.Short() {
		t.Skip("several processes")
	}
	needPostgres(t)
	base, err := os.MkdirTemp("", "granary-local-") // PostgreSQL's account may have to enter it
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(base)
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(base, "localcluster")
	if out, err := exec.Command("go", "build", "-o", program, "granary.dev/granary/cmd/internal/localcluster").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l := startLocal(t, program, filepath.Join(base, "data"))
	if _, err := l.granary(1, "kb", "create", "handbook"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(l.pids()["n2"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := l.granary(2, "kb", "get", "handbook"); err != nil {
		t.Error(err)
	}
	l.await("n2 started again")
	pids := l.pids()
	if err := l.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	l.awaitEnd()
	if l.err != nil || strings.Count(l.text(), "draining") != 3 {
		t.Errorf("stopped with %v:\n%s", l.err, l.text())
	}
	awaitGone(t, pids)
	if !portsFree(l.port) {
		t.Error("a port is still taken")
	}
	again := startLocal(t, program, l.dir)
	if _, err := again.granary(0, "kb", "get", "handbook"); err != nil {
		t.Errorf("in the second run: %v", err)
	}
	if runtime.GOOS != "linux" {
		return
	}
	pids = again.pids()
	pids["PostgreSQL"] = postmaster(t, l.dir)
	_ = again.cmd.Process.Kill()
	awaitGone(t, pids)
}

// postmaster reads the process id of PostgreSQL.
func postmaster(t *testing.T, dir string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "postgres", "server", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(data), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// needPostgres skips, or fails, where there is no PostgreSQL.
func needPostgres(t *testing.T) {
	t.Helper()
	s, err := pgtest.Start(t.Context(), pgtest.Options{})
	pgtest.SkipWithout(t, err)
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}
