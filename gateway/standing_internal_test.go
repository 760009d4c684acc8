package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway/apikey"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// oracle answers for the grains of tenants, in the time it is given.
type oracle struct {
	mu     sync.Mutex
	access *nodev1.Access
	err    error
	delay  time.Duration
	asked  atomic.Int64
	uses   []*nodev1.ReportKeyUse
}

func (o *oracle) set(f func(*oracle)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f(o)
}

func (o *oracle) Ask(ctx context.Context, _, _, _ string, m proto.Message) (proto.Message, error) {
	o.mu.Lock()
	a, err, delay := o.access, o.err, o.delay
	if u := m.(*nodev1.TenantCall).GetReportKeyUse(); u != nil {
		o.uses = append(o.uses, u)
		o.mu.Unlock()
		return &nodev1.TenantReply{Result: &nodev1.TenantReply_Done{Done: &nodev1.Done{}}}, nil
	}
	o.mu.Unlock()
	o.asked.Add(1)
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &nodev1.TenantReply{Result: &nodev1.TenantReply_Access{Access: a}}, err
}

var testPepper = []byte(strings.Repeat("p", 32))

// watched is a gateway over an oracle, that serves nobody; a key and its record.
func watched(t *testing.T) (*Gateway, *oracle, apikey.Key, *nodev1.Access) {
	t.Helper()
	k, err := apikey.New("acme", testPepper)
	if err != nil {
		t.Fatal(err)
	}
	known := &nodev1.Access{Grants: []*nodev1.Grant{{Role: "viewer"}}, Key: &nodev1.KeyRecord{Id: k.ID, Mac: k.MAC(testPepper), Subject: "key:" + k.ID}}
	o := &oracle{access: known}
	g := &Gateway{cfg: Config{Grains: o, KeyPepper: testPepper}, log: slog.New(slog.DiscardHandler), now: time.Now}
	var cancel context.CancelCauseFunc
	g.base, cancel = context.WithCancelCause(context.Background())
	t.Cleanup(func() { cancel(nil); g.background.Wait() })
	return g, o, k, known
}

func TestARevokedKeyIsRefusedWithinASecondAndAHotOneNeverWaits_B1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, o, k, _ := watched(t)
		o.set(func(o *oracle) { o.delay = 300 * time.Millisecond })
		if _, err := g.admitKey(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		use := func(d time.Duration) (refused time.Duration) {
			for start := time.Now(); time.Since(start) < d; time.Sleep(10 * time.Millisecond) {
				at := time.Now()
				_, err := g.admitKey(t.Context(), k)
				if time.Since(at) > 0 {
					t.Fatalf("a call waited %v", time.Since(at))
				}
				if err != nil {
					return time.Since(start)
				}
			}
			return -1
		}
		before := o.asked.Load()
		if use(10*time.Second) >= 0 {
			t.Fatal("refused")
		}
		if n := o.asked.Load() - before; n > 30 {
			t.Errorf("the tenant was asked %d times in 10 s", n)
		}
		o.set(func(o *oracle) { o.access = &nodev1.Access{} })
		if after := use(2 * time.Second); after < 0 || after >= time.Second {
			t.Errorf("refused after %v", after)
		}
	})
}

func TestATenantThatCannotBeAskedLetsNobodyIn_B1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, o, k, known := watched(t)
		token := Principal{Tenant: "acme", Subject: "ada", Roles: []string{RoleEditor}}
		read, search := connect.Spec{IdempotencyLevel: connect.IdempotencyNoSideEffects}, connect.Spec{Procedure: granaryv1connect.SearchServiceSearchProcedure}
		if _, err := g.admitKey(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		if p, err := g.admitToken(t.Context(), read, token); err != nil || len(p.Grants) != 2 || p.unproven {
			t.Fatalf("%+v %v", p, err)
		}
		out := func(what string) {
			t.Helper()
			if _, err := g.admitKey(t.Context(), k); !isUnavailable(err) {
				t.Errorf("%s, a key: %v", what, err)
			}
			if _, err := g.admitToken(t.Context(), read, token); !isUnavailable(err) {
				t.Errorf("%s, a token: %v", what, err)
			}
		}
		o.set(func(o *oracle) { o.err = errors.New("away") })
		time.Sleep(standingLife)
		out("away")
		if p, err := g.admitToken(t.Context(), search, token); err != nil || !p.unproven || len(p.Grants) != 1 || p.Grants[0].Role != kb.RoleEditor {
			t.Errorf("a token that searches has its own roles only: %+v %v", p, err)
		}
		asked := o.asked.Load()
		for range 1000 {
			_, _ = g.admitKey(t.Context(), k)
		}
		if n := o.asked.Load() - asked; n > 0 {
			t.Errorf("a tenant that is away is asked %d times more", n)
		}
		o.set(func(o *oracle) {
			o.err, o.access = nil, &nodev1.Access{State: v1.TenantState_TENANT_STATE_SUSPENDED, Key: known.Key}
		})
		time.Sleep(standingRest)
		if _, err := g.admitToken(t.Context(), read, token); !kb.Is(err, kb.ReasonTenantSuspended) {
			t.Errorf("suspended: %v", err)
		}
		o.set(func(o *oracle) { o.err = errors.New("away") })
		time.Sleep(time.Minute)
		out("suspended, and away")
		if _, err := g.admitToken(t.Context(), search, token); !kb.Is(err, kb.ReasonTenantSuspended) {
			t.Errorf("suspended, away, and a search: %v", err)
		}
	})
}

// What is known of a caller is no younger for a sleep of the machine, in which Go's
// clock stands still, nor for a clock that is set back.
func TestAMachineThatSleptAsksAnew_B1(t *testing.T) {
	for name, shift := range map[string]time.Duration{"it slept": time.Second, "its clock was set back": -time.Hour} {
		g, o, k, _ := watched(t)
		if _, err := g.admitKey(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		o.set(func(o *oracle) { o.access = &nodev1.Access{} })
		g.now = func() time.Time { return wallShifted(time.Now(), shift) }
		if shift < 0 {
			time.Sleep(standingLife) // Go's clock tells
		}
		if _, err := g.admitKey(t.Context(), k); !errors.Is(err, errKey) {
			t.Errorf("%s: a key revoked meanwhile: %v", name, err)
		}
	}
}

// wallShifted moves a time's wall clock and leaves its monotonic one, as a sleep of the
// machine does; package time has no way to make one.
func wallShifted(t time.Time, d time.Duration) time.Time {
	const seconds = 30 // the bit they begin at when there is a monotonic reading
	*(*uint64)(unsafe.Pointer(&t)) += uint64(int64(d/time.Second)) << seconds
	return t
}

func TestAnAnswerThatIsOldWhenItComesIsAskedForAgain_B1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, o, k, _ := watched(t)
		o.set(func(o *oracle) { o.delay = standingLife })
		go func() { // the first question wakes the tenant
			time.Sleep(time.Millisecond)
			o.set(func(o *oracle) { o.delay = 0 })
		}()
		if _, err := g.admitKey(t.Context(), k); err != nil || o.asked.Load() != 2 {
			t.Errorf("%v, asked %d times", err, o.asked.Load())
		}
		time.Sleep(time.Minute)
		o.set(func(o *oracle) { o.delay = standingLife })
		if _, err := g.admitKey(t.Context(), k); !isUnavailable(err) {
			t.Errorf("always old: %v", err)
		}
	})
}

func TestKeysThatNobodyMadeWakeNobody_B1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, o, k, _ := watched(t)
		for n := range 10_000 {
			forged, err := apikey.New(fmt.Sprint("tenant-", n%100), []byte("a guess"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := g.readKey(forged.Reveal()); !errors.Is(err, errKey) {
				t.Fatal(err)
			}
		}
		if o.asked.Load() != 0 || len(g.standings.known) != 0 {
			t.Errorf("%d asked, %d remembered", o.asked.Load(), len(g.standings.known))
		}
		if _, err := g.readKey(k.Reveal()); err != nil {
			t.Error(err)
		}
		for n := range standingMost + 100 {
			_, _ = g.standing(t.Context(), callerID{tenant: "acme", subject: fmt.Sprint(n)})
		}
		if n := len(g.standings.known); n > standingMost {
			t.Errorf("%d callers are remembered", n)
		}
	})
}

func TestUsesOfKeysAreToldTogetherOnceAMinute_B1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, o, _, _ := watched(t)
		for range 300 { // a minute
			for n := range 20 {
				g.keyUses.note(g, Principal{Tenant: "acme", KeyID: fmt.Sprint(n)}, "192.0.2.1")
			}
			time.Sleep(200 * time.Millisecond)
		}
		synctest.Wait()
		o.mu.Lock()
		defer o.mu.Unlock()
		if len(o.uses) != 1 || len(o.uses[0].GetUses()) != 20 || o.uses[0].GetUses()[0].GetRemote() != "192.0.2.1" {
			t.Fatalf("%d reports", len(o.uses))
		}
		o.mu.Unlock()
		g.keyUses.note(g, Principal{Tenant: "acme", KeyID: "1"}, "")
		time.Sleep(2 * gatherUses)
		synctest.Wait()
		o.mu.Lock()
		if len(o.uses) != 2 || len(o.uses[1].GetUses()) != 1 {
			t.Errorf("%d reports", len(o.uses))
		}
	})
}
