package gossip

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"granary.dev/granary/cluster/protocol"
)

// State is what gossip says of a member.
type State uint8

// The states, see the package documentation.
const (
	Alive State = iota + 1
	Suspect
	Dead
	Left
)

// String is for logs and tables.
func (s State) String() string {
	switch s {
	case Alive:
		return "alive"
	case Suspect:
		return "suspect"
	case Dead:
		return "dead"
	case Left:
		return "left"
	default:
		return "unknown"
	}
}

// Gone reports whether the state is Dead or Left.
func (s State) Gone() bool { return s == Dead || s == Left }

// Member is one boot of a node as this node sees it.
type Member struct {
	ID    string // name#boot
	Addr  string // host:port of its gossip
	Meta  Meta   // the last that was heard
	State State
	Since time.Time // when this node began to see it in State
}

const (
	// remember is how long a dead member stays listed, and is tried again in
	// case only the network had failed.
	remember = time.Hour
	// rememberReplaced is the same for one whose node has a later boot.
	rememberReplaced = time.Minute
	// maxNotes bounds what waits to be logged.
	maxNotes = 1000
)

// members is the list. memberlist calls its Notify methods with a lock held:
// they copy, poke and return.
type members struct {
	self string
	log  *slog.Logger

	changed chan struct{} // capacity 1: for our user
	noted   chan struct{} // capacity 1: there is something to log

	mu    sync.Mutex
	m     map[string]*member
	notes []note
}

// note is a change of state to be logged.
type note struct {
	Member
	was State
}

type member struct {
	Member
	heard   State // what memberlist says, before settle
	addr    netip.AddrPort
	started time.Time
	leaving bool
}

func newMembers(self string, log *slog.Logger) *members {
	return &members{self: self, log: log, m: map[string]*member{},
		changed: make(chan struct{}, 1), noted: make(chan struct{}, 1)}
}

// spoken is the version of memberlist's protocol that all our nodes speak,
// whatever newer one a later library knows.
const spoken = 5

var errForeign = errors.New("gossip: not a node of ours")

// NotifyAlive refuses what is not one of our nodes before memberlist knows it.
func (t *members) NotifyAlive(n *memberlist.Node) error {
	if _, err := protocol.ParseNodeID(n.Name); err != nil {
		return err
	}
	if !addrOf(n).IsValid() {
		return errForeign
	}
	// One member of another version in the list, and no exchange of state
	// would succeed any more.
	if n.PCur != spoken || n.PMin > spoken || n.PMax < spoken || n.DMin != 0 || n.DMax != 0 || n.DCur != 0 {
		return errForeign
	}
	_, err := decode(n.Meta)
	return err
}

// NotifyJoin is called for a new member, for one that was dead, and for this node.
func (t *members) NotifyJoin(n *memberlist.Node) { t.heard(n) }

// NotifyUpdate is called when the metadata of a member differ.
func (t *members) NotifyUpdate(n *memberlist.Node) { t.heard(n) }

func (t *members) heard(n *memberlist.Node) {
	a, err := decode(n.Meta)
	if err != nil {
		return // cannot be: NotifyAlive came first
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.m[n.Name]
	if e == nil {
		e = &member{Member: Member{ID: n.Name}}
		t.m[n.Name] = e
	}
	e.Meta, e.started, e.leaving = a.Meta, a.started, a.leaving
	e.addr = addrOf(n)
	e.Addr = e.addr.String()
	e.heard = Alive
	t.settle(nodeName(e.ID))
	poke(t.changed)
}

// settle derives the states of all boots of a node. The earlier of two at one
// address is dead: the later one could not have the address otherwise. Should
// the clock between them have gone back, it is the wrong one that is called
// dead, until memberlist notices who answers.
func (t *members) settle(name string) {
	for _, e := range t.m {
		if nodeName(e.ID) != name {
			continue
		}
		state := e.heard
		for _, o := range t.m {
			if o.addr == e.addr && nodeName(o.ID) == name && !o.heard.Gone() && o.started.After(e.started) &&
				!state.Gone() && e.ID != t.self {
				state = Dead
			}
		}
		t.set(e, state)
	}
}

// NotifyLeave is called when a member is dead or has left. Which of them,
// memberlist does not say: a member announces it before it leaves.
func (t *members) NotifyLeave(n *memberlist.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.m[n.Name]
	if e == nil {
		return
	}
	e.heard = Dead
	if e.leaving {
		e.heard = Left
	}
	t.settle(nodeName(e.ID))
	poke(t.changed)
}

// AckPayload is part of memberlist.PingDelegate; there is nothing to say.
func (t *members) AckPayload() []byte { return nil }

// NotifyPingComplete is called when a member answered.
func (t *members) NotifyPingComplete(n *memberlist.Node, _ time.Duration, _ []byte) {
	t.between(n.Name, Suspect, Alive)
}

// unreachable is called when a stream to a member could not be made or gave nothing.
func (t *members) unreachable(id string) { t.between(id, Alive, Suspect) }

func (t *members) between(id string, from, to State) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.m[id]; e != nil && e.heard == from && id != t.self {
		e.heard = to
		t.settle(nodeName(id))
		poke(t.changed)
	}
}

func (t *members) set(e *member, s State) {
	if e.State == s {
		return
	}
	n := note{Member: e.Member, was: e.State}
	e.State, e.Since = s, time.Now()
	n.State = s
	// Logged elsewhere: a slow log must not hold memberlist's lock.
	if len(t.notes) < maxNotes {
		t.notes = append(t.notes, n)
	}
	poke(t.noted)
}

// list gives a copy, sorted by id.
func (t *members) list() []Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Member, 0, len(t.m))
	for _, e := range t.m {
		m := e.Member
		m.Meta.Roles = slices.Clone(m.Meta.Roles)
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// present gives the addresses at which a member is that is not gone.
func (t *members) present() map[netip.AddrPort]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[netip.AddrPort]bool, len(t.m))
	for _, e := range t.m {
		if !e.State.Gone() {
			out[e.addr] = true
		}
	}
	return out
}

// lost gives the address of a random dead member at whose address no other
// member is, if there is one.
func (t *members) lost() (netip.AddrPort, bool) {
	present := t.present()
	t.mu.Lock()
	defer t.mu.Unlock()
	var dead []netip.AddrPort
	for _, e := range t.m {
		if e.State == Dead && !present[e.addr] {
			dead = append(dead, e.addr)
		}
	}
	if len(dead) == 0 {
		return netip.AddrPort{}, false
	}
	return dead[rand.IntN(len(dead))], true
}

// forget drops members that have been gone for long.
func (t *members) forget(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	latest := map[string]time.Time{}
	for id, e := range t.m {
		if name := nodeName(id); e.started.After(latest[name]) {
			latest[name] = e.started
		}
	}
	for id, e := range t.m {
		if id == t.self || !e.State.Gone() {
			continue
		}
		keep := remember
		if e.State == Left || latest[nodeName(id)].After(e.started) {
			keep = rememberReplaced
		}
		if now.Sub(e.Since) > keep {
			delete(t.m, id)
			poke(t.changed)
		}
	}
}

// flush logs what has changed since the last call.
func (t *members) flush(ctx context.Context) {
	t.mu.Lock()
	notes := t.notes
	t.notes = nil
	t.mu.Unlock()
	for _, m := range notes {
		level := slog.LevelInfo
		switch {
		case m.ID == t.self || m.State == Suspect || m.was == Suspect && m.State == Alive:
			level = slog.LevelDebug
		case m.State == Dead:
			level = slog.LevelWarn
		}
		t.log.LogAttrs(ctx, level, "gossip: a member's state", slog.String("member", m.ID),
			slog.String("state", m.State.String()), slog.String("addr", m.Addr))
	}
}

func nodeName(id string) string {
	name, _, _ := strings.Cut(id, "#")
	return name
}

// addrOf is not valid when the node gives no sensible address.
func addrOf(n *memberlist.Node) netip.AddrPort {
	ip, ok := netip.AddrFromSlice(n.Addr)
	if !ok || n.Port == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip.Unmap(), n.Port)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
