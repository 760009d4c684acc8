package protocol

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Defaults of [TableConfig], settled by measurement ("bench placement" prints
// it). The partition count is fixed when a cluster is created, so it has to do for
// a thousand nodes: with 65 partitions each a join still moves what it should,
// while with 16 it moves a quarter more. A thousand points per member keep a
// newcomer's share within 10 % of the mean; with 40 one in four is further off.
const (
	DefaultPartitions  = 65521 // the largest prime that fits 16 bits
	DefaultReplication = 1000
	// The library rounds the mean down and the bound up, so that 1.25 would allow
	// 1.2537 times the mean at 977 members. 1.23 keeps below 1.25 for every number
	// of members up to 1,000.
	DefaultLoad = 1.23
)

// MaxNodeName is the longest name of a node, in bytes.
const MaxNodeName = 128

// maxPartitions keeps owners in 16 bits and a table under 128 KB.
const maxPartitions = math.MaxUint16

var (
	// ErrTableConfig is wrapped when a [TableConfig] cannot give a table.
	ErrTableConfig = errors.New("partition table configuration is not valid")
	// ErrMembers is wrapped when the members cannot share the partitions.
	ErrMembers = errors.New("members of the partition table are not valid")
)

// TableConfig fixes the function from members to owners. All nodes of a cluster
// use the same one; [Fingerprint] tells whether they do.
type TableConfig struct {
	Partitions  int     // how many partitions there are, 1 to 65535
	Replication int     // points on the ring per member, 1 to 1000
	Load        float64 // most a member may own, as a multiple of the mean, 1.1 to 4
}

// DefaultTableConfig gives 65521 partitions, 1000 points per member and load 1.23.
func DefaultTableConfig() TableConfig {
	return TableConfig{Partitions: DefaultPartitions, Replication: DefaultReplication, Load: DefaultLoad}
}

// Validate refuses what the ring cannot build: it panics without room (load 1.0
// does so for any number of members from 2 to 60).
func (c TableConfig) Validate() error {
	switch {
	case c.Partitions < 1 || c.Partitions > maxPartitions:
		return fmt.Errorf("%w: partitions must be 1 to %d, not %d", ErrTableConfig, maxPartitions, c.Partitions)
	case c.Replication < 1 || c.Replication > 1000:
		return fmt.Errorf("%w: replication must be 1 to 1000, not %d", ErrTableConfig, c.Replication)
	case math.IsNaN(c.Load) || c.Load < 1.1 || c.Load > 4:
		return fmt.Errorf("%w: load must be 1.1 to 4, not %g", ErrTableConfig, c.Load)
	}
	return nil
}

// Table says which member owns each partition. It never changes once built and
// may be read by any number of goroutines.
type Table struct {
	members []string // sorted
	owners  []uint16 // partition → index into members
}

// NewTable computes the table of members, which may be given in any order. With
// the defaults it took 20 ms for ten members on one 2-core machine, 0.5 s for a
// hundred and a minute for a thousand: the library sorts its ring anew after each
// member. [Tables] changes a ring instead. The error wraps [ErrTableConfig] or
// [ErrMembers].
func NewTable(cfg TableConfig, members []string) (*Table, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	sorted := slices.Clone(members)
	slices.Sort(sorted)
	if err := validateMembers(cfg, sorted); err != nil {
		return nil, err
	}
	if len(sorted) == 1 { // owns everything; most tests and every first node start so
		return &Table{members: sorted, owners: make([]uint16, cfg.Partitions)}, nil
	}
	r, err := newRing(cfg, sorted)
	if err != nil {
		return nil, err
	}
	return r.table(cfg.Partitions)
}

// Partition gives the partition of an identity's hash.
func (t *Table) Partition(hash uint64) int { return int(hash % uint64(len(t.owners))) }

// OwnerIndex gives the index in [Table.Members] of the owner of a hash.
func (t *Table) OwnerIndex(hash uint64) int { return int(t.owners[hash%uint64(len(t.owners))]) }

// Owner gives the name of the member that owns partition p, which must be one
// that [Table.Partition] gives.
func (t *Table) Owner(p int) string { return t.members[t.owners[p]] }

// Partitions gives the number of partitions.
func (t *Table) Partitions() int { return len(t.owners) }

// Members gives the members in ascending order; the slice is a copy.
func (t *Table) Members() []string { return slices.Clone(t.members) }

// Index gives the index of a member, or -1.
func (t *Table) Index(member string) int {
	if at, ok := slices.BinarySearch(t.members, member); ok {
		return at
	}
	return -1
}

// validateMembers checks sorted names and that the partitions fit: the ring
// gives each member at most ceil(floor(P/n) × load), so n may not exceed P and
// the sum of these must exceed P.
func validateMembers(cfg TableConfig, sorted []string) error {
	n := len(sorted)
	if n == 0 {
		return fmt.Errorf("%w: there are none", ErrMembers)
	}
	if n > cfg.Partitions {
		return fmt.Errorf("%w: %d members cannot share %d partitions", ErrMembers, n, cfg.Partitions)
	}
	for i, name := range sorted {
		if !validNodeName(name) {
			return fmt.Errorf("%w: name %q must be 1 to %d of a-z, A-Z, 0-9, '.', '_' and '-'", ErrMembers, name, MaxNodeName)
		}
		if i > 0 && sorted[i-1] == name {
			return fmt.Errorf("%w: %q appears twice", ErrMembers, name)
		}
	}
	most := math.Ceil(float64(cfg.Partitions/n) * cfg.Load)
	if most*float64(n) <= float64(cfg.Partitions) {
		return fmt.Errorf("%w: load %g leaves no room for %d partitions on %d members", ErrMembers, cfg.Load, cfg.Partitions, n)
	}
	return nil
}

func validNodeName(s string) bool {
	if s == "" || len(s) > MaxNodeName {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
