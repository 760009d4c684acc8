package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const keyPrefix = "apiKeys/"

func shortKey(name string) string { return strings.TrimPrefix(name, keyPrefix) }

// placeFlags say where a role holds.
type placeFlags struct{ workspaces, kbs []string }

func addPlaces(cmd *cobra.Command) *placeFlags {
	p := &placeFlags{}
	cmd.Flags().StringSliceVar(&p.workspaces, "workspace", nil, "only in this workspace; may be repeated")
	cmd.Flags().StringSliceVar(&p.kbs, "kb", nil, "only in this knowledge base; may be repeated")
	return p
}

// grants gives a role in each of the places, or in the whole tenant when none is named.
func (p *placeFlags) grants(role string) []*granaryv1.AccessGrant {
	var all []*granaryv1.AccessGrant
	for _, w := range p.workspaces {
		all = append(all, &granaryv1.AccessGrant{Role: role, Workspace: shortWorkspace(w)})
	}
	for _, k := range p.kbs {
		all = append(all, &granaryv1.AccessGrant{Role: role, KnowledgeBase: shortKB(k)})
	}
	if len(all) == 0 {
		all = append(all, &granaryv1.AccessGrant{Role: role})
	}
	return all
}

// one is the single place of a role binding.
func (p *placeFlags) one(role string) (*granaryv1.AccessGrant, error) {
	all := p.grants(role)
	if len(all) > 1 {
		return nil, usagef("one place at a time: --workspace, --kb, or neither for the whole tenant")
	}
	return all[0], nil
}

// placeText says where a grant holds.
func placeText(g *granaryv1.AccessGrant) string {
	switch {
	case g.GetWorkspace() != "" && g.GetKnowledgeBase() != "":
		return "knowledge base " + g.GetKnowledgeBase() + " in workspace " + g.GetWorkspace()
	case g.GetWorkspace() != "":
		return "workspace " + g.GetWorkspace()
	case g.GetKnowledgeBase() != "":
		return "knowledge base " + g.GetKnowledgeBase()
	}
	return "the whole tenant"
}

func grantTexts(grants []*granaryv1.AccessGrant) string {
	texts := make([]string, len(grants))
	for i, g := range grants {
		texts[i] = g.GetRole() + " of " + placeText(g)
	}
	return strings.Join(texts, ", ")
}

func (a *app) whoamiCommand() *cobra.Command {
	return a.client(&cobra.Command{
		Use:     "whoami",
		Short:   "Show who you are to the server and what you may do",
		Example: "  granary whoami\n  granary whoami --json | jq .grants",
		Args:    cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, s *session, out *output, _ []string) error {
			res, err := call(ctx, s, s.access.WhoAmI, &granaryv1.WhoAmIRequest{})
			switch {
			case err != nil:
				return err
			case out.json:
				return out.message(res)
			}
			return out.pairs(nil, [][2]string{
				{"tenant", shortTenant(res.GetTenant())},
				{"subject", res.GetSubject()},
				{"API key", shortKey(res.GetApiKey())},
				{"may", firstOf(grantTexts(res.GetGrants()), "nothing")},
				{"until", stamp(res.GetExpireTime())},
			})
		}),
	})
}

func (a *app) keyCommand() *cobra.Command {
	cmd := a.client(a.group(&cobra.Command{
		Use:   "key",
		Short: "Make, list and revoke API keys of your tenant",
		Long: "API keys are credentials for programs. The server keeps no key, only a code to recognise it by: what is\n" +
			"shown when it is made is not shown again.",
		Example: `  granary key create ci --role editor --kb handbook --expires 90d
  granary key revoke jb2xg4tfmzuwk3lp`,
	}))
	cmd.AddCommand(a.keyCreate(), a.keyGet(), a.keyList(), a.keyRevoke())
	return cmd
}

func (a *app) keyCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create [DISPLAY-NAME]",
		Short: "Make an API key and print it, once",
		Long: "Makes a key that may do no more than you. The key alone goes to standard output, so that it can be piped\n" +
			"to where it is kept; what it may do goes to standard error.",
		Example: `  granary key create ci --role editor --kb handbook --kb papers --expires 90d >ci.key
  GRANARY_TOKEN=$(granary key create reader --role viewer) granary whoami`,
		Args: cobra.MaximumNArgs(1),
	}
	role := cmd.Flags().String("role", "viewer", "viewer, editor or admin")
	places := addPlaces(cmd)
	expires := cmd.Flags().String("expires", "", "when it ends by itself: in 90d or 12h, or at 2027-03-01T00:00:00Z (default never)")
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, args []string) error {
		req := &granaryv1.CreateApiKeyRequest{DisplayName: strings.Join(args, ""), Grants: places.grants(*role), RequestId: requestID()}
		var err error
		if req.ExpireTime, err = endOf(*expires, time.Now()); err != nil {
			return usagef("--expires: %s", err)
		}
		res, err := call(ctx, s, s.access.CreateApiKey, req)
		switch {
		case err != nil:
			return err
		case out.json:
			return out.message(res)
		}
		k := res.GetApiKey()
		out.notef("API key %s: %s%s; it is not shown again", shortKey(k.GetName()), grantTexts(k.GetGrants()), untilText(k.GetExpireTime()))
		return out.printf("%s\n", res.GetSecret())
	})
	return cmd
}

// endOf reads an end: a time, a date, or a time span from now; "" is none.
func endOf(text string, now time.Time) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return timestamppb.New(at), nil
		}
	}
	age, err := parseAge(text)
	if err != nil {
		return nil, err
	}
	return timestamppb.New(now.Add(age).Truncate(time.Second)), nil
}

func untilText(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return ", until " + stamp(t)
}

func (a *app) keyGet() *cobra.Command {
	return &cobra.Command{
		Use:     "get ID",
		Short:   "Show what an API key may do and when it was last used",
		Example: "  granary key get jb2xg4tfmzuwk3lp",
		Args:    exactArgs("ID"),
		RunE: a.run(func(ctx context.Context, s *session, out *output, args []string) error {
			res, err := call(ctx, s, s.access.GetApiKey, &granaryv1.GetApiKeyRequest{Name: args[0]})
			switch {
			case err != nil:
				return err
			case out.json:
				return out.message(res)
			}
			k := res.GetApiKey()
			return out.pairs(nil, [][2]string{
				{"id", shortKey(k.GetName())},
				{"display name", k.GetDisplayName()},
				{"may", grantTexts(k.GetGrants())},
				{"created", stamp(k.GetCreateTime()) + " by " + k.GetCreatedBy()},
				{"expires", firstOf(stamp(k.GetExpireTime()), "never")},
				{"last used", firstOf(stamp(k.GetLastUsedTime()), "never")},
			})
		}),
	}
}

func (a *app) keyList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the API keys of your tenant",
		Example: "  granary key list",
		Args:    cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, s *session, out *output, _ []string) error {
			all := &granaryv1.ListApiKeysResponse{}
			req := &granaryv1.ListApiKeysRequest{PageSize: listPage}
			for {
				page, err := call(ctx, s, s.access.ListApiKeys, req)
				if err != nil {
					return err
				}
				all.ApiKeys = append(all.ApiKeys, page.GetApiKeys()...)
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
					break
				}
			}
			switch {
			case out.json:
				return out.message(all)
			case len(all.GetApiKeys()) == 0:
				out.notef("no API keys yet: granary key create")
				return nil
			}
			var rows [][]cell
			for _, k := range all.GetApiKeys() {
				rows = append(rows, cells(shortKey(k.GetName()), dash(stamp(k.GetExpireTime())), dash(stamp(k.GetLastUsedTime())),
					dash(k.GetDisplayName()), grantTexts(k.GetGrants())))
			}
			return out.table([]string{"ID", "EXPIRES", "LAST USED", "DISPLAY NAME", "MAY"}, rows)
		}),
	}
}

func (a *app) keyRevoke() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID",
		Short:   "End an API key for good, on all nodes within a second",
		Example: "  granary key revoke jb2xg4tfmzuwk3lp",
		Args:    exactArgs("ID"),
		RunE: a.run(func(ctx context.Context, s *session, out *output, args []string) error {
			res, err := call(ctx, s, s.access.RevokeApiKey, &granaryv1.RevokeApiKeyRequest{Name: args[0]})
			switch {
			case err != nil:
				return err
			case out.json:
				return out.message(res)
			}
			return out.printf("revoked %s\n", shortKey(args[0]))
		}),
	}
}
