package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	// grainPrefix is how a knowledge base is written among grains: kb/NAME.
	grainPrefix = "kb/"
	// devTenant is the tenant of a development server.
	devTenant = "dev"
	// activationLimit is how many activations are shown unless more are asked for.
	activationLimit = 1000
)

// grainKB is the resource name of a knowledge base given as kb/NAME, by name or by id.
func grainKB(arg string) string { return kbName(strings.TrimPrefix(arg, grainPrefix)) }

// grainDoc is the resource name of a document given as kb/NAME/DOC or by name.
func grainDoc(arg string) (string, error) {
	if strings.HasPrefix(arg, kbPrefix) {
		return arg, nil
	}
	rest, ok := strings.CutPrefix(arg, grainPrefix)
	kb, doc, found := strings.Cut(rest, "/")
	if !ok || !found || kb == "" || doc == "" {
		return "", usagef("%s: want kb/NAME/DOC", arg)
	}
	return docName(kb, doc), nil
}

// shortGrain is a document as grainDoc reads it.
func shortGrain(doc string) string {
	return grainPrefix + strings.Replace(strings.TrimPrefix(doc, kbPrefix), docInfix, "/", 1)
}

// tenantFlag adds --tenant. Whoever operates a development server may leave it out.
func tenantFlag(cmd *cobra.Command) func(*session) (string, error) {
	tenant := cmd.Flags().String("tenant", "", "the tenant (default dev with the token of a data directory)")
	return func(s *session) (string, error) {
		switch {
		case *tenant != "":
			return *tenant, nil
		case s.devToken:
			return devTenant, nil
		}
		return "", usagef("--tenant is missing: an operator belongs to none")
	}
}

func (a *app) clusterPlacement() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "placement [kb/NAME]",
		Short: "Show where a knowledge base, or a tenant, belongs and where it is",
		Long: "Shows which node the view gives a knowledge base to, and which one the store takes its writes from.\n" +
			"Without kb/NAME it is about the tenant itself. Names nobody uses have a place too.",
		Example: `  granary cluster placement kb/handbook --tenant acme
  granary cluster placement --tenant acme --json | jq -r .placement.node`,
		Args: cobra.MaximumNArgs(1),
	}
	tenant := tenantFlag(cmd)
	cmd.RunE = a.operate(func(ctx context.Context, s *session, out *output, args []string) error {
		req := &granaryv1.GetPlacementRequest{}
		var err error
		if req.Tenant, err = tenant(s); err != nil {
			return err
		}
		if len(args) > 0 {
			req.KnowledgeBase = grainKB(args[0])
		}
		res, err := call(ctx, s, s.cluster.GetPlacement, req)
		if err != nil {
			return err
		}
		if out.json {
			return out.message(res)
		}
		return out.placement(res.GetPlacement())
	})
	return cmd
}

func (o *output) placement(p *granaryv1.Placement) error {
	by := "partition table"
	if p.GetOverridden() {
		by = "relocation of the tenant; the partition table has " + shortNode(p.GetTableNode())
	}
	active := "unknown, the node does not answer"
	if p.Active != nil {
		active = map[bool]string{true: "yes", false: "no"}[p.GetActive()]
	}
	holder := "nobody"
	if p.GetHolder() != "" {
		holder = fmt.Sprintf("%s (epoch %d)", p.GetHolder(), p.GetEpoch())
	}
	since := fmt.Sprintf("view %d", p.GetSinceVersion())
	if p.GetSinceTime() != nil {
		since += ", " + stamp(p.GetSinceTime())
	}
	return o.pairs(map[string]style{"node": cyan}, [][2]string{
		{"tenant", shortTenant(p.GetTenant())},
		{"knowledge base", shortKB(p.GetKnowledgeBase())},
		{"node", shortNode(p.GetNode())},
		{"placed by", by},
		{"partition", fmt.Sprintf("%d of %d", p.GetPartition(), p.GetPartitionCount())},
		{"there since", since},
		{"active there", active},
		{"may write", holder},
		{"view", fmt.Sprint(p.GetViewVersion())},
	})
}

func (a *app) clusterActivations() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "activations",
		Short: "List the knowledge bases and tenants that are in memory",
		Long: "Lists active grains by node. QUEUED calls wait in front of one, PENDING ones it works on. Nodes change\n" +
			"while they are read: an entry may be missing or outdated.",
		Example: `  granary cluster activations --node n2
  granary cluster activations --tenant acme --limit 0 --json | jq '.activations | length'`,
		Args: cobra.NoArgs,
	}
	node := cmd.Flags().String("node", "", "only on this node")
	tenant := cmd.Flags().String("tenant", "", "only of this tenant")
	limit := cmd.Flags().Int("limit", activationLimit, "show at most this many; 0 shows all")
	cmd.RunE = a.operate(func(ctx context.Context, s *session, out *output, _ []string) error {
		if *limit < 0 {
			return usagef("--limit must not be negative")
		}
		all, err := s.activations(ctx, &granaryv1.ListActivationsRequest{Node: *node, Tenant: *tenant}, *limit)
		if err != nil {
			return err
		}
		if out.json {
			err = out.message(all)
		} else if err = out.activations(all.GetActivations()); err == nil && len(all.GetActivations()) == 0 {
			out.notef("nothing is active")
		}
		if all.GetNextPageToken() != "" {
			out.notef("there are more than %d: --limit 0 shows all", *limit)
		}
		for _, n := range all.GetUnreachableNodes() {
			out.notef("%s does not answer: what is active there is missing", shortNode(n))
		}
		return err
	})
	return cmd
}

// activations reads pages until there are limit entries; 0 reads all.
func (s *session) activations(ctx context.Context, req *granaryv1.ListActivationsRequest, limit int) (*granaryv1.ListActivationsResponse, error) {
	all := &granaryv1.ListActivationsResponse{}
	silent := map[string]bool{}
	for {
		req.PageSize = listPage
		if limit > 0 {
			req.PageSize = int32(min(listPage, limit-len(all.GetActivations())))
		}
		page, err := call(ctx, s, s.cluster.ListActivations, req)
		if err != nil {
			return nil, err
		}
		all.Activations = append(all.Activations, page.GetActivations()...)
		for _, n := range page.GetUnreachableNodes() {
			if !silent[n] {
				silent[n] = true
				all.UnreachableNodes = append(all.UnreachableNodes, n)
			}
		}
		req.PageToken = page.GetNextPageToken()
		if req.PageToken == "" || limit > 0 && len(all.GetActivations()) >= limit {
			all.NextPageToken = req.PageToken
			return all, nil
		}
	}
}

func (o *output) activations(list []*granaryv1.Activation) error {
	if len(list) == 0 {
		return nil
	}
	var rows [][]cell
	for _, g := range list {
		id, state := g.GetKind()+"/"+g.GetId(), cell{"active", green}
		if g.GetStopping() {
			state = cell{"stopping", yellow}
		}
		rows = append(rows, append(cells(shortNode(g.GetNode()), shortTenant(g.GetTenant()), id, stamp(g.GetStartTime()),
			dash(shortDuration(g.GetIdle())), fmt.Sprint(g.GetQueued()), fmt.Sprint(g.GetPending()), fmt.Sprint(g.GetServed())), state))
	}
	return o.table([]string{"NODE", "TENANT", "GRAIN", "SINCE", "IDLE", "QUEUED", "PENDING", "SERVED", "STATE"}, rows)
}
