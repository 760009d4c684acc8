package gossip

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

// Strangers know the address of a member, and a member is told to join them.
func TestWhoHasNoKeyIsKeptOut_A2(t *testing.T) {
	a := start(t, Config{ID: "n1#a", Keys: [][]byte{key(1)}, Logger: quiet()})
	plain := start(t, Config{ID: "p1#a", Join: []string{a.Addr()}, Logger: quiet()})
	wrong := start(t, Config{ID: "w1#a", Keys: [][]byte{key(2)}, Join: []string{a.Addr()}, Logger: quiet()})
	b := start(t, Config{ID: "n2#a", Keys: [][]byte{key(1)}, Join: []string{plain.Addr(), wrong.Addr(), a.Addr()}, Logger: quiet()})
	awaitAll(t, []*Gossip{a, b}, "n1#a=alive n2#a=alive")
	// What they do by themselves every Retry, they have surely done now.
	for stranger, addr := range map[*Gossip]string{plain: a.Addr(), wrong: a.Addr(), a: wrong.Addr(), b: plain.Addr()} {
		if n, err := stranger.lib.Join([]string{addr}); err == nil || n != 0 {
			t.Errorf("%s was let in by %s", stranger.cfg.ID, addr)
		}
	}
	if got := states(a.Members()) + "|" + states(plain.Members()) + "|" + states(wrong.Members()); got != "n1#a=alive n2#a=alive|p1#a=alive|w1#a=alive" {
		t.Error(got)
	}
}

func TestKeysRotate_A2(t *testing.T) {
	a := start(t, Config{ID: "n1#a", Keys: [][]byte{key(1)}})
	b := start(t, Config{ID: "n2#a", Keys: [][]byte{key(1), key(2)}, Join: []string{a.Addr()}})
	awaitAll(t, []*Gossip{a, b}, "n1#a=alive n2#a=alive")
	c := start(t, Config{ID: "n3#a", Keys: [][]byte{key(2), key(1)}, Join: []string{b.Addr()}})
	await(t, b, "the one with the new key first", state("n3#a", Alive))
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	d := start(t, Config{ID: "n4#a", Keys: [][]byte{key(2)}, Join: []string{c.Addr()}})
	await(t, c, "the one with the new key only", state("n4#a", Alive))
	await(t, d, "the others", func(m []Member) bool { return state("n3#a", Alive)(m) })
}

func TestClustersOfOneNetworkStayApart(t *testing.T) {
	a := start(t, Config{ID: "n1#a", Cluster: "test", Logger: quiet()})
	b := start(t, Config{ID: "n2#a", Cluster: "production", Join: []string{a.Addr()}, Logger: quiet()})
	c := start(t, Config{ID: "n3#a", Cluster: "test", Join: []string{a.Addr()}, Logger: quiet()})
	awaitAll(t, []*Gossip{a, c}, "n1#a=alive n3#a=alive")
	if _, err := b.lib.Join([]string{a.Addr()}); err == nil {
		t.Error("joined a foreign cluster")
	}
	if got := states(b.Members()); got != "n2#a=alive" {
		t.Error(got)
	}
}

// Other programs use memberlist too: their members are not ours.
func TestForeignMembersAreRefused(t *testing.T) {
	a := start(t, Config{ID: "n1#a", Logger: quiet()})
	conf := memberlist.DefaultLocalConfig()
	conf.Name, conf.BindAddr, conf.BindPort, conf.LogOutput = "foreigner", "127.0.0.1", 0, io.Discard
	label := goroutines{label: "foreigner"}
	var m *memberlist.Memberlist
	var err error
	label.do(t.Context(), func() { m, err = memberlist.Create(conf) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(m.Shutdown(), label.wait(20*time.Second)); err != nil {
			t.Error(err)
		}
	}()
	if _, err := m.Join([]string{a.Addr()}); err != nil {
		t.Logf("not even an exchange: %v", err)
	}
	b := start(t, Config{ID: "n2#a", Join: []string{a.Addr()}, Logger: quiet()})
	awaitAll(t, []*Gossip{a, b}, "n1#a=alive n2#a=alive")
}

// Whatever arrives at the port, members go on and their log stays short.
func TestJunkAtThePortDoesNoHarm_A2(t *testing.T) {
	for name, keys := range map[string][][]byte{"plain": nil, "encrypted": {key(1)}} {
		t.Run(name, func(t *testing.T) {
			var log countingWriter
			a := start(t, Config{ID: "n1#a", Keys: keys, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			seen := sniff(t, keys)
			junk(t, a.Addr(), seen)
			b := start(t, Config{ID: "n2#a", Keys: keys, Join: []string{a.Addr()}})
			await(t, a, "a newcomer after the junk", state("n2#a", Alive))
			await(t, b, "the member", state("n1#a", Alive))
			if n := log.lines(); n > 50 {
				t.Errorf("%d lines in the log", n)
			}
		})
	}
}

// sniff gives packets that a member sends.
func sniff(t *testing.T, keys [][]byte) [][]byte {
	t.Helper()
	var mu sync.Mutex
	var seen [][]byte
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65536)
		for {
			n, _, err := l.ReadFrom(buf)
			if err != nil {
				return
			}
			mu.Lock()
			seen = append(seen, bytes.Clone(buf[:n]))
			mu.Unlock()
		}
	}()
	a := start(t, Config{ID: "s1#a", Keys: keys, Logger: quiet()})
	b := start(t, Config{ID: "s2#a", Keys: keys, Join: []string{a.Addr()}, Logger: quiet(), Reach: func(string) bool { return true }})
	await(t, b, "its peer", state("s1#a", Alive))
	b.cfg.Logger.Debug("sniffing")
	_, _ = b.lib.Ping("s1#a", l.LocalAddr())
	_ = b.lib.SendToAddress(memberlist.Address{Addr: l.LocalAddr().String()}, []byte("user message"))
	_ = l.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	<-done
	_ = l.Close()
	if len(seen) == 0 {
		t.Fatal("no packet seen")
	}
	return seen
}

// junk sends random bytes, changed and cut packets, by UDP and TCP.
func junk(t *testing.T, addr string, seen [][]byte) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	udp, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for i := range 3000 {
		_, _ = udp.Write(mutate(rnd, seen, i))
	}
	for i := range 60 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(mutate(rnd, seen, i))
		_ = c.Close()
	}
}

func mutate(rnd *rand.Rand, seen [][]byte, i int) []byte {
	if i%3 == 0 {
		b := make([]byte, rnd.IntN(1400))
		for j := range b {
			b[j] = byte(rnd.Uint32())
		}
		if len(b) > 0 {
			b[0] = byte(i % 16) // the type of the message
		}
		return b
	}
	b := bytes.Clone(seen[rnd.IntN(len(seen))])
	for range 1 + rnd.IntN(8) {
		b[rnd.IntN(len(b))] = byte(rnd.Uint32())
	}
	return b[:1+rnd.IntN(len(b))]
}

type countingWriter struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *countingWriter) lines() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Count(w.b.Bytes(), []byte{'\n'})
}

func TestStreamsOfPeersAreBounded(t *testing.T) {
	g := start(t, Config{ID: "n1#a", Logger: quiet()})
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for range 2 * maxStreams {
		c, err := net.Dial("tcp", g.Addr())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	// The last one is closed by the member, since the first ones say nothing.
	last := open[len(open)-1]
	_ = last.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := last.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Fatalf("still open: %v", err)
	}
	g.transport.mu.Lock()
	defer g.transport.mu.Unlock()
	if g.transport.inbound > maxStreams {
		t.Fatalf("%d streams", g.transport.inbound)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
