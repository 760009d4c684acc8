package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

// process is one worker process. One goroutine at a time uses it.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr *headBuffer
	jobs   int         // served
	timer  *time.Timer // ends it when it has been idle for long
}

// spawner starts processes from one thread that lives as long as the pool: the
// death signal of a child is tied to the thread that made it.
type spawner struct {
	requests chan spawnRequest
	done     chan struct{}
}

type spawnRequest struct {
	cmd   *exec.Cmd
	reply chan error
}

func startSpawner() *spawner {
	s := &spawner{requests: make(chan spawnRequest), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for r := range s.requests {
			r.reply <- r.cmd.Start()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) error {
	reply := make(chan error, 1)
	s.requests <- spawnRequest{cmd: cmd, reply: reply}
	return <-reply
}

// stop ends the thread; nothing may be starting.
func (s *spawner) stop() {
	close(s.requests)
	<-s.done
}

// startProcess starts a worker and says hello.
func startProcess(s *spawner, c Config) (*process, error) {
	// The worker outlives the job it was started for: its end is the pool's doing.
	cmd := exec.CommandContext(context.Background(), c.Command[0], c.Command[1:]...)
	cmd.Env = workerEnv()
	cmd.SysProcAttr = workerAttr()
	cmd.WaitDelay = 5 * time.Second
	p := &process{cmd: cmd, stderr: &headBuffer{}}
	cmd.Stderr = p.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, stdin.Close())
	}
	p.stdin, p.stdout = stdin, bufio.NewReaderSize(stdout, 64<<10)
	if err := s.start(cmd); err != nil {
		return nil, errors.Join(err, stdin.Close(), stdout.Close())
	}
	if err := writeJSON(p.stdin, c.hello()); err != nil {
		p.stop(c)
		return nil, fmt.Errorf("greet worker: %w", err)
	}
	return p, nil
}

// workerEnv is the whole environment of a worker. Two threads of Go code are
// enough: the parser, and the collector beside it.
func workerEnv() []string {
	env := []string{"GOMAXPROCS=2", "GOTRACEBACK=single", "TZ=UTC"}
	if root := os.Getenv("SystemRoot"); root != "" {
		env = append(env, "SystemRoot="+root) // Windows starts nothing without it
	}
	return env
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the process at once; whoever reads from it meets the end.
func (p *process) kill() { _ = p.cmd.Process.Kill() }

// stop ends the process, reaps it and passes on what it had to say. It returns
// whether the process looks like one that ran out of memory by itself.
func (p *process) stop(c Config) (starved bool) {
	if p.timer != nil {
		p.timer.Stop()
	}
	_ = p.stdin.Close()
	p.kill()
	err := p.cmd.Wait() // also for the copier of standard error
	text := p.stderr.take()
	if text != "" {
		c.Logger.Warn("parse worker wrote to standard error", "pid", p.pid(), "stderr", text, "exit", fmt.Sprint(err))
	}
	return saysStarved(text) || peakResident(p.cmd.ProcessState) >= c.MemoryBytes/4*3
}

// saysStarved tells the last words of a process that the kernel refused memory:
// those of the Go runtime for its heap, and for the stack of a new thread.
func saysStarved(stderr string) bool {
	for _, sign := range []string{"out of memory", "cannot allocate memory", "pthread_create failed", "failed to create new OS thread"} {
		if strings.Contains(stderr, sign) {
			return true
		}
	}
	return false
}

// do runs one job on the process.
func (p *process) do(j jobFrame, data io.ReaderAt) answer {
	p.jobs++
	if err := writeJSON(p.stdin, j); err != nil {
		return answer{broken: err}
	}
	if j.Path == "" {
		src := &sourceReader{r: io.NewSectionReader(data, 0, j.Size)}
		n, err := io.Copy(p.stdin, src)
		switch {
		case src.err != nil:
			return answer{failed: fmt.Errorf("read source: %w", src.err), broken: src.err}
		case err == nil && n != j.Size:
			err = fmt.Errorf("source has %d bytes, not %d: %w", n, j.Size, io.ErrUnexpectedEOF)
			return answer{failed: err, broken: err}
		case err != nil:
			return answer{broken: err}
		}
	}
	parsed, failed, broken := readAnswer(p.stdout, j.ID, j.Limits)
	return answer{parsed: parsed, failed: failed, broken: broken}
}

// sourceReader tells failures of the source from those of the worker.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// verdict is why the watchdog has killed a worker.
type verdict int

const (
	verdictNone verdict = iota
	verdictMemory
	verdictCPU
	verdictWall
	verdictCancelled
)

// watchEvery is how often a busy worker is measured. A process can touch some
// 50 MiB of new memory in that time; RLIMIT_DATA holds meanwhile.
const watchEvery = 20 * time.Millisecond

// watch measures the worker until stop is closed, and kills it when the job
// has used up its memory or time.
func (p *process) watch(ctx context.Context, c Config, stop <-chan struct{}) verdict {
	start, err := usageOf(p.pid())
	measured := err == nil
	wall := time.NewTimer(c.WallTime)
	defer wall.Stop()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		v := verdictNone
		select {
		case <-stop:
			return verdictNone
		case <-ctx.Done():
			v = verdictCancelled
		case <-wall.C:
			v = verdictWall
		case <-tick.C:
			if u, err := usageOf(p.pid()); measured && err == nil {
				v = judge(u, start, c)
			}
		}
		if v != verdictNone {
			p.kill()
			return v
		}
	}
}

func judge(u, start usage, c Config) verdict {
	switch {
	case u.private > c.MemoryBytes:
		return verdictMemory
	case u.cpu-start.cpu > c.CPUTime:
		return verdictCPU
	}
	return verdictNone
}

// headBuffer keeps the first bytes written to it and drops the rest: the first
// lines of a fatal error tell its cause, its stack traces may be long.
type headBuffer struct {
	mu sync.Mutex
	b  []byte
}

const maxStderr = 8 << 10

// Write implements io.Writer and never fails.
func (h *headBuffer) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b = append(h.b, b[:min(len(b), maxStderr-len(h.b))]...)
	return len(b), nil
}

// take returns what was kept, and starts anew.
func (h *headBuffer) take() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := string(h.b)
	h.b = h.b[:0]
	return s
}
