//go:build unix

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"granary.dev/granary/storage/pgtest"
)

// fault is one kind of harm. run does it and undoes it; it returns when the
// victim may be harmed again.
type fault struct {
	name   string
	weight int
	store  bool // the store's, no node's
	mild   bool // an operator's doing: not counted as a fault
	run    func(ctx context.Context, r *rand.Rand, victim *member) error
}

// nemesis harms a cluster, some faults at a time, and never all nodes at once.
type nemesis struct {
	cluster *cluster
	faults  []fault
	lanes   int
	spare   int // nodes that are never harmed at the same time

	mu    sync.Mutex
	left  int
	hurt  map[int]bool
	store bool
	count map[string]int
	log   []string
}

func newNemesis(c *cluster, lanes int, faults []fault) *nemesis {
	return &nemesis{cluster: c, faults: faults, lanes: lanes, spare: 1, hurt: make(map[int]bool), count: make(map[string]int)}
}

// harm does n faults and returns when all are undone.
func (n *nemesis) harm(ctx context.Context, count int, seed uint64) {
	n.mu.Lock()
	n.left = count
	n.mu.Unlock()
	var wg sync.WaitGroup
	for lane := range n.lanes {
		r := rand.New(rand.NewPCG(seed, uint64(lane)))
		wg.Go(func() {
			for ctx.Err() == nil && n.once(ctx, r) {
				sleep(ctx, time.Duration(100+r.IntN(1200))*time.Millisecond)
			}
		})
	}
	wg.Wait()
}

// once does one fault; false when there were enough.
func (n *nemesis) once(ctx context.Context, r *rand.Rand) bool {
	f := n.choose(r)
	n.mu.Lock()
	if n.left == 0 {
		n.mu.Unlock()
		return false
	}
	var victim *member
	if free := n.free(); f.store && !n.store {
		n.store = true
	} else if !f.store && len(free) > n.spare {
		victim = n.cluster.members[free[r.IntN(len(free))]]
		n.hurt[victim.index] = true
	} else {
		n.mu.Unlock()
		sleep(ctx, 50*time.Millisecond)
		return true // somebody must be left to answer
	}
	if !f.mild {
		n.left--
	}
	n.count[f.name]++
	n.mu.Unlock()
	begin := time.Now()
	err := f.run(ctx, r, victim)
	n.mu.Lock()
	defer n.mu.Unlock()
	name := "store"
	if f.store {
		n.store = false
	} else {
		name = victim.name
		delete(n.hurt, victim.index)
	}
	n.log = append(n.log, fmt.Sprintf("%s %-22s %-5s %v", begin.UTC().Format("15:04:05.000"), f.name, name, time.Since(begin).Round(time.Millisecond)))
	if err != nil {
		n.cluster.surprise("%s of %s: %v", f.name, name, err)
	}
	return true
}

func (n *nemesis) choose(r *rand.Rand) fault {
	total := 0
	for _, f := range n.faults {
		total += f.weight
	}
	pick := r.IntN(total)
	for _, f := range n.faults {
		if pick -= f.weight; pick < 0 {
			return f
		}
	}
	return n.faults[0]
}

func (n *nemesis) free() (out []int) {
	for i := range n.cluster.members {
		if !n.hurt[i] {
			out = append(out, i)
		}
	}
	return out
}

// String lists the faults by kind.
func (n *nemesis) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var parts []string
	total := 0
	for _, name := range slices.Sorted(maps.Keys(n.count)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, n.count[name]))
		total += n.count[name]
	}
	for _, f := range n.faults {
		if f.mild {
			total -= n.count[f.name]
		}
	}
	return fmt.Sprintf("%d (%s)", total, strings.Join(parts, ", "))
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// backTime is how long a node may take to serve again after a fault.
const backTime = 30 * time.Second

// back waits, most times, until the victim is ready: else the next fault meets it joining.
func back(ctx context.Context, r *rand.Rand, m *member) error {
	if r.IntN(4) == 0 {
		sleep(ctx, time.Duration(r.IntN(3000))*time.Millisecond)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, backTime)
	defer cancel()
	// A store that restarts meanwhile excuses the delay; the end of the round does not.
	_ = m.awaitReady(ctx)
	return nil
}

// frozen is how long a process is stopped: mostly about a lease, sometimes long.
func frozen(r *rand.Rand, longest time.Duration) time.Duration {
	d := time.Second + time.Duration(r.Int64N(int64(4*time.Second)))
	if r.IntN(4) == 0 {
		d = 5*time.Second + time.Duration(r.Int64N(int64(25*time.Second)))
	}
	return min(d, longest)
}

func faultKill(ctx context.Context, r *rand.Rand, m *member) error {
	if err := m.kill(); err != nil {
		return err
	}
	sleep(ctx, time.Duration(r.IntN(4000))*time.Millisecond)
	if err := m.start(); err != nil {
		return err
	}
	return back(ctx, r, m)
}

func faultStop(ctx context.Context, r *rand.Rand, m *member) error {
	if _, err := m.stop(); err != nil {
		return err
	}
	sleep(ctx, time.Duration(r.IntN(2000))*time.Millisecond)
	if err := m.start(); err != nil {
		return err
	}
	return back(ctx, r, m)
}

func faultFreeze(longest time.Duration) func(context.Context, *rand.Rand, *member) error {
	return func(ctx context.Context, r *rand.Rand, m *member) error {
		if _, err := m.signal(syscall.SIGSTOP, false); err != nil {
			return err
		}
		sleep(ctx, frozen(r, longest))
		if _, err := m.signal(syscall.SIGCONT, false); err != nil {
			return err
		}
		return back(ctx, r, m)
	}
}

func (c *cluster) faultStore(mode pgtest.Mode) func(context.Context, *rand.Rand, *member) error {
	return func(ctx context.Context, _ *rand.Rand, _ *member) error {
		return c.restartPostgres(context.WithoutCancel(ctx), mode)
	}
}

// faultPause keeps the store away for some seconds: longer than a lease, at times.
func (c *cluster) faultPause(ctx context.Context, r *rand.Rand, _ *member) error {
	c.pgMu.Lock()
	defer c.pgMu.Unlock()
	if err := c.pg.Pause(); err != nil {
		return err
	}
	sleep(ctx, time.Duration(500+r.IntN(5000))*time.Millisecond)
	resume := func() error { return c.pg.Resume(context.WithoutCancel(ctx)) }
	if c.network != nil {
		return c.network.within(postgresHost)(resume)
	}
	return resume()
}

// processFaults need no namespaces.
func (c *cluster) processFaults(longestFreeze time.Duration) []fault {
	return []fault{
		{name: "kill -9", weight: 8, run: faultKill},
		{name: "SIGTERM", weight: 6, run: faultStop},
		{name: "SIGSTOP", weight: 8, run: faultFreeze(longestFreeze)},
		{name: "store restart", weight: 2, store: true, run: c.faultStore(pgtest.Fast)},
		{name: "store crash", weight: 2, store: true, run: c.faultStore(pgtest.Immediate)},
		{name: "store away", weight: 1, store: true, run: c.faultPause},
		{name: "relocation", weight: 3, mild: true, run: c.relocate},
	}
}

// relocate has an operator move a tenant to a node, or give it back to the
// table. The cluster may refuse, for instance while partitions are moving.
func (c *cluster) relocate(ctx context.Context, r *rand.Rand, m *member) error {
	if c.network != nil { // the command would have to run in the node's namespace
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	args := []string{"cluster", "relocate", fmt.Sprintf("tenant-%d", 1+r.IntN(chaosTenants)), "--data", m.data, "--server", "http://" + m.api}
	if r.IntN(3) > 0 {
		args = append(args, "--to", m.name)
	}
	out, err := exec.CommandContext(ctx, binary, args...).CombinedOutput()
	_, _ = fmt.Fprintf(m.log, "=== %s %v: %v %s\n", time.Now().UTC().Format(time.RFC3339Nano), args[1:], err, out)
	sleep(ctx, time.Duration(r.IntN(3000))*time.Millisecond)
	return nil
}

// killAll ends every process at once and starts them again.
func (n *nemesis) killAll() error {
	n.mu.Lock()
	n.count["kill -9 of all"]++
	n.mu.Unlock()
	var wg sync.WaitGroup
	errs := make([]error, len(n.cluster.members))
	for i, m := range n.cluster.members {
		wg.Go(func() { errs[i] = m.kill() })
	}
	wg.Wait()
	for i, m := range n.cluster.members {
		errs[i] = errors.Join(errs[i], m.start())
	}
	return errors.Join(errs...)
}

// networkFaults cut links. Which: of the victim to and from whom.
func (c *cluster) networkFaults() []fault {
	others := func(m *member) (out []string) {
		for _, o := range c.members {
			if o != m {
				out = append(out, o.name)
			}
		}
		return out
	}
	out := func(m *member, peers []string) (links []link) {
		for _, p := range peers {
			links = append(links, link{m.name, p})
		}
		return links
	}
	in := func(m *member, peers []string) (links []link) {
		for _, p := range peers {
			links = append(links, link{p, m.name})
		}
		return links
	}
	store := []string{postgresHost}
	return []fault{
		c.faultCut("isolated", 4, func(_ *rand.Rand, m *member) []link {
			all := append(others(m), postgresHost)
			return append(out(m, all), in(m, all)...)
		}),
		c.faultCut("cut from store", 4, func(_ *rand.Rand, m *member) []link { return append(out(m, store), in(m, store)...) }),
		c.faultCut("cut from nodes", 3, func(_ *rand.Rand, m *member) []link { return append(out(m, others(m)), in(m, others(m))...) }),
		c.faultCut("one way to store", 2, func(_ *rand.Rand, m *member) []link { return out(m, store) }),
		c.faultCut("one way from store", 2, func(_ *rand.Rand, m *member) []link { return in(m, store) }),
		c.faultCut("one way to nodes", 2, func(_ *rand.Rand, m *member) []link { return out(m, others(m)) }),
		c.faultCut("one way from nodes", 2, func(_ *rand.Rand, m *member) []link { return in(m, others(m)) }),
		c.faultCut("one pair", 2, func(r *rand.Rand, m *member) []link {
			peer := others(m)[r.IntN(len(c.members)-1)]
			return []link{{m.name, peer}, {peer, m.name}}
		}),
	}
}

func (c *cluster) faultCut(name string, weight int, links func(*rand.Rand, *member) []link) fault {
	return fault{name: name, weight: weight, run: func(ctx context.Context, r *rand.Rand, m *member) error {
		cut, refused := links(r, m), r.IntN(2) == 0
		if err := c.network.cut(cut, refused); err != nil {
			return err
		}
		sleep(ctx, time.Duration(1000+r.IntN(7000))*time.Millisecond)
		if err := c.network.mend(cut, refused); err != nil {
			return err
		}
		return back(ctx, r, m)
	}}
}

// heal waits until every node serves again.
func (c *cluster) heal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, backTime)
	defer cancel()
	var failed error
	for _, m := range c.members {
		if !m.running() {
			if err := m.start(); err != nil {
				return err
			}
		}
		failed = cmp.Or(failed, m.awaitReady(ctx))
	}
	return failed
}
