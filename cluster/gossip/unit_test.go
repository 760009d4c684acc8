package gossip

import (
	"bytes"
	"errors"
	"log/slog"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/encoding/protowire"
)

var began = time.UnixMilli(1_800_000_000_000)

func encoded(t testing.TB, a announcement) []byte {
	t.Helper()
	b, err := a.encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMetaKeepsItsSizeWhileTheNodeRuns(t *testing.T) {
	idle := announcement{Meta: Meta{Actors: "a:1", Roles: []string{"gateway", "host"}}, started: began}
	busy := idle
	busy.Draining, busy.Healthy, busy.leaving, busy.Load, busy.View = true, true, true, math.MaxFloat32, math.MaxInt64
	if a, b := len(encoded(t, idle)), len(encoded(t, busy)); a != b {
		t.Errorf("%d and %d bytes", a, b)
	}
	got, err := decode(encoded(t, busy))
	if err != nil || !reflect.DeepEqual(got, busy) {
		t.Errorf("%+v %v", got, err)
	}
	for zone := strings.Repeat("z", MaxMeta); ; zone = zone[1:] {
		b, err := announcement{Meta: Meta{Zone: zone}, started: began}.encode()
		if err == nil {
			if len(b) != MaxMeta {
				t.Errorf("the longest is %d bytes", len(b))
			}
			break
		}
		if !errors.Is(err, ErrMetaTooLong) {
			t.Fatal(err)
		}
	}
}

// A later version may say more.
func TestMetaOfALaterVersionIsUnderstood(t *testing.T) {
	a := announcement{Meta: Meta{API: "x:1", Load: 0.5}, started: began}
	b := protowire.AppendBytes(protowire.AppendTag(encoded(t, a), 99, protowire.BytesType), []byte("news"))
	b = protowire.AppendVarint(protowire.AppendTag(b, 100, protowire.VarintType), 7)
	if got, err := decode(b); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("%+v %v", got, err)
	}
}

func FuzzDecodeMeta(f *testing.F) {
	f.Add(encoded(f, announcement{Meta: Meta{Actors: "a:1", Roles: []string{"host"}, Load: 1}, started: began, leaving: true}))
	f.Add([]byte{0x3b, 0x3c})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decode(b)
		if err != nil {
			return
		}
		again, err := a.encode()
		if errors.Is(err, ErrMetaTooLong) {
			return // unknown parts made room for longer known ones
		}
		if got, err := decode(again); err != nil || !reflect.DeepEqual(got, a) {
			t.Errorf("%+v is read as %+v, %v", a, got, err)
		}
	})
}

func node(t *testing.T, id, addr string, a announcement) *memberlist.Node {
	ap := netip.MustParseAddrPort(addr)
	return &memberlist.Node{Name: id, Addr: ap.Addr().AsSlice(), Port: ap.Port(), Meta: encoded(t, a)}
}

func TestEarlierBootHeardOfLateIsNotTakenForTheLaterOne_A2(t *testing.T) {
	l := newMembers("me#1", quiet())
	young := node(t, "n1#b", "10.0.0.1:7", announcement{started: began.Add(time.Second)})
	old := node(t, "n1#a", "10.0.0.1:7", announcement{started: began})
	elsewhere := node(t, "n1#c", "10.0.0.2:7", announcement{started: began})
	l.NotifyJoin(young)
	l.NotifyJoin(old)
	l.NotifyJoin(elsewhere)
	if got := states(l.list()); got != "n1#a=dead n1#b=alive n1#c=alive" {
		t.Fatal(got)
	}
	l.NotifyUpdate(old)
	l.unreachable("n1#b")
	l.unreachable("n1#a")
	if got := states(l.list()); got != "n1#a=dead n1#b=suspect n1#c=alive" {
		t.Fatal(got)
	}
	l.NotifyPingComplete(young, 0, nil)
	l.NotifyLeave(elsewhere)
	l.NotifyLeave(node(t, "unknown#1", "10.0.0.9:7", announcement{started: began}))
	if got := states(l.list()); got != "n1#a=dead n1#b=alive n1#c=dead" {
		t.Fatal(got)
	}
}

// The clock went back between two boots: the later one is called dead until
// memberlist finds that the former one does not answer.
func TestBootAfterTheClockWentBackIsAliveInTheEnd(t *testing.T) {
	l := newMembers("me#1", quiet())
	young := node(t, "n1#b", "10.0.0.1:7", announcement{started: began})
	old := node(t, "n1#a", "10.0.0.1:7", announcement{started: began.Add(time.Hour)})
	l.NotifyJoin(old)
	l.NotifyJoin(young)
	l.NotifyLeave(old)
	if got := states(l.list()); got != "n1#a=dead n1#b=alive" {
		t.Fatal(got)
	}
}

func TestMembersLongGoneAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMembers("me#1", quiet())
		left := announcement{started: began, leaving: true}
		l.NotifyJoin(node(t, "me#1", "10.0.0.9:7", announcement{started: began}))
		l.NotifyJoin(node(t, "n1#a", "10.0.0.1:7", announcement{started: began}))
		l.NotifyJoin(node(t, "n1#b", "10.0.0.1:7", announcement{started: began.Add(1)}))
		l.NotifyJoin(node(t, "n2#a", "10.0.0.2:7", left))
		l.NotifyJoin(node(t, "n3#a", "10.0.0.3:7", announcement{started: began}))
		l.NotifyLeave(node(t, "n1#a", "10.0.0.1:7", announcement{started: began}))
		l.NotifyLeave(node(t, "n2#a", "10.0.0.2:7", left))
		l.NotifyLeave(node(t, "n3#a", "10.0.0.3:7", announcement{started: began}))
		if addr, ok := l.lost(); !ok || addr.String() != "10.0.0.3:7" {
			t.Errorf("lost: %v %v", addr, ok)
		}
		time.Sleep(rememberReplaced)
		l.forget(time.Now())
		if got := states(l.list()); got != "me#1=alive n1#a=dead n1#b=alive n2#a=left n3#a=dead" {
			t.Errorf("after %v: %s", rememberReplaced, got)
		}
		time.Sleep(time.Second)
		l.forget(time.Now())
		if got := states(l.list()); got != "me#1=alive n1#a=dead n1#b=alive n3#a=dead" {
			t.Errorf("later: %s", got)
		}
		time.Sleep(remember)
		l.forget(time.Now())
		if got := states(l.list()); got != "me#1=alive n1#b=alive" {
			t.Errorf("in the end: %s", got)
		}
	})
}

func TestAnnouncementsAreRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := newAnnouncer(announcement{started: began}, 500*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		told := make(chan time.Time, 100)
		a.update = func() { told <- time.Now() }
		go a.run(t.Context())
		say := func(change func(*announcement)) {
			if err := a.set(change); err != nil {
				t.Error(err)
			}
		}
		var begin time.Time
		expect := func(what string, want ...time.Duration) {
			t.Helper()
			synctest.Wait()
			var got []time.Duration
			for len(told) > 0 {
				got = append(got, (<-told).Sub(begin))
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: told at %v, want %v", what, got, want)
			}
		}
		begin = time.Now()
		for i := range 90 { // a new view every 10 ms
			say(func(x *announcement) { x.View = int64(i + 1) })
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Second)
		expect("views", 500*time.Millisecond, time.Second)
		time.Sleep(time.Minute)
		begin = time.Now()
		say(func(x *announcement) { x.Draining = true })
		synctest.Wait()
		say(func(x *announcement) { x.Load = loadStep / 2 })
		time.Sleep(loadEvery + time.Second)
		expect("a drain after silence, and a little load", 0, loadEvery)
	})
}

func TestLibraryCannotFillTheLog(t *testing.T) {
	var out bytes.Buffer
	now := began
	l := &libraryLog{log: slog.New(slog.NewTextHandler(&out, nil)), now: func() time.Time { return now }}
	say := func(line string) { _, _ = l.Write([]byte(line + "\n")) }
	say("[DEBUG] memberlist: chatter")
	say("[INFO] memberlist: chatter")
	say("[WARN] memberlist: Refuting an alive message for 'n1' (10.0.0.1:7) meta:([1 2 3] VS [4 5 6]), vsn:([] VS [])")
	say(`[ERR] memberlist: discarding packet with unacceptable label "secret": from=x`)
	for range 100 {
		say("[ERR] memberlist: " + strings.Repeat("x", 10_000))
	}
	text := out.String()
	if n := strings.Count(text, "\n"); n != warnBurst {
		t.Errorf("%d lines", n)
	}
	for _, s := range []string{"chatter", "1 2 3", "4 5 6", "secret"} {
		if strings.Contains(text, s) {
			t.Errorf("%q is in the log", s)
		}
	}
	if len(text) > 5*(maxLine+200) {
		t.Errorf("%d bytes", len(text))
	}
	now = now.Add(warnEvery)
	say("[ERR] memberlist: again")
	l.quiet()
	say("[ERR] memberlist: too late")
	if s := out.String(); !strings.Contains(s, "again") || strings.Contains(s, "too late") {
		t.Error(s[len(text):])
	}
}

func TestSeedsAreTriedUntilTheyAreMembers_A2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMembers("me#1", quiet())
		var mu sync.Mutex
		var tried []string
		reachable := map[string]bool{}
		s := &seeds{self: netip.MustParseAddrPort("10.0.0.9:7"), members: l, log: quiet(),
			aliases: map[netip.AddrPort]time.Time{}, failing: map[netip.AddrPort]bool{},
			join: func(addr string) error {
				mu.Lock()
				defer mu.Unlock()
				tried = append(tried, addr)
				if !reachable[addr] {
					return errors.New("nobody there")
				}
				return nil
			}}
		for _, a := range []string{"10.0.0.9:7", "10.0.0.1:7", "10.0.0.2:7"} {
			seed, err := parseSeed(a)
			if err != nil {
				t.Fatal(err)
			}
			s.list = append(s.list, seed)
		}
		go s.run(t.Context(), 2*time.Second)
		expect := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after)
			mu.Lock()
			defer mu.Unlock()
			if got := strings.Join(tried, " "); got != want {
				t.Errorf("tried %q, want %q", got, want)
			}
			tried = nil
		}
		expect(time.Second, "10.0.0.1:7 10.0.0.2:7") // between two rounds from here on
		l.NotifyJoin(node(t, "n1#a", "10.0.0.1:7", announcement{started: began}))
		mu.Lock()
		reachable["10.0.0.2:7"] = true // answers, but it is a balancer
		mu.Unlock()
		expect(2*time.Second, "10.0.0.2:7")
		expect(aliasPause-4*time.Second, "")
		expect(4*time.Second, "10.0.0.2:7")
		l.NotifyLeave(node(t, "n1#a", "10.0.0.1:7", announcement{started: began}))
		expect(2*time.Second, "10.0.0.1:7 10.0.0.1:7") // as a seed and as a lost member
		l.NotifyJoin(node(t, "n1#a", "10.0.0.1:7", announcement{started: began}))
		expect(2*time.Second, "")
	})
}
