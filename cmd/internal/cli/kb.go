package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// listPage is the page size of lists that are shown whole.
const listPage = 1000

func (a *app) kbCommand() *cobra.Command {
	cmd := a.client(a.group(&cobra.Command{
		Use:   "kb",
		Short: "Create, read, change and delete knowledge bases",
		Example: `  granary kb create handbook --display-name "Staff handbook"
  granary kb list --json | jq -r '.knowledgeBases[].name'`,
	}))
	cmd.AddCommand(a.kbCreate(), a.kbGet(), a.kbList(), a.kbUpdate(), a.kbDelete(), a.kbExport(), a.kbImport())
	return cmd
}

func (a *app) kbCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a knowledge base",
		Long:  "Creates a knowledge base. A setting that is not given follows the tenant's default, now and later.",
		Example: `  granary kb create handbook
  granary kb create papers --description "What we read" --target-words 150 --mode hybrid --top 20`,
		Args: exactArgs("NAME"),
	}
	displayName := cmd.Flags().String("display-name", "", "name for people")
	description := cmd.Flags().String("description", "", "what it is about")
	workspace := cmd.Flags().String("workspace", "", "workspace to put it into (default \"default\")")
	set, keep := addSettings(cmd, ""), addKeep(cmd)
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, args []string) error {
		retention, err := keep.retention()
		if err != nil {
			return err
		}
		req := &granaryv1.CreateKnowledgeBaseRequest{
			KnowledgeBaseId: strings.TrimPrefix(args[0], kbPrefix),
			DisplayName:     *displayName,
			Description:     *description,
			Workspace:       shortWorkspace(*workspace),
			Retention:       retention,
			RequestId:       requestID(),
		}
		if len(set.paths) > 0 {
			req.Config = set.config
		}
		res, err := call(ctx, s, s.kbs.CreateKnowledgeBase, req)
		if err != nil {
			return err
		}
		if out.json {
			return out.message(res)
		}
		return out.knowledgeBase(res.GetKnowledgeBase())
	})
	return cmd
}

func (a *app) kbGet() *cobra.Command {
	return &cobra.Command{
		Use:   "get NAME",
		Short: "Show a knowledge base, what is in it and the settings in force",
		Example: `  granary kb get handbook
  granary kb get handbook --json | jq .knowledgeBase.documentCounts`,
		Args: exactArgs("NAME"),
		RunE: a.run(func(ctx context.Context, s *session, out *output, args []string) error {
			res, err := call(ctx, s, s.kbs.GetKnowledgeBase, &granaryv1.GetKnowledgeBaseRequest{Name: kbName(args[0])})
			if err != nil {
				return err
			}
			if out.json {
				return out.message(res)
			}
			return out.knowledgeBase(res.GetKnowledgeBase())
		}),
	}
}

func (a *app) kbList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the knowledge bases you may view",
		Example: "  granary kb list\n  granary kb list --workspace legal",
		Args:    cobra.NoArgs,
	}
	workspace := cmd.Flags().String("workspace", "", "only those in this workspace")
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, _ []string) error {
		all := &granaryv1.ListKnowledgeBasesResponse{}
		req := &granaryv1.ListKnowledgeBasesRequest{PageSize: listPage, Workspace: shortWorkspace(*workspace)}
		for {
			page, err := call(ctx, s, s.kbs.ListKnowledgeBases, req)
			if err != nil {
				return err
			}
			all.KnowledgeBases = append(all.KnowledgeBases, page.GetKnowledgeBases()...)
			if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		if out.json {
			return out.message(all)
		}
		if len(all.GetKnowledgeBases()) == 0 {
			out.notef("no knowledge bases yet: granary kb create NAME")
			return nil
		}
		var rows [][]cell
		for _, k := range all.GetKnowledgeBases() {
			rows = append(rows, cells(shortKB(k.GetName()), dash(k.GetWorkspace()), stamp(k.GetCreateTime()), k.GetDisplayName()))
		}
		return out.table([]string{"NAME", "WORKSPACE", "CREATED", "DISPLAY NAME"}, rows)
	})
	return cmd
}

func (a *app) kbUpdate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Change a knowledge base's names and settings",
		Long: "Changes exactly what is named by a flag. --unset takes a flag's name or a setting's path back to\n" +
			"the tenant's default; config.chunking or config clears a group.",
		Example: `  granary kb update handbook --display-name "Handbook 2027" --top 20
  granary kb update handbook --unset top --unset config.chunking`,
		Args: exactArgs("NAME"),
	}
	displayName := cmd.Flags().String("display-name", "", "name for people")
	description := cmd.Flags().String("description", "", "what it is about")
	workspace := cmd.Flags().String("workspace", "", "workspace to move it to; you must be an admin of both")
	unset := cmd.Flags().StringSlice("unset", nil, "clear this `field`; may be repeated")
	set, keep := addSettings(cmd, ""), addKeep(cmd)
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, args []string) error {
		target := &granaryv1.KnowledgeBase{Name: kbName(args[0])}
		if len(set.paths) > 0 {
			target.Config = set.config
		}
		mask := &fieldmaskpb.FieldMask{}
		if cmd.Flags().Changed("display-name") {
			target.DisplayName, mask.Paths = *displayName, append(mask.Paths, "display_name")
		}
		if cmd.Flags().Changed("description") {
			target.Description, mask.Paths = *description, append(mask.Paths, "description")
		}
		if cmd.Flags().Changed("workspace") {
			target.Workspace, mask.Paths = shortWorkspace(*workspace), append(mask.Paths, "workspace")
		}
		retention, err := keep.retention()
		if err != nil {
			return err
		}
		if retention != nil {
			target.Retention, mask.Paths = retention, append(mask.Paths, "retention")
		}
		for _, p := range set.paths {
			mask.Paths = append(mask.Paths, "config."+p)
		}
		cleared, err := unsetPaths(*unset, mask.GetPaths())
		if err != nil {
			return err
		}
		if mask.Paths = append(mask.Paths, cleared...); len(mask.Paths) == 0 {
			return usagef("nothing to change: name at least one field")
		}
		res, err := call(ctx, s, s.kbs.UpdateKnowledgeBase, &granaryv1.UpdateKnowledgeBaseRequest{
			KnowledgeBase: target, UpdateMask: mask, RequestId: requestID(),
		})
		if err != nil {
			return err
		}
		if out.json {
			return out.message(res)
		}
		return out.knowledgeBase(res.GetKnowledgeBase())
	})
	return cmd
}

// unsetPaths turns what --unset names into mask paths. A field cannot be both
// set and cleared.
func unsetPaths(names, set []string) ([]string, error) {
	known := map[string]string{"display-name": "display_name", "description": "description", "keep": "retention", "config": "config"}
	for _, f := range settingFlags() {
		known[f.flag] = "config." + f.path
	}
	var paths []string
	for _, name := range names {
		path, ok := known[flagName(name)]
		if !ok {
			path = "config." + strings.TrimPrefix(name, "config.")
			if err := clearPath(&granaryv1.Config{}, strings.TrimPrefix(path, "config.")); err != nil {
				return nil, usagef("--unset: %s", err)
			}
		}
		for _, p := range set {
			if p == path || strings.HasPrefix(p, path+".") {
				return nil, usagef("--unset %s: the same command sets it", name)
			}
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func (a *app) kbDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a knowledge base with everything in it",
		Long: "Deletes a knowledge base. Searches find nothing of it from then on, and there is no way back.\n" +
			"A terminal is asked for confirmation; in a pipe --yes is needed.",
		Example: "  granary kb delete handbook --yes",
		Args:    exactArgs("NAME"),
	}
	yes := cmd.Flags().BoolP("yes", "y", false, "do not ask")
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, args []string) error {
		if !*yes {
			if err := a.confirm(ctx, fmt.Sprintf("Delete knowledge base %q with all its documents?", shortKB(args[0]))); err != nil {
				return err
			}
		}
		res, err := call(ctx, s, s.kbs.DeleteKnowledgeBase, &granaryv1.DeleteKnowledgeBaseRequest{
			Name: kbName(args[0]), RequestId: requestID(),
		})
		if err != nil {
			return err
		}
		if out.json {
			return out.message(res)
		}
		return out.printf("deleted %s\n", shortKB(args[0]))
	})
	return cmd
}

// confirm asks on the terminal; anything but yes is an error.
func (a *app) confirm(ctx context.Context, question string) error {
	if !a.env.IsTerminal(a.env.Stdin) {
		return usagef("nobody to ask for confirmation: say --yes")
	}
	_, _ = fmt.Fprintf(a.env.Stderr, "%s [y/N] ", question)
	answer, err := interruptible(ctx, func() (string, error) {
		line, err := bufio.NewReader(a.env.Stdin).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil // nothing more to read is an answer too
		}
		return line, err
	})
	if err != nil {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return &failure{message: "not confirmed, nothing was deleted"}
}

// knowledgeBase prints all there is to say about one.
func (o *output) knowledgeBase(k *granaryv1.KnowledgeBase) error {
	documents := countsText(k.GetDocumentCounts())
	if limit := k.GetDocumentLimit(); limit > 0 {
		documents += fmt.Sprintf(" (limit %d)", limit)
	}
	if err := o.pairs(nil, [][2]string{
		{"name", shortKB(k.GetName())},
		{"display name", k.GetDisplayName()},
		{"description", k.GetDescription()},
		{"workspace", k.GetWorkspace()},
		{"documents", documents},
		{"chunks", fmt.Sprint(k.GetChunkCount())},
		{"source bytes", o.bytesText(k.GetSourceBytes())},
		{"created", stamp(k.GetCreateTime())},
		{"updated", stamp(k.GetUpdateTime())},
		{"keeps documents", retentionText(k.GetRetention())},
		{"revision", fmt.Sprint(k.GetRevision())},
		{"etag", k.GetEtag()},
		{"uid", k.GetUid()},
	}); err != nil || k.GetEffectiveConfig() == nil {
		return err
	}
	if err := o.printf("\n"); err != nil {
		return err
	}
	return o.effective(k.GetEffectiveConfig())
}

// effective prints the settings in force and where each came from.
func (o *output) effective(e *granaryv1.EffectiveConfig) error {
	var rows [][]cell
	walkSettings(e.GetConfig().ProtoReflect(), "", func(path, value string) {
		layer := e.GetSources()[path]
		from := flagName(shortEnum(layer.Descriptor(), layer.Number()))
		rows = append(rows, cells(path, value, strings.ReplaceAll(from, "-", " ")))
	})
	return o.table([]string{"SETTING", "VALUE", "FROM"}, rows)
}

// countsText prints documents by state, in the order of their names.
func countsText(counts map[string]int64) string {
	states := make([]string, 0, len(counts))
	var total int64
	for state, n := range counts {
		total += n
		states = append(states, fmt.Sprintf("%d %s", n, state))
	}
	if len(states) == 0 {
		return "0"
	}
	sort.Slice(states, func(i, j int) bool {
		_, a, _ := strings.Cut(states[i], " ")
		_, b, _ := strings.Cut(states[j], " ")
		return a < b
	})
	return fmt.Sprintf("%d: %s", total, strings.Join(states, ", "))
}
