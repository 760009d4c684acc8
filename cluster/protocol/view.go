package protocol

import (
	"errors"
	"slices"
	"strings"
	"time"
)

// Rounds is the number of steps in which partitions change hands when nodes
// join or drain: each step moves at most one in Rounds of them (rounded up).
const Rounds = 10

// ErrInvalidNodeID is wrapped by the errors of [ParseNodeID].
var ErrInvalidNodeID = errors.New("node id is not valid")

// NodeID names one life of a node. The table hashes Name, which survives a
// restart; leases, fences and gossip use both, since a process that was given
// up must never be taken for the one that follows it.
type NodeID struct {
	Name string // stable; see [TableConfig] for what the ring makes of it
	Boot string // new for each start of the process
}

// String gives "name#boot".
func (n NodeID) String() string { return n.Name + "#" + n.Boot }

// ParseNodeID reads what [NodeID.String] wrote. The error wraps [ErrInvalidNodeID].
func ParseNodeID(s string) (NodeID, error) {
	name, boot, ok := strings.Cut(s, "#")
	if !ok || !validNodeName(name) || !validNodeName(boot) {
		return NodeID{}, ErrInvalidNodeID
	}
	return NodeID{Name: name, Boot: boot}, nil
}

// MemberState is where a member stands in the view.
//
//	joining ──all rounds──▶ live ──Drain──▶ draining ──own word──▶ left
//	   └───────────────────────┴──────────────┴──lease expired──▶ dead
//
// left and dead are final for that boot.
type MemberState string

// States of a [Member].
const (
	Joining  MemberState = "joining"  // takes partitions over, round by round
	Live     MemberState = "live"     // owns its share
	Draining MemberState = "draining" // gives partitions away, round by round
	Left     MemberState = "left"     // said itself that it serves nothing any more
	Dead     MemberState = "dead"     // its lease expired
)

// Active tells whether the member may own something and must hold a lease.
func (s MemberState) Active() bool { return s == Joining || s == Live || s == Draining }

// Member is one node of a [View].
type Member struct {
	NodeID
	Addr  string // host:port where other nodes reach it
	Zone  string // failure domain, "" if unknown
	State MemberState
}

// Override places all grains of a tenant on one node, whatever the table says.
type Override struct {
	Tenant string
	Node   string // name; ignored while no live member has it
	Auto   bool   // for the node's load: ends when there is room at home. Else an operator wants it
}

// View is who takes part in the cluster and what they share: the only authority
// for placement. The store keeps one and replaces it by compare-and-swap on
// Version. A View is never changed in place; its slices are shared.
type View struct {
	Version     int64      // 0 before the first node joined; rises by one
	Members     []Member   // ascending by name, one entry per name
	Overrides   []Override // ascending by tenant
	Round       int        // how many of [Rounds] bands of partitions are at the target members
	Fingerprint string     // [Fingerprint] of the nodes that share it
	CommittedAt time.Time  // by the store's clock; set by the store
}

// Override gives what the view says of a tenant's place.
func (v View) Override(tenant string) (Override, bool) {
	if at, ok := v.override(tenant); ok {
		return v.Overrides[at], true
	}
	return Override{}, false
}

func (v View) override(tenant string) (int, bool) {
	return slices.BinarySearchFunc(v.Overrides, tenant, func(o Override, tenant string) int {
		return strings.Compare(o.Tenant, tenant)
	})
}

// Find gives the member with this name and boot.
func (v View) Find(id NodeID) (Member, bool) {
	m, ok := v.Named(id.Name)
	if !ok || m.Boot != id.Boot {
		return Member{}, false
	}
	return m, true
}

// Named gives the member with this name, whatever its boot.
func (v View) Named(name string) (Member, bool) {
	if at, ok := v.index(name); ok {
		return v.Members[at], true
	}
	return Member{}, false
}

// Gone tells whether that life of a node can own nothing any more. A boot that
// the view does not hold is gone too: it was replaced by a later one, or never
// was a member and could not have acquired anything.
func (v View) Gone(id NodeID) bool {
	m, ok := v.Find(id)
	return !ok || !m.State.Active()
}

// Moving tells whether members are joining or draining.
func (v View) Moving() bool {
	for i := range v.Members {
		if s := v.Members[i].State; s == Joining || s == Draining {
			return true
		}
	}
	return false
}

// Equal tells whether both say the same, commit times included.
func (v View) Equal(o View) bool {
	return v.Version == o.Version && v.Round == o.Round && v.Fingerprint == o.Fingerprint &&
		v.CommittedAt.Equal(o.CommittedAt) &&
		slices.Equal(v.Members, o.Members) && slices.Equal(v.Overrides, o.Overrides)
}

// index finds a name among the members, of which there are few enough that
// callers on the hot way use [Placement] instead.
func (v View) index(name string) (int, bool) {
	return slices.BinarySearchFunc(v.Members, name, func(m Member, name string) int {
		return strings.Compare(m.Name, name)
	})
}
