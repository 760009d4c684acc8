package protocol

import (
	"slices"
	"strings"
)

// Tables computes partition tables and keeps the last few, since successive views
// mostly share theirs. It is for one goroutine.
type Tables struct {
	cfg  TableConfig
	keep int
	memo []tableMemo // oldest first
	ring *ring       // of the last large table, nil if there is none
}

type tableMemo struct {
	key   string
	table *Table
}

// largeRing is from how many members on a ring is kept and changed: building one
// takes a sort per member, a change one sort. Below it both take the same time,
// and the memory is better spent.
const largeRing = 32

// NewTables keeps up to keep tables (at least 2, one for each end of a move).
func NewTables(cfg TableConfig, keep int) *Tables {
	return &Tables{cfg: cfg, keep: max(2, keep)}
}

// Of gives the table of members, which must ascend. Errors are those of [NewTable].
func (t *Tables) Of(members []string) (*Table, error) {
	key := strings.Join(members, "\n")
	for i := range t.memo {
		if t.memo[i].key == key {
			return t.memo[i].table, nil
		}
	}
	table, err := t.compute(members)
	if err != nil {
		return nil, err
	}
	if len(t.memo) == t.keep {
		t.memo = slices.Delete(t.memo, 0, 1)
	}
	t.memo = append(t.memo, tableMemo{key: key, table: table})
	return table, nil
}

func (t *Tables) compute(members []string) (*Table, error) {
	if len(members) < largeRing {
		t.ring = nil
		return NewTable(t.cfg, members)
	}
	if err := t.cfg.Validate(); err != nil {
		return nil, err
	}
	if err := validateMembers(t.cfg, members); err != nil {
		return nil, err
	}
	r := t.ring
	t.ring = nil // an error leaves it half changed
	if r == nil || r.distance(members) > len(members)/4 || r.follow(members) != nil {
		var err error
		if r, err = newRing(t.cfg, members); err != nil {
			return nil, err
		}
	}
	table, err := r.table(t.cfg.Partitions)
	if err == nil {
		t.ring = r
	}
	return table, err
}

// Placement says which member owns each identity under one view. It never
// changes and may be read by any number of goroutines.
type Placement struct {
	version   int64
	nodes     []NodeID // of the view, in its order
	owners    []int32  // partition → index into nodes
	overrides map[string]NodeID
}

// NewPlacement is a pure function of the view and the tables' configuration: a
// band of partitions that has moved belongs to its owner among the live and
// joining members, the others to theirs among the live and draining ones. A view
// without active members places nothing. Errors are those of [NewTable].
func NewPlacement(v View, tables *Tables) (*Placement, error) {
	p := &Placement{version: v.Version}
	base, target := v.owners(Draining), v.owners(Joining)
	if len(base) == 0 {
		base = target
	}
	if len(target) == 0 {
		target = base
	}
	if len(base) == 0 {
		return p, nil
	}
	before, err := tables.Of(base)
	if err != nil {
		return nil, err
	}
	after, err := tables.Of(target)
	if err != nil {
		return nil, err
	}
	p.nodes = make([]NodeID, len(v.Members))
	for i := range v.Members {
		p.nodes[i] = v.Members[i].NodeID
	}
	p.own(v, before, after)
	p.override(v)
	return p, nil
}

// own fills in the owners; the tables hold names of v only.
func (p *Placement) own(v View, before, after *Table) {
	indices := func(t *Table) []int32 {
		at := make([]int32, len(t.members))
		for i, name := range t.members {
			in, _ := v.index(name)
			at[i] = int32(in)
		}
		return at
	}
	base, target := indices(before), indices(after)
	p.owners = make([]int32, before.Partitions())
	for i := range p.owners {
		if moved(i, len(p.owners), v.Round) {
			p.owners[i] = target[after.owners[i]]
		} else {
			p.owners[i] = base[before.owners[i]]
		}
	}
}

func (p *Placement) override(v View) {
	for _, o := range v.Overrides {
		if m, ok := v.Named(o.Node); ok && m.State == Live {
			if p.overrides == nil {
				p.overrides = make(map[string]NodeID, len(v.Overrides))
			}
			p.overrides[o.Tenant] = m.NodeID
		}
	}
}

// Version is that of the view.
func (p *Placement) Version() int64 { return p.version }

// Owner gives the node that owns an identity; false if the view has no member.
// It does not allocate for identities of up to 160 bytes.
func (p *Placement) Owner(id Identity) (NodeID, bool) {
	return p.At(id.Hash(), id.Tenant)
}

// At is [Placement.Owner] for a caller that has the identity's hash.
func (p *Placement) At(hash uint64, tenant string) (NodeID, bool) {
	if p.overrides != nil {
		if n, ok := p.overrides[tenant]; ok {
			return n, true
		}
	}
	return p.Home(hash)
}

// Partitions gives the owner of each partition, overrides aside; the slice is a copy.
func (p *Placement) Partitions() []NodeID {
	out := make([]NodeID, len(p.owners))
	for i := range out {
		out[i] = p.at(i)
	}
	return out
}

// at gives the owner of a partition, overrides aside.
func (p *Placement) at(partition int) NodeID { return p.nodes[p.owners[partition]] }

// moved tells whether partition i of n is in one of the first bands.
func moved(i, n, round int) bool { return i*Rounds < round*n }

// owners gives the names of the live members and of those in another state too,
// ascending.
func (v View) owners(other MemberState) []string {
	names := make([]string, 0, len(v.Members))
	for i := range v.Members {
		if s := v.Members[i].State; s == Live || s == other {
			names = append(names, v.Members[i].Name)
		}
	}
	return names
}

// Home gives the node that owns a hash by the table alone.
func (p *Placement) Home(hash uint64) (NodeID, bool) {
	if len(p.owners) == 0 {
		return NodeID{}, false
	}
	return p.at(p.Partition(hash)), true
}

// Overridden tells whether a tenant is placed by an override of the view.
func (p *Placement) Overridden(tenant string) bool {
	_, ok := p.overrides[tenant]
	return ok
}

// Partition gives the partition of a hash; 0 if the view has no member.
func (p *Placement) Partition(hash uint64) int {
	if len(p.owners) == 0 {
		return 0
	}
	return int(hash % uint64(len(p.owners)))
}
