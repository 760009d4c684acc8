package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"granary.dev/granary/cluster"
	"granary.dev/granary/cluster/protocol"
)

func ask(t testing.TB, n *cluster.Node, id cluster.Identity, what string) int64 {
	t.Helper()
	r, err := n.Ask(deadline(t, 20*time.Second), id, text(what))
	if err != nil {
		t.Fatalf("%s %s: %v", what, id, err)
	}
	count, _ := strconv.ParseInt(textOf(r), 10, 64)
	return count
}

func TestAnyNodeServesAnyGrainAndEachHasOneOwner_A1_A3(t *testing.T) {
	a := newAuthority()
	nodes := []*member{join(t, a, "n1"), join(t, a, "n2"), join(t, a, "n3")}
	settled(t, nodes...)
	for g := range 30 {
		id := kb(fmt.Sprintf("kb-%d", g))
		for i, n := range nodes {
			if got := ask(t, n.Node, id, "add"); got != int64(i+1) {
				t.Fatalf("%s through %s counts %d, want %d", id, n.name, got, i+1)
			}
		}
	}
	active := 0
	for _, n := range nodes {
		own := len(n.Activations())
		if own == 0 {
			t.Errorf("%s hosts nothing", n.name)
		}
		active += own
		for _, i := range n.Activations() {
			if p, _ := n.Placement(i.Identity); p.Owner != n.name || !p.Local {
				t.Errorf("%s is active on %s and placed on %s", i.Identity, n.name, p.Owner)
			}
		}
	}
	if active != 30 {
		t.Errorf("%d activations of 30 grains", active)
	}
}

// load counts up on many grains through many nodes until it is stopped.
type load struct {
	acked   sync.Map // identity → *atomic.Int64
	failed  atomic.Int64
	reads   atomic.Int64
	stale   atomic.Int64
	unknown atomic.Int64
	worst   atomic.Int64 // longest call in nanoseconds
	stop    chan struct{}
	wg      sync.WaitGroup
}

// begin starts one client for each of grains; each counts alone, so that it knows
// what it must read.
func begin(t testing.TB, grains int, through func() []*member) *load {
	var ids []cluster.Identity
	for g := range grains {
		ids = append(ids, kb(fmt.Sprintf("kb-%d", g)))
	}
	return beginOn(t, ids, through)
}

func beginOn(t testing.TB, ids []cluster.Identity, through func() []*member) *load {
	l := &load{stop: make(chan struct{})}
	for i, id := range ids {
		l.wg.Go(func() { l.client(t, id, i, through) })
	}
	return l
}

func (l *load) client(t testing.TB, id cluster.Identity, seed int, through func() []*member) {
	acked := &atomic.Int64{}
	l.acked.Store(id, acked)
	for i := seed; ; i++ {
		select {
		case <-l.stop:
			return
		default:
		}
		nodes := through()
		n := nodes[i%len(nodes)]
		what := "add"
		if i%3 == 0 {
			what = "get"
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		start := time.Now()
		r, err := n.Ask(ctx, id, text(what))
		cancel()
		l.worst.Store(max(l.worst.Load(), int64(time.Since(start))))
		if errors.Is(err, cluster.ErrStopped) {
			continue // asked on a node that stops: its clients go elsewhere
		}
		if errors.Is(err, cluster.ErrDeadLetter) {
			l.settle(t, n, id, acked) // its node was given up meanwhile: whether it was applied is not known
			continue
		}
		if err != nil {
			l.failed.Add(1)
			t.Logf("%s %s through %s after %v: %v", what, id, n.name, time.Since(start), err)
			continue
		}
		got, _ := strconv.ParseInt(textOf(r), 10, 64)
		if what == "add" {
			if got != acked.Load()+1 {
				l.stale.Add(1)
				t.Logf("%s counts %d after %d", id, got, acked.Load())
			}
			acked.Store(got)
			continue
		}
		l.reads.Add(1)
		if got != acked.Load() {
			l.stale.Add(1)
			t.Logf("%s reads %d after %d", id, got, acked.Load())
		}
	}
}

// settle learns what became of a call without an answer: it was applied once or
// not at all.
func (l *load) settle(t testing.TB, n *member, id cluster.Identity, acked *atomic.Int64) {
	l.unknown.Add(1)
	was := acked.Load()
	if now := ask(t, n.Node, id, "get"); now != was && now != was+1 {
		t.Errorf("%s: %d after %d and a call without an answer", id, now, was)
	} else {
		acked.Store(now)
	}
}

// end stops the load and checks that everything acknowledged is there, once.
func (l *load) end(t testing.TB, a *authority) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	var total int64
	a.mu.Lock()
	defer a.mu.Unlock()
	l.acked.Range(func(k, v any) bool {
		id, acked := k.(cluster.Identity), v.(*atomic.Int64).Load()
		if head := a.owners[id].Head; head != acked {
			t.Errorf("%s: %d acknowledged, %d counted", id, acked, head)
		}
		total += acked
		return true
	})
	t.Logf("%d acknowledged, %d reads, %d failed, longest call %v", total, l.reads.Load(), l.failed.Load(), time.Duration(l.worst.Load()))
	if l.stale.Load() > 0 {
		t.Errorf("%d answers were not the newest", l.stale.Load())
	}
	if total == 0 || l.reads.Load() == 0 {
		t.Error("nothing was tried")
	}
}

func TestJoinAndLeaveCostNobodyAnError_A3_H3(t *testing.T) {
	a := newAuthority()
	n1, n2 := join(t, a, "n1"), join(t, a, "n2")
	settled(t, n1, n2)
	l := begin(t, 24, func() []*member { return []*member{n1, n2} })
	n3 := join(t, a, "n3")
	settled(t, n1, n2, n3)
	if len(n3.Activations()) == 0 {
		t.Error("the new node got nothing")
	}
	if err := n2.Leave(deadline(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if n := len(n2.Activations()); n != 0 {
		t.Errorf("%d grains are on a node that has left", n)
	}
	settled(t, n1, n3) // n2 goes on sending calls on
	l.end(t, a)
	if l.failed.Load() > 0 {
		t.Errorf("%d calls failed", l.failed.Load())
	}
}

func TestANodeWithoutTheStoreIsGivenUpAndComesBack_A2_E5(t *testing.T) {
	a := newAuthority()
	n1, n2, n3 := join(t, a, "n1"), join(t, a, "n2"), join(t, a, "n3")
	settled(t, n1, n2, n3)
	first := n2.Self()
	l := begin(t, 24, func() []*member { return []*member{n1, n3} })
	n2.door.cut.Store(true)
	await(t, "n2 is given up", func() bool { return n1.View().Gone(first) })
	for _, i := range []int{1, 2, 3} {
		ask(t, n1.Node, kb(fmt.Sprintf("kb-%d", i)), "get")
	}
	n2.door.cut.Store(false)
	await(t, "n2 is a member again", func() bool {
		m, ok := n1.View().Named("n2")
		return ok && m.State == protocol.Live && m.NodeID != first
	})
	settled(t, n1, n2, n3)
	l.end(t, a)
	if l.failed.Load() > 0 {
		t.Errorf("%d calls failed", l.failed.Load())
	}
}

func TestATenantIsRelocatedAndGivenBack_B3(t *testing.T) {
	a := newAuthority()
	n1, n2 := join(t, a, "n1"), join(t, a, "n2")
	settled(t, n1, n2)
	l := begin(t, 12, func() []*member { return []*member{n1, n2} })
	if err := n1.Relocate(deadline(t, 10*time.Second), "acme", "n2"); err != nil {
		t.Fatal(err)
	}
	await(t, "all grains are on n2", func() bool { return len(n1.Activations()) == 0 && len(n2.Activations()) == 12 })
	if p, _ := n1.Placement(kb("kb-0")); !p.Override || p.Owner != "n2" {
		t.Errorf("placement %+v", p)
	}
	for _, n := range []*member{n1, n2} {
		if err := n.Relocate(deadline(t, 10*time.Second), "acme", "n2"); err != nil {
			t.Errorf("relocated to where it is: %v", err)
		}
	}
	if err := n2.Relocate(deadline(t, 10*time.Second), "acme", "nobody"); !errors.Is(err, cluster.ErrNoNode) {
		t.Errorf("relocated to nobody: %v", err)
	}
	if err := n2.Relocate(deadline(t, 10*time.Second), "acme", ""); err != nil {
		t.Fatal(err)
	}
	await(t, "n1 has grains again", func() bool { return len(n1.Activations()) > 0 })
	if err := n1.Relocate(deadline(t, 10*time.Second), "acme", ""); err != nil {
		t.Errorf("given back twice: %v", err)
	}
	l.end(t, a)
	if l.failed.Load() > 0 {
		t.Errorf("%d calls failed", l.failed.Load())
	}
}

func TestANodeThatOnlyRoutesOwnsNothing_A3(t *testing.T) {
	a := newAuthority()
	n1 := join(t, a, "n1")
	r := join(t, a, "r1", func(c *cluster.Config) { c.Shared.Routes = true })
	for g := range 10 {
		ask(t, r.Node, kb(fmt.Sprintf("kb-%d", g)), "add")
	}
	if len(r.Activations()) != 0 || len(n1.Activations()) != 10 {
		t.Errorf("%d grains on the router, %d on the host", len(r.Activations()), len(n1.Activations()))
	}
	if _, member := n1.View().Named("r1"); member {
		t.Error("the router is a member")
	}
}

func TestNodesOfOtherRulesStayOut_I11(t *testing.T) {
	a := newAuthority()
	join(t, a, "n1")
	n, err := cluster.New(cluster.Config{Name: "n2", Logger: (&logBuffer{}).logger(), Shared: &cluster.Shared{
		Store: &door{authority: a}, Errors: codec{}, Listen: "127.0.0.1:0", Timing: a.timing,
		Table: protocol.TableConfig{Partitions: 97, Replication: 40, Load: 1.25}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(deadline(t, 10*time.Second)); !errors.Is(err, protocol.ErrFingerprint) {
		t.Errorf("start: %v", err)
	}
	if err := n.Stop(deadline(t, 10*time.Second)); err != nil {
		t.Error(err)
	}
}

func TestAnOverloadedNodeGivesTenantsAwayAndTakesThemBack_B2_B3(t *testing.T) {
	a := newAuthority()
	loads := map[string]*atomic.Uint64{"n1": {}, "n2": {}}
	set := func(name string, percent uint64) { loads[name].Store(percent) }
	set("n1", 20)
	set("n2", 20)
	gossipAt := freeAddr(t)
	start := func(name, bind string) *member {
		return join(t, a, name, func(c *cluster.Config) {
			c.Shared.Gossip = cluster.GossipConfig{Bind: bind, Join: []string{gossipAt}}
			c.Shared.Load = func() float64 { return float64(loads[name].Load()) / 100 }
			c.Shared.TenantKind = "kb"
			c.Shared.Settle, c.Shared.CoolDown, c.Shared.BalanceEvery = time.Second, time.Second, 200*time.Millisecond
		})
	}
	n1, n2 := start("n1", gossipAt), start("n2", "127.0.0.1:0")
	settled(t, n1, n2)
	var ids []cluster.Identity
	for i := range 16 {
		ids = append(ids, cluster.Identity{Kind: "kb", Tenant: fmt.Sprintf("tenant-%d", i), ID: "notes"})
	}
	l := beginOn(t, ids, func() []*member { return []*member{n1, n2} })
	await(t, "both host something", func() bool { return len(n1.Activations()) > 0 && len(n2.Activations()) > 0 })
	set("n1", 95)
	guests := func() (n int) {
		for _, o := range n2.View().Overrides {
			if o.Node != "n2" {
				t.Errorf("%s went to %s", o.Tenant, o.Node)
			}
			n++
		}
		return n
	}
	await(t, "tenants leave the overloaded node", func() bool { return guests() >= 2 })
	set("n1", 10)
	set("n2", 30)
	await(t, "they go home when there is room", func() bool { return guests() == 0 })
	l.end(t, a)
	if l.failed.Load() > 0 {
		t.Errorf("%d calls failed", l.failed.Load())
	}
}

func TestACallGoesRoundACutBetweenTwoNodes_E5(t *testing.T) {
	a := newAuthority()
	at := freeAddr(t)
	start := func(name, bind string) *member {
		return join(t, a, name, func(c *cluster.Config) {
			c.Shared.Gossip = cluster.GossipConfig{Bind: bind, Join: []string{at}}
		})
	}
	n1, n2, n3 := start("n1", at), start("n2", "127.0.0.1:0"), start("n3", "127.0.0.1:0")
	settled(t, n1, n2, n3)
	await(t, "n1 hears of n2", func() bool { return len(n1.Gossip()) == 3 })
	var id cluster.Identity
	for i := 0; ; i++ {
		id = kb(fmt.Sprintf("kb-%d", i))
		if p, _ := n1.Placement(id); p.Owner == "n2" {
			break
		}
	}
	ask(t, n1.Node, id, "add")
	if n3.Relayed() != 0 {
		t.Error("relayed though nothing is cut")
	}
	n1.Unreach(n2.Self())
	if got := ask(t, n1.Node, id, "add"); got != 2 {
		t.Errorf("counts %d", got)
	}
	if n3.Relayed() != 1 {
		t.Errorf("n3 has passed %d calls on, want 1", n3.Relayed())
	}
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
