package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/gateway"
)

// storeTime bounds how long the store may take to show that it is there.
const storeTime = 2 * time.Second

// deadLettersCounted is how many dead letters are counted at most.
const deadLettersCounted = 1000

// Health implements gateway.Cluster.
func (o *operators) Health(ctx context.Context) (gateway.ClusterHealth, error) {
	nodes, err := o.Nodes(ctx)
	if err != nil {
		return gateway.ClusterHealth{}, err
	}
	v := o.n.cluster.View()
	out := gateway.ClusterHealth{View: v.Version}
	add := func(reason string, state gateway.HealthState, node string, count int64, format string, args ...any) {
		out.Problems = append(out.Problems, gateway.HealthProblem{Reason: reason, State: state, Node: node, Count: count,
			Message: fmt.Sprintf(format, args...)})
	}
	o.storeHealth(ctx, add)
	for i := range nodes {
		n := &nodes[i]
		if n.State != gateway.NodeJoining && n.State != gateway.NodeLive && n.State != gateway.NodeDraining {
			continue
		}
		out.Active++
		switch {
		case n.GossipState != gateway.GossipAlive && n.GossipState != gateway.GossipUnknown || unanswered(n):
			add(gateway.HealthUnreachable, gateway.HealthUnavailable, n.Name, int64(n.Partitions), "Node %s does not answer; it owns %d partitions.", n.Name, n.Partitions)
		case len(n.Problems) > 0:
			add(gateway.HealthSick, gateway.HealthDegraded, n.Name, 0, "Node %s: %s.", n.Name, strings.Join(n.Problems, "; "))
		case n.LeaseAge > o.n.cfg.Cluster.Lease:
			add(gateway.HealthLeaseMissing, gateway.HealthDegraded, n.Name, 0, "Node %s has not renewed its lease for %v.", n.Name, n.LeaseAge)
		}
		if n.PendingHandover > 0 {
			add(gateway.HealthHandovers, gateway.HealthDegraded, n.Name, n.PendingHandover, "Node %s is handing %d grains over.", n.Name, n.PendingHandover)
		}
	}
	if out.Active == 0 {
		add(gateway.HealthUnreachable, gateway.HealthUnavailable, "", 0, "No node owns anything.")
	}
	if v.Moving() {
		add(gateway.HealthMoving, gateway.HealthDegraded, "", 0, "Partitions change hands, round %d.", v.Round)
	}
	return out, nil
}

func unanswered(n *gateway.ClusterNode) bool {
	return len(n.Problems) == 1 && n.Problems[0] == notAnswering
}

// notAnswering is the problem of a node that could not be asked.
const notAnswering = "it does not answer"

func (o *operators) storeHealth(ctx context.Context, add func(string, gateway.HealthState, string, int64, string, ...any)) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	letters, err := o.n.store.DeadLetters(ctx, journal.DeadLetterRow{}, deadLettersCounted)
	switch {
	case err != nil && !errors.Is(err, context.Canceled):
		add(gateway.HealthStoreUnavailable, gateway.HealthUnavailable, "", 0, "The store does not answer: nothing can be written.")
	case len(letters) > 0:
		add(gateway.HealthDeadLetters, gateway.HealthDegraded, "", int64(len(letters)), "%d documents were given up; look at granary cluster dead-letters.", len(letters))
	}
}
