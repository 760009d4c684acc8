package gossip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// envChild makes the test binary a member instead: "id seed probe".
const envChild = "GRANARY_GOSSIP_TEST_MEMBER"

// burn as the id makes a process that only uses a core.
const burn = "burn"

func TestMain(m *testing.M) {
	if spec := os.Getenv(envChild); spec != "" {
		os.Exit(child(spec))
	}
	goleak.VerifyTestMain(m)
}

func child(spec string) int {
	part := strings.Fields(spec)
	if part[0] == burn {
		for end := time.Now().Add(10 * time.Minute); time.Now().Before(end) && os.Getppid() != 1; { //nolint:revive // burns
		}
		return 0
	}
	id, seed := part[0], part[1]
	probe, err := time.ParseDuration(part[2])
	if err != nil {
		return 3
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	g, err := Start(ctx, Config{ID: id, Bind: "127.0.0.1:0", Join: []string{seed}, Probe: probe,
		Meta: Meta{Actors: "127.0.0.1:1", Healthy: true}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return 4
	}
	<-ctx.Done()
	if err := g.Stop(); err != nil {
		return 5
	}
	return 0
}

// start makes a member with times good for tests, and stops it at the end.
func start(t testing.TB, c Config) *Gossip {
	t.Helper()
	if c.Bind == "" {
		c.Bind = "127.0.0.1:0"
	}
	if c.Probe == 0 {
		c.Probe = 100 * time.Millisecond
	}
	if c.Retry == 0 {
		c.Retry = 200 * time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	g, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Stop(); err != nil {
			t.Error(err)
		}
	})
	return g
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// await waits until g's members are as wanted.
func await(t testing.TB, g *Gossip, what string, ok func([]Member) bool) []Member {
	t.Helper()
	patience := time.NewTimer(30 * time.Second)
	defer patience.Stop()
	for {
		m := g.Members()
		if ok(m) {
			return m
		}
		select {
		case <-g.Changed():
		case <-patience.C:
			t.Fatalf("%s never saw: %s; it sees %s", g.cfg.ID, what, states(m))
		}
	}
}

func states(all []Member) string {
	var out []string
	for _, m := range all {
		out = append(out, m.ID+"="+m.State.String())
	}
	return strings.Join(out, " ")
}

// are wants exactly these members that are not forgotten, "id=state id=state", sorted.
func are(want string) func([]Member) bool {
	return func(m []Member) bool { return states(m) == want }
}

func awaitAll(t testing.TB, all []*Gossip, want string) {
	t.Helper()
	for _, g := range all {
		await(t, g, want, are(want))
	}
}

func state(id string, s State) func([]Member) bool {
	return func(all []Member) bool {
		return slices.ContainsFunc(all, func(m Member) bool { return m.ID == id && m.State == s })
	}
}

func find(all []Member, id string) Member {
	for _, m := range all {
		if m.ID == id {
			return m
		}
	}
	return Member{}
}

// five starts n1#a … n5#a with n1 as the only seed.
func five(t testing.TB, each func(i int, c *Config)) []*Gossip {
	t.Helper()
	var all []*Gossip
	for i := range 5 {
		c := Config{ID: fmt.Sprintf("n%d#a", i+1)}
		if i > 0 {
			c.Join = []string{all[0].Addr()}
		}
		if each != nil {
			each(i, &c)
		}
		all = append(all, start(t, c))
	}
	return all
}

const fiveAlive = "n1#a=alive n2#a=alive n3#a=alive n4#a=alive n5#a=alive"

// network can be cut between two groups of addresses.
type network struct {
	mu   sync.Mutex
	side map[string]int
	cut  bool
}

// from is the Reach of a member on a side.
func (n *network) from(side int) func(string) bool {
	return func(addr string) bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return !n.cut || n.side[addr] == side
	}
}

func (n *network) set(cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
}

func (n *network) place(g *Gossip, side int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.side[g.Addr()] = side
}

// fixedAddr gives an address to bind again and again: connections that others
// open from ports of the kernel's choice, and their remains, do not get in the way.
func fixedAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(10000))
		if tcp, udp, err := listen(t.Context(), addr); err == nil {
			if err := errors.Join(tcp.Close(), udp.Close()); err != nil {
				t.Fatal(err)
			}
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}
