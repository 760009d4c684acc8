//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"granary.dev/granary/storage/pgtest"
)

// options is what may be chosen.
type options struct {
	binary, dir                  string
	nodes                        int
	api, gossip, actors, metrics int // first ports
}

// cluster is what runs.
type cluster struct {
	options
	out io.Writer

	mu    sync.Mutex // of out
	pg    *pgtest.Server
	nodes []*node
}

// runCluster starts everything, waits for soft to end, and stops it in order;
// when hard ends, at once.
func runCluster(soft, hard context.Context, o options, out io.Writer) (err error) {
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(o.dir, "lock"))
	if err != nil {
		return err
	}
	c := &cluster{options: o, out: out}
	defer func() { err = errors.Join(err, c.stop(hard), unlock()) }()
	c.say("starting PostgreSQL …")
	// The start of PostgreSQL is not given up halfway: it would leave a folder
	// that is neither empty nor whole.
	c.pg, err = pgtest.Start(context.WithoutCancel(soft), pgtest.Options{TCP: true, Fsync: true, Home: filepath.Join(o.dir, "postgres")})
	if err != nil {
		return err
	}
	if err := c.startNodes(soft); err != nil {
		if soft.Err() != nil {
			return nil // stopped while it started
		}
		return err
	}
	c.welcome()
	var watch sync.WaitGroup
	for _, n := range c.nodes {
		watch.Go(func() { n.supervise(soft, c.say) })
	}
	<-soft.Done()
	watch.Wait()
	return nil
}

// startNodes starts the first one alone, which lays out the database, and then
// the others together.
func (c *cluster) startNodes(ctx context.Context) error {
	for i := range c.options.nodes {
		n := newNode(c.options, i, c.pg.URL("postgres"))
		if err := n.start(); err != nil {
			return err
		}
		c.nodes = append(c.nodes, n)
		if i == 0 {
			c.say("starting the nodes …")
			if err := n.awaitReady(ctx); err != nil {
				return err
			}
		}
	}
	for _, n := range c.nodes[1:] {
		if err := n.awaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// stop ends the nodes one after the other, the first one last, and then
// PostgreSQL, which they need until their end.
func (c *cluster) stop(hard context.Context) error {
	var errs []error
	for i := len(c.nodes) - 1; i >= 0; i-- {
		n := c.nodes[i]
		if n.running() {
			c.say("draining %s …", n.name)
		}
		errs = append(errs, n.stop(hard))
	}
	if c.pg != nil {
		c.say("stopping PostgreSQL …")
		errs = append(errs, c.pg.Stop())
	}
	return errors.Join(errs...)
}

func (c *cluster) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = fmt.Fprintf(c.out, format+"\n", args...)
}

func (c *cluster) welcome() {
	first, second := c.nodes[0], c.nodes[min(1, len(c.nodes)-1)]
	c.say("\n%d nodes; all data below %s\n", len(c.nodes), c.dir)
	for _, n := range c.nodes {
		c.say("  %s  http://%s  gossip %s  calls %s  metrics http://%s/metrics  pid %d  log %s", n.name, n.api, n.gossip, n.actors, n.metrics, n.pid(), n.logPath)
	}
	c.say(`
In another terminal, with any of the nodes:

  %[1]s kb create handbook --data %[2]s --server http://%[3]s
  %[1]s doc add handbook ./README.md --wait --data %[2]s --server http://%[3]s
  %[1]s search handbook "how do I add a node?" --data %[2]s --server http://%[4]s
  %[1]s cluster nodes --data %[2]s --server http://%[3]s
  %[1]s cluster placement kb/handbook --tenant dev --data %[2]s --server http://%[3]s
  kill -9 %[5]d    # the others take over in seconds; it is started again

^C drains the nodes one after the other and stops all; the data stay.
`, c.binary, first.data, first.api, second.api, second.pid())
}

// lock keeps a second run from the folder.
func lock(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: another cluster runs here: %w", path, err), f.Close())
	}
	return f.Close, nil
}
