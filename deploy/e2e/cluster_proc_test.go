//go:build unix

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"granary.dev/granary/storage/pgtest"
)

// clusterOptions say what kind of cluster a test needs.
type clusterOptions struct {
	nodes  int
	seed   uint64
	spaces bool   // each node and PostgreSQL in a network namespace of its own
	fsync  bool   // of PostgreSQL
	config string // a configuration file's content, beside the flags
	crash  bool   // nodes have crash points
}

// cluster is a private PostgreSQL and some processes of the real binary.
type cluster struct {
	seed    uint64
	dir     string
	config  string // the configuration file; "": none
	pg      *pgtest.Server
	network *network // nil on loopback addresses
	members []*member

	pgMu sync.Mutex // a Server's methods are not for concurrent use
	url  string     // of the database

	mu        sync.Mutex
	surprises []string // what no process should have done
	cutOff    int      // orderly stops that cut calls off
}

// member is one node's place: its name, addresses and data outlive its processes.
type member struct {
	cluster      *cluster
	index        int
	name, data   string
	api          string
	args         []string
	crashAt      string // file of its crash points; "" for the binary without
	dial         func(ctx context.Context, network, addr string) (net.Conn, error)
	log          *os.File
	probe        *http.Client
	within       func(func() error) error // runs in the member's network namespace
	mu           sync.Mutex
	cmd          *exec.Cmd
	ended        chan struct{}
	expectToFail bool
	closing      bool // nothing is started any more
}

// newCluster starts PostgreSQL and all nodes, and waits until they are ready.
func newCluster(t *testing.T, o clusterOptions) *cluster {
	t.Helper()
	c := &cluster{seed: o.seed, dir: t.TempDir()}
	if o.config != "" {
		c.config = filepath.Join(c.dir, "granary.yaml")
		if err := os.WriteFile(c.config, []byte(o.config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if o.spaces {
		c.network = newNetwork(t, o.nodes)
	}
	c.startPostgres(t, o)
	for i := range o.nodes {
		m := c.newMember(t, i)
		if o.crash {
			m.crashAt = filepath.Join(m.data, "crash")
		}
		c.members = append(c.members, m)
	}
	t.Cleanup(func() { c.finish(t) })
	for _, m := range c.members {
		if err := m.start(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for _, m := range c.members {
		if err := m.awaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *cluster) startPostgres(t *testing.T, o clusterOptions) {
	t.Helper()
	options := pgtest.Options{TCP: true, Fsync: o.fsync}
	within := func(do func() error) error { return do() }
	if c.network != nil {
		options.Settings = []string{"listen_addresses=127.0.0.1," + c.network.address(postgresHost)}
		within = c.network.within(postgresHost)
	}
	err := within(func() (err error) {
		c.pg, err = pgtest.Start(context.WithoutCancel(t.Context()), options)
		return err
	})
	pgtest.SkipWithout(t, err)
	t.Cleanup(func() {
		if err := c.pg.Stop(); err != nil {
			t.Error(err)
		}
	})
	c.url = c.pg.URL("postgres")
	if c.network != nil {
		c.url = strings.Replace(c.url, "127.0.0.1", c.network.address(postgresHost), 1)
		c.allowNetwork(t)
	}
}

// newMember lays out a node: fixed ports, so that it comes back where it was.
func (c *cluster) newMember(t *testing.T, i int) *member {
	t.Helper()
	m := &member{cluster: c, index: i, name: fmt.Sprintf("n%d", i+1), data: filepath.Join(c.dir, fmt.Sprintf("n%d", i+1)),
		dial: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, within: func(do func() error) error { return do() }}
	if err := os.MkdirAll(m.data, 0o700); err != nil {
		t.Fatal(err)
	}
	m.args = []string{"serve", "--dev", "--tier", "unlimited", "--data", m.data, "--node", m.name, "--store", c.url, "--metrics", "127.0.0.1:0"}
	if c.config != "" {
		m.args = append(m.args, "--config", c.config)
	}
	if c.network == nil {
		m.api = freePort(t)
		gossip := freePort(t)
		m.args = append(m.args, "--listen", m.api, "--gossip", gossip, "--actors", freePort(t), "--join", c.seeds(gossip))
	} else {
		m.api, m.dial, m.within = "127.0.0.1:8080", c.network.dialer(m.name), c.network.within(m.name)
		host := c.network.address(m.name)
		m.args = append(m.args, "--listen", m.api, "--gossip", host+":7946", "--actors", host+":7947", "--join", c.network.address("n1")+":7946")
		m.args = append(m.args, c.network.certificates(t, m.name)...)
	}
	m.probe = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DialContext: m.dial, DisableKeepAlives: true}}
	log, err := os.Create(filepath.Join(c.dir, m.name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	m.log = log
	return m
}

// seeds is the gossip address of the first member; mine if I am the first.
func (c *cluster) seeds(mine string) string {
	if len(c.members) == 0 {
		return mine
	}
	args := c.members[0].args
	for i, a := range args {
		if a == "--gossip" {
			return args[i+1]
		}
	}
	return mine
}

// freePort gives a loopback address whose port the kernel does not hand out by
// itself, so that it is still free when a node comes back.
func freePort(t *testing.T) string {
	t.Helper()
	for range 200 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		u, err := net.ListenPacket("udp", addr)
		_ = l.Close()
		if err == nil {
			_ = u.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// start runs the binary.
func (m *member) start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd != nil || m.closing {
		return fmt.Errorf("%s runs already", m.name)
	}
	_, _ = fmt.Fprintf(m.log, "=== %s start\n", time.Now().UTC().Format(time.RFC3339Nano))
	path, env := binary, os.Environ()
	if m.crashAt != "" {
		var err error
		if path, err = crashBinary(); err != nil {
			return err
		}
		env = append(env, "GRANARY_CRASHPOINTS="+m.crashAt)
	}
	cmd := exec.Command(path, m.args...)
	cmd.Env = env
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = m.log, m.log, childAttributes()
	if err := m.within(cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", m.name, err)
	}
	ended := make(chan struct{})
	m.cmd, m.ended, m.expectToFail = cmd, ended, false
	go func() {
		err := cmd.Wait()
		m.mu.Lock()
		m.cmd = nil
		if !m.expectToFail {
			m.cluster.surprise("%s ended by itself: %v", m.name, err)
		}
		m.mu.Unlock()
		close(ended)
	}()
	return nil
}

func (c *cluster) surprise(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.surprises = append(c.surprises, time.Now().UTC().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// signal sends a signal to the process; last says that it should end of it.
func (m *member) signal(s syscall.Signal, last bool) (ended <-chan struct{}, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil {
		return nil, fmt.Errorf("%s does not run", m.name)
	}
	m.expectToFail = m.expectToFail || last
	_, _ = fmt.Fprintf(m.log, "=== %s signal %v\n", time.Now().UTC().Format(time.RFC3339Nano), s)
	return m.ended, m.cmd.Process.Signal(s)
}

// kill ends the process the hard way.
func (m *member) kill() error {
	ended, err := m.signal(syscall.SIGKILL, true)
	if err == nil {
		<-ended
	}
	return err
}

// stopTime is how long an orderly stop may take: requests, grains, membership.
const stopTime = 30 * time.Second

// stop asks the process to end in the orderly way; it must, in good time.
func (m *member) stop() (took time.Duration, err error) {
	begin := time.Now()
	m.mu.Lock()
	cmd := m.cmd
	m.mu.Unlock()
	ended, err := m.signal(syscall.SIGTERM, true)
	if err != nil {
		return 0, err
	}
	select {
	case <-ended:
	case <-time.After(stopTime):
		m.cluster.surprise("%s did not stop within %v", m.name, stopTime)
		return time.Since(begin), m.kill()
	}
	switch code, why := cmd.ProcessState.ExitCode(), m.lastWords(); {
	case code == 0:
	case strings.Contains(why, "were cut off"): // they waited for what another fault keeps away
		m.cluster.mu.Lock()
		m.cluster.cutOff++
		m.cluster.mu.Unlock()
	default:
		m.cluster.surprise("%s stopped with exit code %d: %s", m.name, code, why)
	}
	return time.Since(begin), nil
}

// lastWords is the last line of the node's log.
func (m *member) lastWords() string {
	raw, err := os.ReadFile(m.log.Name())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return lines[len(lines)-1]
}

// ready asks the node whether it should get requests.
func (m *member) ready(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.api+"/ready", nil)
	if err != nil {
		return err
	}
	res, err := m.probe.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", res.Status, bytes.TrimSpace(body))
	}
	return nil
}

func (m *member) running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cmd != nil
}

// awaitReady polls until the node is ready, ctx ends, or the process does.
func (m *member) awaitReady(ctx context.Context) error {
	for {
		err := m.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", m.name, err)
		case <-time.After(50 * time.Millisecond): // polling another process
		}
	}
}

// finish ends all processes and reports what they should not have done.
func (c *cluster) finish(t *testing.T) {
	for _, m := range c.members {
		m.mu.Lock()
		m.closing = true
		if m.cmd != nil {
			m.expectToFail = true
			_ = m.cmd.Process.Kill() // a stopped process too
		}
		ended := m.ended
		m.mu.Unlock()
		if ended != nil {
			<-ended
		}
		m.probe.CloseIdleConnections()
	}
	c.checkLogs(t)
	for _, m := range c.members {
		_ = m.log.Close()
	}
	if t.Failed() || *chaosLogs != "" {
		c.keepLogs(t)
	}
}
