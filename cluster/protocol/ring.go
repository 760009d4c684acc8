package protocol

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"
)

// ring is the library's ring of some members, from which tables are read. It is
// for one goroutine, and of no use any more once a method gave an error.
type ring struct {
	lib     *consistent.Consistent
	members []*ringMember // ascending by name
}

// newRing builds a ring; the members ascend and were validated.
func newRing(cfg TableConfig, sorted []string) (*ring, error) {
	r := &ring{members: make([]*ringMember, len(sorted))}
	all := make([]consistent.Member, len(sorted))
	for i, name := range sorted {
		r.members[i] = newRingMember(name)
		all[i] = r.members[i]
	}
	err := guarded(func() {
		r.lib = consistent.New(all, consistent.Config{
			Hasher:            points{},
			PartitionCount:    cfg.Partitions,
			ReplicationFactor: cfg.Replication,
			Load:              cfg.Load,
		})
	})
	return r, err
}

// guarded runs the library, which panics when a partition finds no room. The
// checks before make that unreachable for every size tested, yet a panic here
// would take the node down, so it becomes an error.
func guarded(f func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrMembers, r)
		}
	}()
	f()
	return nil
}

// follow lets members come and go until they are sorted, which ascend and were
// validated. The ring is then the one that [newRing] gives for them: it consists
// of the members' points, whatever their order, and partitions are dealt out
// anew from the first one. (Two equal points would break that; among a million,
// which a thousand members have, they come with a probability of 1 in 37
// million.)
func (r *ring) follow(sorted []string) error {
	return guarded(func() {
		next := make([]*ringMember, 0, len(sorted))
		for _, name := range sorted { // before any goes, so that the ring is never empty
			at, there := r.index(name)
			if there {
				next = append(next, r.members[at])
				continue
			}
			m := newRingMember(name)
			next = append(next, m)
			r.lib.Add(m)
		}
		for _, m := range r.members {
			if _, stays := slices.BinarySearch(sorted, m.name); !stays {
				r.lib.Remove(m.key)
			}
		}
		r.members = next
	})
}

// distance is how many members come and go in [ring.follow].
func (r *ring) distance(sorted []string) int {
	kept := 0
	for _, name := range sorted {
		if _, there := r.index(name); there {
			kept++
		}
	}
	return len(sorted) - kept + len(r.members) - kept
}

func (r *ring) index(name string) (int, bool) {
	return slices.BinarySearchFunc(r.members, name, func(m *ringMember, name string) int {
		return strings.Compare(m.name, name)
	})
}

// table reads the owners off.
func (r *ring) table(partitions int) (*Table, error) {
	t := &Table{members: make([]string, len(r.members)), owners: make([]uint16, partitions)}
	for i, m := range r.members {
		t.members[i] = m.name
		m.at = uint16(i) // i < members <= partitions <= 65535
	}
	for p := range t.owners {
		m, ok := r.lib.GetPartitionOwner(p).(*ringMember)
		if !ok {
			return nil, fmt.Errorf("%w: partition %d got no owner", ErrMembers, p)
		}
		t.owners[p] = m.at
	}
	return t, nil
}

// ringMember is a member on the ring.
type ringMember struct {
	name string
	key  string
	at   uint16 // index among the members of the table being read
}

// newRingMember makes the prefix of the member's ring keys. The library makes the
// keys name+"0", name+"1" …, so that "node-1" at 10 and "node-11" at 0 would be
// the same point; the '#', which no name may hold, keeps them apart.
func newRingMember(name string) *ringMember { return &ringMember{name: name, key: name + "#"} }

// String is the prefix of the member's ring keys.
func (m *ringMember) String() string { return m.key }

// stride is 2^64 divided by the golden ratio, made odd.
const stride = 0x9E3779B97F4A7C15

// points is where keys lie on the ring, pinned as part of the algorithm.
//
// A member's points are the XXH64 of its keys, seed 0. A partition lies at a
// multiple of stride: any number of them in a row are spread evenly over the
// ring, so that an arc holds as many as its length says, which random points
// would do only roughly, and each band of partitions moves an equal share.
type points struct{}

// Sum64 gives the point of a key: of a partition, which the library writes as 8
// bytes little-endian, or of a member, in which no byte is zero.
func (points) Sum64(b []byte) uint64 {
	if len(b) == 8 && b[7] == 0 {
		return binary.LittleEndian.Uint64(b) * stride
	}
	return xxhash.Sum64(b)
}
