//go:build unix

package e2e

import "testing"

// A2, A4, E5; I1–I10, I13, I14: the same, when the network falls apart in every way it can.
func TestClusterInPiecesLosesNothing_A4_E5(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	nodes, lanes := 3, 2
	if *chaosFaults > 0 {
		nodes, lanes = 4, 3
	}
	c := newCluster(t, clusterOptions{nodes: nodes, seed: seedOf(t), spaces: true})
	faults := append(c.networkFaults(), fault{name: "kill -9", weight: 3, run: faultKill}, fault{name: "SIGTERM", weight: 2, run: faultStop})
	newChaos(t, c, newNemesis(c, lanes, faults)).run(faultsOf(20, .4))
}
