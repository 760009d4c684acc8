package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"reflect"
	"sync"
	"testing"
	"time"
)

func TestOneSeedIsEnoughForFiveMembersToKnowEachOther_A2(t *testing.T) {
	metas := make([]Meta, 5)
	all := five(t, func(i int, c *Config) {
		metas[i] = Meta{Actors: fmt.Sprintf("10.0.0.%d:7947", i), API: fmt.Sprintf("n%d:8080", i), Roles: []string{"gateway", "host"},
			Zone: "z", Version: "v1", Healthy: true, Load: 0.25, View: int64(i)}
		c.Meta = metas[i]
		if i == 0 {
			c.Join = []string{"127.0.0.1:1"} // nobody there: it is the first
		}
	})
	awaitAll(t, all, fiveAlive)
	for _, g := range all {
		for i, m := range g.Members() {
			if !reflect.DeepEqual(m.Meta, metas[i]) || m.Addr != all[i].Addr() || m.Since.IsZero() {
				t.Errorf("%s sees %+v", g.cfg.ID, m)
			}
		}
	}
	got := all[0].Members()
	got[0].Meta.Roles[0], got[0].State = "changed", Dead
	if m := all[0].Members()[0]; m.Meta.Roles[0] != "gateway" || m.State != Alive {
		t.Error("Members gave no copy")
	}
}

func TestLeaveCrashAndRejoinUnderANewBootAreNoticed_A2(t *testing.T) {
	addr := fixedAddr(t)
	all := five(t, func(i int, c *Config) {
		if i == 3 {
			c.Bind = addr
		}
	})
	awaitAll(t, all, fiveAlive)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 2 {
		if err := all[4].Leave(ctx); err != nil {
			t.Fatal(err)
		}
	}
	awaitAll(t, all[:4], "n1#a=alive n2#a=alive n3#a=alive n4#a=alive n5#a=left")
	if err := errors.Join(all[4].Stop(), all[3].Stop()); err != nil { // n4 says nothing
		t.Fatal(err)
	}
	awaitAll(t, all[:3], "n1#a=alive n2#a=alive n3#a=alive n4#a=dead n5#a=left")
	again := start(t, Config{ID: "n4#b", Bind: addr, Join: []string{all[0].Addr()}, Meta: Meta{Zone: "second"}})
	awaitAll(t, all[:3], "n1#a=alive n2#a=alive n3#a=alive n4#a=dead n4#b=alive n5#a=left")
	m := all[1].Members()
	if old, young := find(m, "n4#a"), find(m, "n4#b"); old.Meta.Zone != "" || young.Meta.Zone != "second" {
		t.Errorf("boots are mixed up: %+v %+v", old, young)
	}
	await(t, again, "the living", func(m []Member) bool {
		return find(m, "n1#a").State == Alive && find(m, "n2#a").State == Alive && find(m, "n3#a").State == Alive && !state("n4#a", Alive)(m)
	})
}

// A boot that took over the address ends the former one without waiting for
// probes to fail: here they are far too rare to notice.
func TestRestartAtTheSameAddressEndsTheFormerBootAtOnce_A2(t *testing.T) {
	slow := func(id, bind string, join ...string) *Gossip {
		return start(t, Config{ID: id, Bind: bind, Join: join, Probe: 20 * time.Second, Retry: 100 * time.Millisecond})
	}
	a := slow("n1#a", "127.0.0.1:0")
	addr := fixedAddr(t)
	b := slow("n2#a", addr, a.Addr())
	await(t, a, "n2#a", state("n2#a", Alive))
	b.transport.cancel() // as a crash: nobody is told, and the port is free
	_ = b.transport.Shutdown()
	slow("n2#b", addr, a.Addr())
	await(t, a, "the new boot alone", are("n1#a=alive n2#a=dead n2#b=alive"))
}

func TestMetadataUpdatesReachAll_A2(t *testing.T) {
	all := five(t, func(_ int, c *Config) { c.Announce = 50 * time.Millisecond })
	awaitAll(t, all, fiveAlive)
	for i := range 1000 {
		all[2].SetMeta(Meta{Roles: []string{"host"}, Draining: i%2 == 1, Load: float64(i), View: int64(i)})
	}
	for _, g := range all {
		await(t, g, "the last metadata", func(m []Member) bool {
			return reflect.DeepEqual(find(m, "n3#a").Meta, Meta{Roles: []string{"host"}, Draining: true, Load: 999, View: 999})
		})
	}
}

func TestMetadataTooLongAreRefused(t *testing.T) {
	long := string(bytes.Repeat([]byte{'x'}, MaxMeta))
	_, err := Start(t.Context(), Config{ID: "n1#a", Bind: "127.0.0.1:0", Meta: Meta{Zone: long}, Logger: quiet()})
	if !errors.Is(err, ErrConfig) || !errors.Is(err, ErrMetaTooLong) {
		t.Fatal(err)
	}
	g := start(t, Config{ID: "n1#a", Meta: Meta{Zone: "short"}, Announce: time.Millisecond})
	g.SetMeta(Meta{Zone: long})
	g.SetMeta(Meta{Zone: "short", View: 2})
	await(t, g, "the metadata that fit", func(m []Member) bool { return m[0].Meta.Zone == "short" && m[0].Meta.View == 2 })
}

// Both halves of a cut network see the other as dead, and become one again,
// although only one half has the seed.
func TestPartitionIsNoticedAndHeals_A2(t *testing.T) {
	cut := &network{side: map[string]int{}}
	all := five(t, func(i int, c *Config) { c.Reach = cut.from(i % 2) })
	for i, g := range all {
		cut.place(g, i%2)
	}
	awaitAll(t, all, fiveAlive)
	cut.set(true)
	for i, g := range all {
		want := "n1#a=alive n2#a=dead n3#a=alive n4#a=dead n5#a=alive"
		if i%2 == 1 {
			want = "n1#a=dead n2#a=alive n3#a=dead n4#a=alive n5#a=dead"
		}
		await(t, g, want, are(want))
	}
	cut.set(false)
	awaitAll(t, all, fiveAlive)
}

// The seed is gone for good; the halves find each other by former members.
func TestPartitionHealsWithoutASeed_A2(t *testing.T) {
	cut := &network{side: map[string]int{}}
	all := five(t, func(i int, c *Config) { c.Reach = cut.from(i % 2) })
	for i, g := range all {
		cut.place(g, i%2)
	}
	awaitAll(t, all, fiveAlive)
	if err := all[0].Stop(); err != nil {
		t.Fatal(err)
	}
	cut.set(true)
	await(t, all[1], "half", are("n1#a=dead n2#a=alive n3#a=dead n4#a=alive n5#a=dead"))
	await(t, all[2], "half", are("n1#a=dead n2#a=dead n3#a=alive n4#a=dead n5#a=alive"))
	cut.set(false)
	awaitAll(t, all[1:], "n1#a=dead n2#a=alive n3#a=alive n4#a=alive n5#a=alive")
}

// Two groups formed apart, because the seed was not there yet.
func TestGroupsThatFormedApartMerge_A2(t *testing.T) {
	cut := &network{side: map[string]int{}, cut: true}
	a := start(t, Config{ID: "n1#a", Reach: cut.from(0)})
	cut.place(a, 0)
	b := start(t, Config{ID: "n2#a", Reach: cut.from(0), Join: []string{a.Addr()}})
	cut.place(b, 0)
	c := start(t, Config{ID: "n3#a", Reach: cut.from(1), Join: []string{a.Addr()}})
	cut.place(c, 1)
	d := start(t, Config{ID: "n4#a", Reach: cut.from(1), Join: []string{c.Addr()}})
	cut.place(d, 1)
	awaitAll(t, []*Gossip{a, b}, "n1#a=alive n2#a=alive")
	awaitAll(t, []*Gossip{c, d}, "n3#a=alive n4#a=alive")
	cut.set(false)
	awaitAll(t, []*Gossip{a, b, c, d}, "n1#a=alive n2#a=alive n3#a=alive n4#a=alive")
}

// A member that is silent is suspected before it is given up, and a sign of
// life ends that.
func TestSilentMemberIsSuspectedFirst_A2(t *testing.T) {
	cut := &network{side: map[string]int{}}
	slow := func(id string, side int, join ...string) *Gossip {
		g := start(t, Config{ID: id, Reach: cut.from(side), Join: join, Probe: 500 * time.Millisecond})
		cut.place(g, side)
		return g
	}
	a := slow("n1#a", 0)
	b := slow("n2#a", 1, a.Addr())
	awaitAll(t, []*Gossip{a, b}, "n1#a=alive n2#a=alive")
	cut.set(true)
	await(t, a, "suspicion", state("n2#a", Suspect))
	cut.set(false)
	await(t, a, "life", state("n2#a", Alive))
	cut.set(true)
	await(t, a, "suspicion", state("n2#a", Suspect))
	await(t, a, "death", state("n2#a", Dead))
	cut.set(false)
	awaitAll(t, []*Gossip{a, b}, "n1#a=alive n2#a=alive")
}

func TestKilledProcessIsNoticed_A2_E5(t *testing.T) {
	a := start(t, Config{ID: "n1#a", Probe: 200 * time.Millisecond})
	b := start(t, Config{ID: "n2#a", Probe: 200 * time.Millisecond, Join: []string{a.Addr()}})
	kill := process(t, "n3#a", a.Addr(), 200*time.Millisecond)
	awaitAll(t, []*Gossip{a, b}, "n1#a=alive n2#a=alive n3#a=alive")
	kill()
	at := time.Now()
	awaitAll(t, []*Gossip{a, b}, "n1#a=alive n2#a=alive n3#a=dead")
	t.Logf("noticed by both after %v", time.Since(at))
}

// process runs a member in a process of its own and gives what kills it.
func process(t testing.TB, id, seed string, probe time.Duration) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", envChild, id, seed, probe))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	return kill
}

func TestStopFreesThePortAtOnceAndIsIdempotent(t *testing.T) {
	addr := fixedAddr(t)
	g := start(t, Config{ID: "n1#a", Bind: addr})
	other := start(t, Config{ID: "n2#a", Join: []string{g.Addr()}})
	awaitAll(t, []*Gossip{g, other}, "n1#a=alive n2#a=alive")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := g.Leave(t.Context()); err != nil && !errors.Is(err, ErrStopped) {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := g.Stop(); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { g.SetMeta(Meta{View: 7}); g.Members() })
	}
	wg.Wait()
	if err := g.Leave(t.Context()); !errors.Is(err, ErrStopped) {
		t.Errorf("Leave after Stop: %v", err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", addr)
	if err = errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	_ = p.Close()
}

func TestTakenPortIsAnError(t *testing.T) {
	g := start(t, Config{ID: "n1#a"})
	if _, err := Start(t.Context(), Config{ID: "n2#a", Bind: g.Addr(), Logger: quiet()}); err == nil {
		t.Fatal("started twice at one address")
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{ID: "n1#a", Bind: "127.0.0.1:0", Logger: quiet()}
	for name, change := range map[string]func(*Config){
		"no logger":     func(c *Config) { c.Logger = nil },
		"no boot":       func(c *Config) { c.ID = "n1" },
		"no port":       func(c *Config) { c.Bind = "127.0.0.1" },
		"short key":     func(c *Config) { c.Keys = [][]byte{make([]byte, 32), make([]byte, 5)} },
		"seed":          func(c *Config) { c.Join = []string{"host"} },
		"seed's port":   func(c *Config) { c.Join = []string{"host:0"} },
		"cluster":       func(c *Config) { c.Cluster = string(make([]byte, 256)) },
		"advertise":     func(c *Config) { c.Advertise = "host:port" },
		"long metadata": func(c *Config) { c.Meta.Version = string(make([]byte, 600)) },
	} {
		c := good
		change(&c)
		if g, err := Start(t.Context(), c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v %v", name, g, err)
		}
	}
}

func TestAdvertisedAddress(t *testing.T) {
	for _, c := range []struct{ bind, advertise, want string }{
		{"127.0.0.1:0", "10.1.2.3", "10.1.2.3"},
		{"127.0.0.1:0", "10.1.2.3:99", "10.1.2.3:99"},
		{"127.0.0.1:0", "::1", "[::1]"},
		{":0", "localhost", "127.0.0.1"},
		{"localhost:0", "", "127.0.0.1"},
	} {
		g := start(t, Config{ID: "n1#a", Bind: c.bind, Advertise: c.advertise})
		_, port, _ := net.SplitHostPort(g.transport.tcp.Addr().String())
		if got := g.Addr(); got != c.want && got != c.want+":"+port && got != "[::1]:"+port {
			t.Errorf("%s advertised as %q is %s", c.bind, c.advertise, got)
		}
	}
}
