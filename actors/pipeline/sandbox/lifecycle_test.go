package sandbox

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestWorkersAreReusedRecycledAndReaped(t *testing.T) {
	p := newPool(t, "hostile-worker", Config{Size: 2, MaxJobs: 3, IdleTime: 50 * time.Millisecond})
	pids := map[string]int{}
	for range 6 {
		pids[strings.Fields(wantText(t, p, "ok", ""))[0]]++
	}
	for pid, n := range pids {
		if n != 3 && len(pids) == 2 {
			t.Errorf("worker %s served %d jobs", pid, n)
		}
	}
	wantText(t, p, "ok", "")
	deadline := time.Now().Add(10 * time.Second)
	for idleCount(p) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("an idle worker was not ended")
		}
		time.Sleep(5 * time.Millisecond) // the reaper has no signal to wait on
	}
}

func idleCount(p *Pool) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

func TestWorkerHasNoSecretsNetworkOrPrograms(t *testing.T) {
	t.Setenv("GRANARY_TOKEN", "secret")
	p := newPool(t, "hostile-worker", Config{})
	if env := wantText(t, p, "env", ""); strings.Contains(env, "secret") || strings.Contains(env, "HOME=") {
		t.Errorf("environment %s", env)
	}
	if runtime.GOOS != "linux" {
		return
	}
	for _, name := range []string{"net", "exec"} {
		if got := wantText(t, p, name, ""); !strings.Contains(got, "operation not permitted") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestCloseLeavesNoProcess(t *testing.T) {
	p := newPool(t, "hostile-worker", Config{Size: 3})
	pid, err := strconv.Atoi(strings.Fields(wantText(t, p, "ok", ""))[0])
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		close(started)
		_, err := p.Parse(context.Background(), Request{Name: "sleep", Data: strings.NewReader("")})
		failed <- err
	}()
	<-started
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Errorf("the running job: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := ask(t, p, "ok", ""); !errors.Is(err, ErrClosed) {
		t.Errorf("Parse after Close: %v", err)
	}
	if processExists(pid) {
		t.Errorf("process %d lives on", pid)
	}
}

func TestStderrIsCapped(t *testing.T) {
	var h headBuffer
	for range 100 {
		if n, err := h.Write(bytes.Repeat([]byte("x"), 1000)); n != 1000 || err != nil {
			t.Fatal(n, err)
		}
	}
	if n := len(h.take()); n != maxStderr {
		t.Errorf("kept %d bytes", n)
	}
	p := newPool(t, "hostile-worker", Config{})
	wantText(t, p, "noise", "")
}

func BenchmarkFirstTextOfANewWorker(b *testing.B) {
	for b.Loop() {
		p := newPool(b, "parse-worker", Config{})
		if _, err := ask(b, p, "a.txt", "text"); err != nil {
			b.Fatal(err)
		}
		_ = p.Close()
	}
}

func BenchmarkTextOfAWarmWorker(b *testing.B) {
	p := newPool(b, "parse-worker", Config{MaxJobs: 1 << 30})
	data := strings.Repeat("A line of text that is parsed.\n\n", 128)
	for b.Loop() {
		if _, err := ask(b, p, "a.txt", data); err != nil {
			b.Fatal(err)
		}
	}
}

func TestDefaultWorkerIsThisProgram(t *testing.T) {
	p, err := NewPool(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	if got := wantText(t, p, "a.txt", "text"); got != "text" {
		t.Errorf("got %q", got)
	}
}
