package protocol

import (
	"slices"
	"strings"
)

// Tables computes partition tables and keeps the last few: a table of a hundred
// members takes 16 ms, and successive views mostly share theirs. It is for one
// goroutine.
type Tables struct {
	cfg  TableConfig
	keep int
	memo []tableMemo // oldest first
}

type tableMemo struct {
	key   string
	table *Table
}

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
	table, err := NewTable(t.cfg, members)
	if err != nil {
		return nil, err
	}
	if len(t.memo) == t.keep {
		t.memo = slices.Delete(t.memo, 0, 1)
	}
	t.memo = append(t.memo, tableMemo{key: key, table: table})
	return table, nil
}

// Placement says which member owns each identity under one view. It never
// changes and may be read by any number of goroutines.
type Placement struct {
	version   int64
	nodes     []NodeID // owners by partition
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
	p.nodes = make([]NodeID, before.Partitions())
	for i := range p.nodes {
		name := before.Owner(i)
		if moved(i, len(p.nodes), v.Round) {
			name = after.Owner(i)
		}
		m, _ := v.Named(name) // the tables hold names of v only
		p.nodes[i] = m.NodeID
	}
	p.override(v)
	return p, nil
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
	if len(p.nodes) == 0 {
		return NodeID{}, false
	}
	if p.overrides != nil {
		if n, ok := p.overrides[id.Tenant]; ok {
			return n, true
		}
	}
	return p.nodes[id.Hash()%uint64(len(p.nodes))], true
}

// Partitions gives the owner of each partition, overrides aside; the slice is a copy.
func (p *Placement) Partitions() []NodeID { return slices.Clone(p.nodes) }

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
