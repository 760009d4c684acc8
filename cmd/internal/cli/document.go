package cli

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	// chunkPage keeps an answer of the longest chunks below the 4 MiB that
	// proxies commonly allow a message.
	chunkPage = 200
	// textPart is the most text the server gives at once.
	textPart = 1 << 20
)

func (a *app) docCommand() *cobra.Command {
	cmd := a.client(a.group(&cobra.Command{
		Use:   "doc",
		Short: "Add, read and delete documents",
		Example: `  granary doc add handbook ./docs --wait
  granary doc list handbook --state failed`,
	}))
	cmd.AddCommand(a.docAdd(), a.docGet(), a.docList(), a.docDelete(), a.docCancel(), a.docReprocess(),
		a.docChunks(), a.docText())
	return cmd
}

func (a *app) docGet() *cobra.Command {
	return &cobra.Command{
		Use:     "get KB DOC",
		Short:   "Show a document and where its processing stands",
		Example: "  granary doc get handbook leave.md-1f3870be\n  granary doc get handbook leave.md-1f3870be --json | jq .document.state",
		Args:    exactArgs("KB", "DOC"),
		RunE: a.run(func(ctx context.Context, s *session, out *output, args []string) error {
			res, err := call(ctx, s, s.docs.GetDocument, &granaryv1.GetDocumentRequest{Name: docName(args[0], args[1])})
			if err != nil {
				return err
			}
			return out.documentOf(res, res.GetDocument())
		}),
	}
}

func (a *app) docList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list KB",
		Short: "List the documents of a knowledge base",
		Example: `  granary doc list handbook
  granary doc list handbook --state failed --state embedding`,
		Args: exactArgs("KB"),
	}
	states := cmd.Flags().StringSlice("state", nil, "only documents in this `state`; may be repeated")
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, args []string) error {
		req := &granaryv1.ListDocumentsRequest{Parent: kbName(args[0]), PageSize: listPage}
		for _, text := range *states {
			n, err := parseEnum(granaryv1.DocumentState(0).Descriptor(), text)
			if err != nil {
				return usagef("--state: %s", err)
			}
			req.States = append(req.States, granaryv1.DocumentState(n))
		}
		all := &granaryv1.ListDocumentsResponse{}
		for {
			page, err := call(ctx, s, s.docs.ListDocuments, req)
			if err != nil {
				return err
			}
			all.Documents = append(all.Documents, page.GetDocuments()...)
			all.Revision = page.GetRevision()
			if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		if out.json {
			return out.message(all)
		}
		return out.documents(all.GetDocuments())
	})
	return cmd
}

func (o *output) documents(docs []*granaryv1.Document) error {
	if len(docs) == 0 {
		o.notef("no documents")
		return nil
	}
	var rows [][]cell
	for _, d := range docs {
		rows = append(rows, []cell{
			{shortDoc(d.GetName()), plain}, {fmt.Sprint(d.GetVersion()), plain}, {progressText(d), stateStyle(d.GetState())},
			{fmt.Sprint(d.GetChunkCount()), plain}, {o.bytesText(d.GetSizeBytes()), plain},
			{stamp(d.GetUpdateTime()), dim}, {d.GetDisplayName(), plain}, {errorText(d.GetError()), red},
		})
	}
	return o.table([]string{"ID", "VERSION", "STATE", "CHUNKS", "BYTES", "UPDATED", "NAME", "ERROR"}, rows)
}

// progressText is a document's state, with the share of the stage that is done.
func progressText(d *granaryv1.Document) string {
	text := stateText(d.GetState())
	if p := d.GetProgress(); p > 0 && p < 1 && !terminal(d.GetState()) {
		text += fmt.Sprintf(" %.0f%%", p*100)
	}
	return text
}

// documentOf prints res, an answer about d.
func (o *output) documentOf(res proto.Message, d *granaryv1.Document) error {
	if o.json {
		return o.message(res)
	}
	searchable := "no"
	if v := d.GetSearchableVersion(); v > 0 {
		searchable = fmt.Sprintf("version %d", v)
	}
	if d.GetKeywordSearchable() {
		searchable += ", the newest by keywords"
	}
	var metadata []string
	for k, v := range d.GetMetadata() {
		metadata = append(metadata, k+"="+v)
	}
	sort.Strings(metadata)
	pages := ""
	if d.GetPages() > 0 {
		pages = fmt.Sprint(d.GetPages())
	}
	return o.pairs(map[string]style{"state": stateStyle(d.GetState()), "error": red}, [][2]string{
		{"name", d.GetName()},
		{"display name", d.GetDisplayName()},
		{"title", d.GetTitle()},
		{"version", fmt.Sprint(d.GetVersion())},
		{"state", progressText(d)},
		{"waits", waitText(d.GetWaitReason(), d.GetWaitUntil())},
		{"error", errorText(d.GetError())},
		{"searchable", searchable},
		{"chunks", fmt.Sprintf("%d, %d with vectors", d.GetChunkCount(), d.GetEmbeddedChunkCount())},
		{"pages", pages},
		{"bytes", o.bytesText(d.GetSizeBytes())},
		{"expires", stamp(d.GetExpireTime())},
		{"type", d.GetMediaType()},
		{"language", d.GetLanguage()},
		{"source", d.GetSourceUrl()},
		{"sha256", d.GetSha256()},
		{"metadata", strings.Join(metadata, ", ")},
		{"warnings", strings.Join(d.GetWarnings(), "; ")},
		{"attempts", fmt.Sprint(d.GetAttempts())},
		{"created", stamp(d.GetCreateTime())},
		{"updated", stamp(d.GetUpdateTime())},
		{"revision", fmt.Sprint(d.GetRevision())},
	})
}

func (a *app) docDelete() *cobra.Command {
	return &cobra.Command{
		Use:     "delete KB DOC...",
		Short:   "Delete documents; searches find nothing of them from then on",
		Example: "  granary doc delete handbook leave.md-1f3870be",
		Args:    minArgs("KB", "DOC"),
		RunE: a.run(func(ctx context.Context, s *session, out *output, args []string) error {
			failed := 0
			for _, arg := range args[1:] {
				res, err := call(ctx, s, s.docs.DeleteDocument, &granaryv1.DeleteDocumentRequest{
					Name: docName(args[0], arg), RequestId: requestID(),
				})
				if err != nil {
					if len(args) == 2 || ctx.Err() != nil {
						return err
					}
					failed++
					printFailure(out.err, "failed "+oneLine(arg)+": ", s.explain(ctx, err))
					continue
				}
				if out.json {
					err = out.message(res)
				} else {
					err = out.printf("deleted %s\n", shortDoc(arg))
				}
				if err != nil {
					return err
				}
			}
			if failed > 0 {
				return &failure{message: fmt.Sprintf("%d of %d documents were not deleted", failed, len(args)-1)}
			}
			return nil
		}),
	}
}

func (a *app) docCancel() *cobra.Command {
	return &cobra.Command{
		Use:     "cancel KB DOC",
		Short:   "Stop processing a document",
		Example: "  granary doc cancel handbook big.pdf-9a0364b9",
		Args:    exactArgs("KB", "DOC"),
		RunE: a.run(func(ctx context.Context, s *session, out *output, args []string) error {
			res, err := call(ctx, s, s.docs.CancelDocument, &granaryv1.CancelDocumentRequest{
				Name: docName(args[0], args[1]), RequestId: requestID(),
			})
			if err != nil {
				return err
			}
			return out.documentOf(res, res.GetDocument())
		}),
	}
}

func (a *app) docReprocess() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reprocess KB DOC",
		Short: "Process a document again from its stored source",
		Long: "Processes a document again, as a new version, with the settings now in force. What is searchable\n" +
			"stays so meanwhile.",
		Example: "  granary doc reprocess handbook leave.md-1f3870be\n  granary doc reprocess handbook leave.md-1f3870be --target-words 80",
		Args:    exactArgs("KB", "DOC"),
	}
	set := addSettings(cmd, "chunking.")
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, args []string) error {
		res, err := call(ctx, s, s.docs.ReprocessDocument, &granaryv1.ReprocessDocumentRequest{
			Name: docName(args[0], args[1]), Chunking: set.config.GetChunking(), RequestId: requestID(),
		})
		if err != nil {
			return err
		}
		return out.documentOf(res, res.GetDocument())
	})
	return cmd
}

func (a *app) docChunks() *cobra.Command {
	return &cobra.Command{
		Use:     "chunks KB DOC",
		Short:   "List the chunks that searches see",
		Example: "  granary doc chunks handbook leave.md-1f3870be\n  granary doc chunks handbook leave.md-1f3870be --json | jq '.chunks | length'",
		Args:    exactArgs("KB", "DOC"),
		RunE: a.run(func(ctx context.Context, s *session, out *output, args []string) error {
			all := &granaryv1.ListChunksResponse{}
			req := &granaryv1.ListChunksRequest{Parent: docName(args[0], args[1]), PageSize: chunkPage}
			for {
				page, err := call(ctx, s, s.docs.ListChunks, req)
				if err != nil {
					return err
				}
				all.Chunks = append(all.Chunks, page.GetChunks()...)
				all.Version = page.GetVersion()
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
					break
				}
			}
			if out.json {
				return out.message(all)
			}
			return out.chunks(all.GetChunks())
		}),
	}
}

func (o *output) chunks(chunks []*granaryv1.Chunk) error {
	if len(chunks) == 0 {
		o.notef("no chunks")
		return nil
	}
	var rows [][]cell
	for _, c := range chunks {
		vector := "no"
		if c.GetEmbedded() {
			vector = "yes"
		}
		rows = append(rows, cells(fmt.Sprint(c.GetOrdinal()), pageText(c.GetPage()), fmt.Sprintf("%d-%d", c.GetStart(), c.GetEnd()),
			orHyphen(c.GetLanguage()), vector, orHyphen(strings.Join(c.GetHeadings(), " > ")), c.GetText()))
	}
	return o.table([]string{"CHUNK", "PAGE", "BYTES", "LANGUAGE", "VECTOR", "HEADING", "TEXT"}, rows)
}

func (a *app) docText() *cobra.Command {
	return &cobra.Command{
		Use:     "text KB DOC",
		Short:   "Print the text extracted from a document",
		Long:    "Prints the extracted text, the one that byte offsets of chunks and hits point into.",
		Example: "  granary doc text handbook leave.md-1f3870be | less",
		Args:    exactArgs("KB", "DOC"),
		RunE: a.run(func(ctx context.Context, s *session, out *output, args []string) error {
			all := &granaryv1.GetDocumentTextResponse{}
			req := &granaryv1.GetDocumentTextRequest{Name: docName(args[0], args[1]), MaxBytes: textPart}
			var text strings.Builder
			for {
				part, err := call(ctx, s, s.docs.GetDocumentText, req)
				if err != nil {
					return err
				}
				if req.GetOffset() > 0 && part.GetVersion() != all.GetVersion() {
					return &failure{message: "the document changed while it was read: run the command again"}
				}
				all.Version, all.TotalBytes = part.GetVersion(), part.GetTotalBytes()
				text.WriteString(part.GetText())
				req.Offset += int64(len(part.GetText()))
				if part.GetText() == "" || req.GetOffset() >= part.GetTotalBytes() {
					break
				}
			}
			all.Text = text.String()
			switch {
			case out.json:
				return out.message(all)
			case out.tty:
				return out.printf("%s\n", sanitize(all.GetText()))
			default:
				return out.printf("%s", all.GetText())
			}
		}),
	}
}
