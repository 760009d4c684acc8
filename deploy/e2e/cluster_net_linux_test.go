package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childAttributes make a node die with the tests, even when those are killed,
// and keep ^C at the tests from it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

const (
	switchHost   = "sw" // holds the bridge and no process
	postgresHost = "pg"
)

// network is a bridge in a namespace of its own, and a namespace per node and
// for PostgreSQL behind it. Nothing of it is seen by the rest of the machine.
type network struct {
	prefix string
	dir    string // certificates
	hosts  map[string]string

	mu   sync.Mutex
	cuts map[cutLink]int // faults that overlap share links
}

// cutLink is a link that is cut in one of the two ways.
type cutLink struct {
	link
	refused bool
}

// newNetwork makes the namespaces; the test is skipped where that is not allowed.
func newNetwork(t *testing.T, nodes int) *network {
	t.Helper()
	n := &network{prefix: fmt.Sprintf("granary-%d-", os.Getpid()), dir: t.TempDir(), cuts: make(map[cutLink]int),
		hosts: map[string]string{switchHost: "", postgresHost: "10.77.0.100"}}
	for i := range nodes {
		n.hosts[fmt.Sprintf("n%d", i+1)] = fmt.Sprintf("10.77.0.%d", i+1)
	}
	t.Cleanup(func() {
		for host := range n.hosts { // the links go with them
			_ = n.ip("netns", "del", n.prefix+host)
		}
	})
	if err := n.build(); err != nil {
		fmt.Fprintf(os.Stderr, "e2e: SKIPPED %s: network namespaces are not permitted here: %v\n", t.Name(), err)
		t.Skipf("network namespaces are not permitted here: %v", err)
	}
	return n
}

func (n *network) ip(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (n *network) build() error {
	for host := range n.hosts {
		if err := n.ip("netns", "add", n.prefix+host); err != nil {
			return err
		}
	}
	sw := n.prefix + switchHost
	err := errors.Join(n.ip("-n", sw, "link", "add", "br0", "type", "bridge"), n.ip("-n", sw, "link", "set", "br0", "up"))
	for host, address := range n.hosts {
		if address == "" || err != nil {
			continue
		}
		ns := n.prefix + host
		err = errors.Join(
			n.ip("-n", sw, "link", "add", "to-"+host, "type", "veth", "peer", "name", "eth0", "netns", ns),
			n.ip("-n", sw, "link", "set", "to-"+host, "master", "br0", "up"),
			n.ip("-n", ns, "addr", "add", address+"/24", "dev", "eth0"),
			n.ip("-n", ns, "link", "set", "eth0", "up"),
			n.ip("-n", ns, "link", "set", "lo", "up"),
			// A route that drops what goes out must not drop what comes in.
			n.within(host)(func() error {
				return os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("0"), 0o600)
			}))
	}
	return err
}

func (n *network) address(host string) string { return n.hosts[host] }

// within runs something on a thread that is in the namespace of a host:
// sockets and processes that are made there belong to it.
func (n *network) within(host string) func(func() error) error {
	return func(do func() error) error {
		runtime.LockOSThread()
		home, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		if err != nil {
			runtime.UnlockOSThread()
			return err
		}
		defer home.Close()
		there, err := os.Open(filepath.Join("/run/netns", n.prefix+host))
		if err != nil {
			runtime.UnlockOSThread()
			return err
		}
		defer there.Close()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			return fmt.Errorf("enter the namespace of %s: %w", host, err)
		}
		err = do()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			return errors.Join(err, back) // the thread stays locked and ends with its goroutine
		}
		runtime.UnlockOSThread()
		return err
	}
}

// dialer dials from inside a host's namespace: a client of a node is never cut
// off from it, so that it sees what a cut off node answers.
func (n *network) dialer(host string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 2 * time.Second}
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = errors.Join(n.within(host)(func() error {
			conn, err = d.DialContext(ctx, network, addr)
			return err
		}))
		return conn, err
	}
}

// link is one direction between two hosts.
type link struct{ from, to string }

// cut drops what goes over the links. Refused, the sender is told at once, as by
// a blackhole route; otherwise packets vanish on the wire.
func (n *network) cut(links []link, refused bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, l := range links {
		if n.cuts[cutLink{l, refused}]++; n.cuts[cutLink{l, refused}] > 1 {
			continue
		}
		ns, to := n.prefix+l.from, n.hosts[l.to]
		if refused {
			errs = append(errs, n.ip("-n", ns, "route", "add", "blackhole", to+"/32"))
		} else { // a neighbour nobody has
			errs = append(errs, n.ip("-n", ns, "neigh", "replace", to, "lladdr", "02:00:00:00:0f:ff", "dev", "eth0", "nud", "permanent"))
		}
	}
	return errors.Join(errs...)
}

// mend undoes cut.
func (n *network) mend(links []link, refused bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, l := range links {
		if n.cuts[cutLink{l, refused}]--; n.cuts[cutLink{l, refused}] > 0 {
			continue
		}
		ns, to := n.prefix+l.from, n.hosts[l.to]
		if refused {
			errs = append(errs, n.ip("-n", ns, "route", "del", "blackhole", to+"/32"))
		} else {
			errs = append(errs, n.ip("-n", ns, "neigh", "del", to, "dev", "eth0"))
		}
	}
	return errors.Join(errs...)
}

// certificates makes, once, a development CA and the nodes' certificates, and
// gives the flags of one node.
func (n *network) certificates(t *testing.T, node string) []string {
	t.Helper()
	at := func(name string) string { return filepath.Join(n.dir, name) }
	if _, err := os.Stat(at("ca.pem")); err != nil {
		var names []string
		for host, address := range n.hosts {
			if address != "" && host != postgresHost {
				names = append(names, host)
			}
		}
		out, err := exec.CommandContext(t.Context(), binary, "cert", "dev", "--out", n.dir, "--nodes", strings.Join(names, ",")).CombinedOutput()
		if err != nil {
			t.Fatalf("make certificates: %v: %s", err, out)
		}
	}
	return []string{"--cluster-ca", at("ca.pem"), "--cluster-cert", at(node + ".pem"), "--cluster-key", at(node + "-key.pem"), "--gossip-key-file", at("gossip.key")}
}
