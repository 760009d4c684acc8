package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/parse"
)

// ErrClosed is returned by Parse after Close.
var ErrClosed = errors.New("parse pool is closed")

// Pool parses sources in worker processes. Its methods may be called from many
// goroutines.
type Pool struct {
	cfg     Config
	spawner *spawner
	gate    *gate
	ctx     context.Context
	cancel  context.CancelFunc
	jobIDs  atomic.Uint64

	mu     sync.Mutex
	idle   []*process // the last used is at the end, and used next
	closed bool
	users  sync.WaitGroup // jobs and reapers
}

// NewPool makes a pool. No worker is started before the first job.
func NewPool(c Config) (*Pool, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("parse pool: %w", err)
	}
	p := &Pool{cfg: c, spawner: startSpawner(), gate: newGate(c.Size)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Request is one source, either the file at Path, which the worker opens for
// reading, or the Size bytes of Data.
type Request struct {
	Tenant    string // whose turn it takes
	Name      string
	MediaType string
	Path      string
	Data      io.ReaderAt
	Size      int64 // bytes of the source, also for Path
}

// Parse parses a source in a worker. It waits for a free worker as long as ctx
// allows. Failures are those of parse.Parse, and of the worker:
//   - OUT_OF_MEMORY, the job needed more than Config.MemoryBytes;
//   - TIMEOUT, it used up its CPU time, or its wall time (then retryable);
//   - CRASHED, the worker ended or answered garbage. If the worker had served
//     other jobs before, the job is tried once more on a fresh one first.
func (p *Pool) Parse(ctx context.Context, r Request) (*pipeline.Parsed, error) {
	if r.Size > p.cfg.Limits.SourceBytes {
		return nil, parseError(parse.ReasonTooLarge, fmt.Sprintf("the file has %d bytes, at most %d are read", r.Size, p.cfg.Limits.SourceBytes), false, nil)
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.users.Done()
	if err := p.wait(ctx, r.Tenant); err != nil {
		return nil, err
	}
	defer p.gate.leave(r.Tenant)
	out, used, err := p.attempt(ctx, r, false)
	if used && pipeline.ReasonOf(err) == parse.ReasonCrashed {
		out, _, err = p.attempt(ctx, r, true)
	}
	return out, err
}

// wait waits for the tenant's turn.
func (p *Pool) wait(ctx context.Context, tenant string) error {
	waitCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	err := p.gate.enter(waitCtx, tenant)
	switch {
	case err == nil:
		return nil
	case p.ctx.Err() != nil:
		return ErrClosed
	}
	return fmt.Errorf("wait for a parse worker: %w", err)
}

// enter registers a user of the pool.
func (p *Pool) enter() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	p.users.Add(1)
	return nil
}

// Close stops all workers, also busy ones, whose jobs fail with ErrClosed. It
// is idempotent.
func (p *Pool) Close() error {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	p.cancel()
	for _, w := range idle {
		w.stop(p.cfg)
	}
	p.users.Wait()
	if first {
		p.spawner.stop()
	}
	return nil
}

// answer is the outcome of a job on a worker.
type answer struct {
	parsed *pipeline.Parsed
	failed error // of the job
	broken error // the worker cannot be used any more; without failed, it is the cause
}

// attempt runs the job on one worker. used tells that the worker had served
// other jobs before.
func (p *Pool) attempt(ctx context.Context, r Request, fresh bool) (out *pipeline.Parsed, used bool, err error) {
	w, err := p.worker(fresh)
	if err != nil {
		return nil, false, fmt.Errorf("start parse worker: %w", err)
	}
	used = w.jobs > 0
	w.stderr.take() // of earlier jobs: it would be taken for a sign of this one
	job := jobFrame{ID: p.jobIDs.Add(1), Name: r.Name, MediaType: r.MediaType, Path: r.Path, Size: r.Size, Limits: p.cfg.Limits}

	jobCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	stop, judged := make(chan struct{}), make(chan verdict, 1)
	go func() { judged <- w.watch(jobCtx, p.cfg, stop) }()
	a := w.do(job, r.Data)
	close(stop)
	v := <-judged

	if a.broken == nil && v == verdictNone && pipeline.ReasonOf(a.failed) != parse.ReasonCrashed {
		p.release(w)
		return a.parsed, used, a.failed
	}
	starved := w.stop(p.cfg)
	if a.broken == nil && a.failed != nil && starved && v == verdictNone {
		return nil, false, outOfMemory(p.cfg, a.failed) // the parser panicked for want of memory
	}
	if a.broken == nil || a.failed != nil { // the answer came before the axe, the parser panicked, or the source failed
		return a.parsed, false, a.failed
	}
	return nil, used, p.causeOf(ctx, v, a.broken, starved)
}

// causeOf names the failure of a worker.
func (p *Pool) causeOf(ctx context.Context, v verdict, broken error, starved bool) error {
	switch v {
	case verdictMemory:
		return outOfMemory(p.cfg, broken)
	case verdictCPU:
		return parseError(parse.ReasonTimeout, fmt.Sprintf("parsing took more than %v of processor time", p.cfg.CPUTime), false, broken)
	case verdictWall:
		return parseError(parse.ReasonTimeout, fmt.Sprintf("parsing took longer than %v", p.cfg.WallTime), true, broken)
	case verdictCancelled:
		if p.ctx.Err() != nil {
			return ErrClosed
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return parseError(parse.ReasonTimeout, "parsing took longer than the deadline", true, ctx.Err())
		}
		return fmt.Errorf("parse: %w", ctx.Err())
	}
	if starved {
		return outOfMemory(p.cfg, broken)
	}
	return parseError(parse.ReasonCrashed, "the parser failed on this file", false, broken)
}

func outOfMemory(c Config, cause error) error {
	return parseError(parse.ReasonOutOfMemory, fmt.Sprintf("parsing needs more than %d MiB of memory", c.MemoryBytes>>20), false, cause)
}

func parseError(reason, message string, retryable bool, cause error) error {
	return &pipeline.Error{Stage: "parse", Reason: reason, Message: message, Retryable: retryable, Err: cause}
}

// worker takes an idle worker, the last used first, or starts one.
func (p *Pool) worker(fresh bool) (*process, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 && !fresh {
		w := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		w.timer.Stop()
		return w, nil
	}
	p.mu.Unlock()
	return startProcess(p.spawner, p.cfg)
}

// release puts a worker back, or replaces it after enough jobs. A worker that has
// grown to half of its memory is not given to the next job.
func (p *Pool) release(w *process) {
	u, err := usageOf(w.pid())
	grown := err == nil && u.private > p.cfg.MemoryBytes/2
	p.mu.Lock()
	keep := !p.closed && !grown && w.jobs < p.cfg.MaxJobs && len(p.idle) < p.cfg.Size
	replace := !keep && !p.closed
	switch {
	case keep:
		p.keep(w)
	case replace:
		p.users.Add(1)
	}
	p.mu.Unlock()
	switch {
	case replace:
		go p.replace(w)
	case !keep:
		w.stop(p.cfg)
	}
}

// keep makes a worker idle; p.mu is held.
func (p *Pool) keep(w *process) {
	w.timer = time.AfterFunc(p.cfg.IdleTime, func() { p.reap(w) })
	p.idle = append(p.idle, w)
}

// replace starts the next worker before a job needs it, and ends the old one: both
// take tens of milliseconds, which are nobody's who only wants a text parsed.
func (p *Pool) replace(old *process) {
	defer p.users.Done()
	fresh, err := startProcess(p.spawner, p.cfg)
	if err != nil {
		p.cfg.Logger.Warn("start parse worker", "err", err) // the next job tries again, and tells
	} else {
		p.mu.Lock()
		keep := !p.closed && len(p.idle) < p.cfg.Size
		if keep {
			p.keep(fresh)
		}
		p.mu.Unlock()
		if !keep {
			fresh.stop(p.cfg)
		}
	}
	old.stop(p.cfg)
}

// reap ends a worker that is still idle.
func (p *Pool) reap(w *process) {
	p.mu.Lock()
	found := false
	for i, x := range p.idle {
		if x == w {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			found = true
			p.users.Add(1) // Close waits for what is taken out of its hands
			break
		}
	}
	p.mu.Unlock()
	if found {
		w.stop(p.cfg)
		p.users.Done()
	}
}
