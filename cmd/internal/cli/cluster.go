package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	nodePrefix   = "nodes/"
	tenantPrefix = "tenants/"
)

func shortNode(name string) string { return strings.TrimPrefix(name, nodePrefix) }

func shortTenant(name string) string { return strings.TrimPrefix(name, tenantPrefix) }

func (a *app) clusterCommand() *cobra.Command {
	cmd := a.clientWith(a.group(&cobra.Command{
		Use:   "cluster",
		Short: "See and steer a cluster, as its operator",
		Long: "Shows who takes part in a cluster, where everything lives and what is wrong, and moves things. Any\n" +
			"node answers for all. It takes an operator's token: granary token issue --operator.",
		Example: `  granary cluster nodes
  granary cluster placement kb/handbook --tenant acme
  granary cluster drain n2 --wait
  granary cluster health || echo "look at it"`,
	}), operatorCredential())
	cmd.AddCommand(a.clusterNodes(), a.clusterView(), a.clusterPlacement(), a.clusterActivations(), a.clusterHealth(),
		a.clusterDrain(), a.clusterRelocate(), a.clusterRebalance(), a.clusterDeadLetters(), a.clusterRetry(),
		a.clusterKeys())
	return cmd
}

// operate wraps a command of the operator.
func (a *app) operate(body clientRun) func(*cobra.Command, []string) error {
	return a.runWith(operatorCredential(), body)
}

func (a *app) clusterNodes() *cobra.Command {
	return &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes: where they stand, how busy they are, what is wrong",
		Long: "Lists the nodes of the view and those only gossip knows (ABSENT). LEASE is the time since the lease\n" +
			"was last renewed. LOAD is 0 when idle, 1 when fully used, above it when work queues up. --json has more:\n" +
			"versions, all addresses, when each process started.",
		Example: `  granary cluster nodes
  granary cluster nodes --json | jq -r '.nodes[] | select(.healthy | not) | .name'`,
		Args: cobra.NoArgs,
		RunE: a.operate(func(ctx context.Context, s *session, out *output, _ []string) error {
			all, err := s.nodes(ctx)
			if err != nil {
				return err
			}
			if out.json {
				return out.message(all)
			}
			return out.nodes(all.GetNodes())
		}),
	}
}

// nodes reads all nodes.
func (s *session) nodes(ctx context.Context) (*granaryv1.ListNodesResponse, error) {
	all := &granaryv1.ListNodesResponse{}
	req := &granaryv1.ListNodesRequest{PageSize: listPage}
	for {
		page, err := call(ctx, s, s.cluster.ListNodes, req)
		if err != nil {
			return nil, err
		}
		all.Nodes = append(all.Nodes, page.GetNodes()...)
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			return all, nil
		}
	}
}

// nodes prints a table that is not cut: what is wrong with a node stands at the end.
func (o *output) nodes(nodes []*granaryv1.Node) error {
	var rows [][]cell
	for _, n := range nodes {
		name := cell{text: shortNode(n.GetName())}
		if n.GetSelf() {
			name.style = bold
		}
		health := cell{"ok", green}
		if !n.GetHealthy() {
			health = cell{firstOf(strings.Join(n.GetProblems(), "; "), "sick"), red}
		}
		row := []cell{name, {nodeStateText(n.GetState()), nodeStateStyle(n.GetState())}}
		row = append(row, cells(gossipText(n.GetGossip()), dash(n.GetZone()), dash(strings.Join(n.GetRoles(), ",")),
			fmt.Sprintf("%.2f", n.GetLoad()), fmt.Sprint(n.GetPartitions()), fmt.Sprint(n.GetActivations()),
			dash(shortDuration(n.GetLeaseAge())), dash(n.GetApiAddress()))...)
		rows = append(rows, append(row, health))
	}
	return o.aligned([]string{"NAME", "STATE", "GOSSIP", "ZONE", "ROLES", "LOAD", "PARTITIONS", "GRAINS", "LEASE", "API", "HEALTH"}, rows, 0)
}

func (a *app) clusterView() *cobra.Command {
	return &cobra.Command{
		Use:   "view",
		Short: "Show the view: the row in the store that decides who owns what",
		Example: `  granary cluster view
  granary cluster view --json | jq .view.overrides`,
		Args: cobra.NoArgs,
		RunE: a.operate(func(ctx context.Context, s *session, out *output, _ []string) error {
			res, err := call(ctx, s, s.cluster.GetView, &granaryv1.GetViewRequest{})
			if err != nil {
				return err
			}
			if out.json {
				return out.message(res)
			}
			return out.view(res.GetView())
		}),
	}
}

func (o *output) view(v *granaryv1.ClusterView) error {
	moving := "no"
	if v.GetRound() > 0 {
		moving = fmt.Sprintf("step %d of %d", v.GetRound(), v.GetRoundCount())
	}
	if err := o.pairs(nil, [][2]string{
		{"version", fmt.Sprint(v.GetVersion())},
		{"committed", stamp(v.GetCommitTime())},
		{"partitions move", moving},
		{"fingerprint", v.GetFingerprint()},
	}); err != nil {
		return err
	}
	var members [][]cell
	for _, m := range v.GetMembers() {
		members = append(members, append([]cell{{text: shortNode(m.GetNode())}, {nodeStateText(m.GetState()), nodeStateStyle(m.GetState())}},
			cells(dash(m.GetZone()), dash(m.GetAddress()), m.GetId())...))
	}
	if err := o.section([]string{"NODE", "STATE", "ZONE", "ADDRESS", "ID"}, members); err != nil {
		return err
	}
	var overrides [][]cell
	for _, r := range v.GetOverrides() {
		by := "operator"
		if r.GetAutomatic() {
			by = "load"
		}
		overrides = append(overrides, cells(shortTenant(r.GetTenant()), shortNode(r.GetNode()), by))
	}
	return o.section([]string{"RELOCATED TENANT", "NODE", "BY"}, overrides)
}

// section prints a table below an empty line, uncut, and nothing when there are no rows.
func (o *output) section(header []string, rows [][]cell) error {
	if len(rows) == 0 {
		return nil
	}
	if err := o.printf("\n"); err != nil {
		return err
	}
	return o.aligned(header, rows, 0)
}

func (a *app) clusterHealth() *cobra.Command {
	return &cobra.Command{
		Use:   "health",
		Short: "Tell whether something is wrong; fail if so",
		Long: "Prints OK, DEGRADED (all is served, with less than there should be) or UNAVAILABLE (something is not\n" +
			"served), and why. The exit code is 0 only for OK.",
		Example: `  granary cluster health
  granary cluster health --json | jq -r '.health.problems[].reason'`,
		Args: cobra.NoArgs,
		RunE: a.operate(func(ctx context.Context, s *session, out *output, _ []string) error {
			res, err := call(ctx, s, s.cluster.GetClusterHealth, &granaryv1.GetClusterHealthRequest{})
			if err != nil {
				return err
			}
			if out.json {
				err = out.message(res)
			} else {
				err = out.health(res.GetHealth())
			}
			if state := res.GetHealth().GetState(); err == nil && state != granaryv1.HealthState_HEALTH_STATE_OK {
				return &failure{message: "the cluster is " + healthText(state)}
			}
			return err
		}),
	}
}

func (o *output) health(h *granaryv1.ClusterHealth) error {
	if err := o.printf("%s  %d active nodes, view %d\n", o.paint(healthStyle(h.GetState()), healthText(h.GetState())),
		h.GetActiveMembers(), h.GetViewVersion()); err != nil {
		return err
	}
	var rows [][]cell
	for _, p := range h.GetProblems() {
		count := "-"
		if p.GetCount() > 0 {
			count = fmt.Sprint(p.GetCount())
		}
		rows = append(rows, append([]cell{{healthText(p.GetState()), healthStyle(p.GetState())}},
			cells(p.GetReason(), dash(shortNode(p.GetNode())), count, p.GetMessage())...))
	}
	return o.section([]string{"STATE", "REASON", "NODE", "COUNT", "MESSAGE"}, rows)
}

func nodeStateText(s granaryv1.NodeState) string { return shortEnum(s.Descriptor(), s.Number()) }

func nodeStateStyle(s granaryv1.NodeState) style {
	switch s {
	case granaryv1.NodeState_NODE_STATE_LIVE:
		return green
	case granaryv1.NodeState_NODE_STATE_DEAD:
		return red
	case granaryv1.NodeState_NODE_STATE_LEFT, granaryv1.NodeState_NODE_STATE_ABSENT:
		return dim
	default:
		return yellow
	}
}

func gossipText(s granaryv1.GossipState) string {
	if s == granaryv1.GossipState_GOSSIP_STATE_UNSPECIFIED {
		return "-"
	}
	return shortEnum(s.Descriptor(), s.Number())
}

func healthText(s granaryv1.HealthState) string { return shortEnum(s.Descriptor(), s.Number()) }

func healthStyle(s granaryv1.HealthState) style {
	switch s {
	case granaryv1.HealthState_HEALTH_STATE_OK:
		return green
	case granaryv1.HealthState_HEALTH_STATE_DEGRADED:
		return yellow
	default:
		return red
	}
}

// dash stands where a table has nothing to say, so that columns can be counted.
func dash(text string) string { return firstOf(text, "-") }

// shortDuration prints a duration as people read it, "" when it is unknown.
func shortDuration(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	t := d.AsDuration()
	switch {
	case t < time.Minute:
		return t.Round(100 * time.Millisecond).String()
	default:
		return t.Round(time.Second).String()
	}
}
