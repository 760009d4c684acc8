//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	readyTimeout = 60 * time.Second
	pollEvery    = 100 * time.Millisecond
	// drainTimeout is how long a node may take to give everything away.
	drainTimeout = 40 * time.Second
	// restartAfter is the pause before a crashed node is started again; it
	// doubles while the node crashes again within a minute.
	restartAfter = 5 * time.Second
	restartMost  = time.Minute
	// logTail is how much of a log goes into an error.
	logTail = 2 << 10
)

// node is one node's place; its processes come and go.
type node struct {
	name, data, logPath string
	api, gossip, actors string
	metrics             string
	binary              string
	args, env           []string

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process was waited for
	err   error         // how it ended
}

func newNode(o options, i int, store string) *node {
	addr := func(first int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(first+i)) }
	name := fmt.Sprintf("n%d", i+1)
	n := &node{name: name, data: filepath.Join(o.dir, name), logPath: filepath.Join(o.dir, name+".log"), binary: o.binary,
		api: addr(o.api), gossip: addr(o.gossip), actors: addr(o.actors), metrics: addr(o.metrics)}
	n.args = []string{"serve", "--dev", "--node", name, "--data", n.data, "--listen", n.api, "--gossip", n.gossip, "--actors", n.actors, "--metrics", n.metrics,
		"--join", net.JoinHostPort("127.0.0.1", strconv.Itoa(o.gossip))}
	// Not an argument, which everybody on the machine can see.
	n.env = append(os.Environ(), "GRANARY_STORE="+store)
	return n
}

// start runs the program over a fresh log, or goes on with the log of this run.
func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	mode := os.O_APPEND
	if n.cmd == nil {
		mode = os.O_TRUNC
	}
	log, err := os.OpenFile(n.logPath, os.O_CREATE|os.O_WRONLY|mode, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own
	cmd := exec.CommandContext(context.Background(), n.binary, n.args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = n.env, log, log
	// A group of its own: ^C in the terminal is for us, who stop the nodes in turn.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	ended := make(chan struct{})
	n.cmd, n.ended, n.err = cmd, ended, nil
	go func() {
		err := cmd.Wait()
		n.mu.Lock()
		n.err = err
		n.mu.Unlock()
		close(ended)
	}()
	return nil
}

func (n *node) pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd.Process.Pid
}

// end gives the channel that closes when the process has ended.
func (n *node) end() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ended
}

// result is how the process ended; nil when it was on purpose.
func (n *node) result() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

func (n *node) running() bool {
	select {
	case <-n.end():
		return false
	default:
		return true
	}
}

// awaitReady waits until the node serves; its error has the end of the log.
func (n *node) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !n.ready(ctx) {
		select {
		case <-tick.C:
		case <-n.end():
			return fmt.Errorf("%s ended at its start (%w); the end of %s:\n%s", n.name, n.result(), n.logPath, n.tail())
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return fmt.Errorf("%s is not ready after %v; the end of %s:\n%s", n.name, readyTimeout, n.logPath, n.tail())
		}
	}
	return nil
}

func (n *node) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.api+"/ready", http.NoBody)
	if err != nil {
		return false
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

func (n *node) tail() []byte {
	data, err := os.ReadFile(n.logPath)
	if err != nil {
		return []byte(err.Error())
	}
	return bytes.TrimSpace(data[max(0, len(data)-logTail):])
}

// supervise starts the node again when it crashes, until ctx ends.
func (n *node) supervise(ctx context.Context, say func(string, ...any)) {
	pause := restartAfter
	for {
		began := time.Now()
		select {
		case <-n.end():
		case <-ctx.Done():
			return
		}
		err := n.result()
		if err == nil {
			say("%s ended by itself", n.name)
			return
		}
		if time.Since(began) > time.Minute {
			pause = restartAfter
		}
		say("%s ended (%v); starting it again in %v", n.name, err, pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, restartMost)
		if err := n.start(); err != nil {
			say("%v", err)
			return
		}
		say("%s started again, pid %d", n.name, n.pid())
	}
}

// stop lets the node drain; when that takes too long, or hard ends, it is killed.
func (n *node) stop(hard context.Context) error {
	if !n.running() {
		return nil
	}
	n.mu.Lock()
	process := n.cmd.Process
	n.mu.Unlock()
	_ = process.Signal(syscall.SIGTERM) // it may have ended this moment
	patience := time.NewTimer(drainTimeout)
	defer patience.Stop()
	select {
	case <-n.end():
		if err := n.result(); err != nil {
			return fmt.Errorf("%s did not stop well: %w; see %s", n.name, err, n.logPath)
		}
		return nil
	case <-hard.Done():
	case <-patience.C:
	}
	_ = process.Kill()
	<-n.end()
	return fmt.Errorf("%s had to be killed; see %s", n.name, n.logPath)
}
