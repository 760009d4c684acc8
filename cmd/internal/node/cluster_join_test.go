package node_test

import (
	"slices"
	"testing"

	"granary.dev/granary/cmd/internal/nodetest"
)

// load starts clients on knowledge bases of each node, two of each.
func load(c *nodetest.Cluster, retry bool) *nodetest.Load {
	var kbs []string
	for _, m := range c.Nodes {
		kbs = append(kbs, c.KBs(m, "dev", "load-"+m.Name, 2)...)
	}
	return c.Load(kbs, retry, slices.Clone(c.Nodes)...)
}

func TestNodesJoinAndLeaveWhileClientsWork_A3_H3(t *testing.T) {
	c := nodetest.StartCluster(t, pg.Database(t), 3)
	l := load(c, false)
	c.Add()
	c.Settle(c.Nodes...)
	l.End()
}
