package sim

import (
	"granary.dev/granary/cluster/protocol"
)

// viewCommitted: I11, and the rules a view keeps by itself.
func (c *checker) viewCommitted(old, v protocol.View) {
	w := c.w
	w.stats.Views++
	if w.tracing() {
		w.log("view %d round %d: %s", v.Version, v.Round, describe(v))
	}
	if v.Version != int64(len(c.views)) {
		w.fail("I11: view %d is committed after view %d", v.Version, len(c.views)-1)
		return
	}
	c.views = append(c.views, v)
	for i := range v.Members {
		m := &v.Members[i]
		if i > 0 && v.Members[i-1].Name >= m.Name {
			w.fail("I11: view %d holds %s out of order or twice", v.Version, m.Name)
		}
		c.member(old, v, m)
	}
	c.moves(old, v)
}

func (c *checker) member(old, v protocol.View, m *protocol.Member) {
	w := c.w
	before, was := old.Find(m.NodeID)
	if was && !before.State.Active() && m.State != before.State {
		w.fail("I11: view %d: %v was %s and is %s", v.Version, m.NodeID, before.State, m.State)
	}
	if was && before.State.Active() && m.State == protocol.Dead {
		w.stats.Evictions++
		if row, ok := w.store.lease(m.NodeID); ok && leaseEnd(row) > w.now {
			w.fail("I11: view %d gives %v up, its lease lasts until %v", v.Version, m.NodeID, leaseEnd(row))
		}
	}
	if !was && m.State.Active() {
		w.stats.Joins++
		for _, n := range w.nodes {
			if n.name == m.Name && n.bootID == m.Boot && n.fingerprint != v.Fingerprint {
				w.fail("I11: view %d lets %v in, whose tables differ", v.Version, m.NodeID)
			}
		}
	}
}

// moves: every partition has an active owner, and a round moves no more than its
// share.
func (c *checker) moves(old, v protocol.View) {
	w := c.w
	after, before := w.store.placement(v).Partitions(), w.store.placement(old).Partitions()
	changed := 0
	for i, id := range after {
		if v.Gone(id) {
			w.fail("I11: view %d gives partition %d to %v, which is gone", v.Version, i, id)
		}
		if len(before) == len(after) && before[i] != id && !v.Gone(before[i]) {
			changed++
		}
	}
	if old.Round == v.Round {
		return
	}
	w.stats.Rounds++
	most := (tableConfig.Partitions + protocol.Rounds - 1) / protocol.Rounds
	if v.Round == old.Round+1 && changed > most {
		w.fail("I11: round %d of view %d moves %d partitions, at most %d may", v.Round, v.Version, changed, most)
	}
}

// viewSeen: I11.
func (c *checker) viewSeen(n *node, v protocol.View) {
	if v.Version >= int64(len(c.views)) || !v.Equal(c.views[v.Version]) {
		c.w.fail("I11: %s acts on a view %d that was never committed so", n, v.Version)
	}
}
