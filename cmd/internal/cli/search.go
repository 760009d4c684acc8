package cli

import (
	"context"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// Of a hit's text, a terminal shows snippetRunes, from at most leadRunes before
// the first match.
const (
	snippetRunes = 280
	leadRunes    = 60
)

func (a *app) searchCommand() *cobra.Command {
	cmd := a.client(&cobra.Command{
		Use:   "search KB QUERY...",
		Short: "Search a knowledge base by meaning and by words",
		Long: "Finds the passages that answer a query. Settings that are not given are the knowledge base's.\n" +
			"--min-revision waits until the knowledge base has reached a revision, so that you find what you just wrote.",
		Example: `  granary search handbook "how do I take parental leave"
  granary search papers attention --mode keyword --top 3 --filter 'metadata.year = "2017" AND page >= 3'
  granary search handbook leave --explain
  granary search handbook leave --json | jq -r '.hits[].text'`,
		Args: minArgs("KB", "QUERY"),
	})
	req := &granaryv1.SearchRequest{}
	cmd.Flags().StringVar(&req.Filter, "filter", "", "only chunks for which this `expression` holds")
	cmd.Flags().BoolVar(&req.Explain, "explain", false, "also show how the answer was made")
	cmd.Flags().Int64Var(&req.MinRevision, "min-revision", 0, "answer from at least this revision")
	cmd.Flags().BoolVar(&req.AllowStale, "allow-stale", false, "rather an answer that may be out of date than none while the store is down")
	cmd.Flags().StringVar(&req.Language, "language", "", "language of the query, ISO 639-1 (default: told from its text)")
	set := addSettings(cmd, "retrieval.")
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, args []string) error {
		req.KnowledgeBase = kbName(args[0])
		req.Query = strings.Join(args[1:], " ")
		req.Retrieval = set.config.GetRetrieval()
		res, err := call(ctx, s, s.search.Search, req)
		if err != nil {
			return err
		}
		if out.json {
			return out.message(res)
		}
		return out.answer(res)
	})
	return cmd
}

// answer prints the hits, as blocks on a terminal and as rows in a pipe.
func (o *output) answer(res *granaryv1.SearchResponse) error {
	if res.GetFallbackUsed() != "" {
		o.notef("note: answered by %s: %s", oneLine(res.GetFallbackUsed()), oneLine(res.GetMessage()))
	} else if res.GetMessage() != "" {
		o.notef("note: %s", oneLine(res.GetMessage()))
	}
	if res.GetStale() {
		o.notef("note: stale: as of revision %d, newer changes may be missing", res.GetRevision())
	}
	explain := res.GetExplain() != nil
	var err error
	switch {
	case len(res.GetHits()) == 0:
		o.notef("no hits")
	case o.tty:
		err = o.hitBlocks(res.GetHits(), explain)
	default:
		err = o.hitRows(res.GetHits(), explain)
	}
	if err != nil || !explain {
		return err
	}
	return o.explanation(res)
}

func (o *output) hitBlocks(hits []*granaryv1.Hit, explain bool) error {
	for i, h := range hits {
		if err := o.printf("%s  %s  %s  %s\n", o.paint(bold, fmt.Sprint(i+1)), o.paint(green, scoreText(h.GetScore())),
			o.paint(bold, hitName(h)), o.paint(dim, fmt.Sprintf("v%d", h.GetVersion()))); err != nil {
			return err
		}
		if err := o.printf("   %s\n", o.paint(dim, strings.Join(hitPlace(h), " · "))); err != nil {
			return err
		}
		if explain {
			if err := o.printf("   %s\n", o.paint(dim, partsText(h.GetParts()))); err != nil {
				return err
			}
		}
		if err := o.printf("   %s\n\n", o.snippet(h, snippetRunes)); err != nil {
			return err
		}
	}
	return nil
}

func (o *output) hitRows(hits []*granaryv1.Hit, explain bool) error {
	header := []string{"RANK", "SCORE", "DOCUMENT", "VERSION", "HEADING", "PAGE", "BYTES"}
	if explain {
		header = append(header, "PARTS")
	}
	header = append(header, "TEXT")
	var rows [][]cell
	for i, h := range hits {
		row := cells(fmt.Sprint(i+1), scoreText(h.GetScore()), hitName(h), fmt.Sprint(h.GetVersion()),
			orHyphen(strings.Join(h.GetHeadings(), " > ")), pageText(h.GetPage()), fmt.Sprintf("%d-%d", h.GetStart(), h.GetEnd()))
		if explain {
			row = append(row, cell{text: partsText(h.GetParts())})
		}
		rows = append(rows, append(row, cell{text: h.GetText()}))
	}
	return o.table(header, rows)
}

// hitName is what people call the document of a hit.
func hitName(h *granaryv1.Hit) string {
	for _, name := range []string{h.GetDisplayName(), h.GetTitle(), h.GetSourceUrl()} {
		if name != "" {
			return oneLine(name)
		}
	}
	return shortDoc(h.GetDocument())
}

// hitPlace says where in its document a hit is.
func hitPlace(h *granaryv1.Hit) []string {
	var parts []string
	if len(h.GetHeadings()) > 0 {
		parts = append(parts, oneLine(strings.Join(h.GetHeadings(), " › ")))
	}
	if h.GetPage() > 0 {
		parts = append(parts, fmt.Sprintf("page %d", h.GetPage()))
	}
	return append(parts, fmt.Sprintf("bytes %d–%d", h.GetStart(), h.GetEnd()), shortDoc(h.GetDocument()))
}

func scoreText(score float64) string { return fmt.Sprintf("%.3f", score) }

func pageText(page int32) string {
	if page == 0 {
		return "-"
	}
	return fmt.Sprint(page)
}

func orHyphen(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func partsText(p *granaryv1.ScoreParts) string {
	text := fmt.Sprintf("keyword=%.3f bm25=%.3f", p.GetKeyword(), p.GetBm25())
	if p.GetHasVector() {
		return text + fmt.Sprintf(" vector=%.3f", p.GetVector())
	}
	return text + " vector=none"
}

// snippet is a hit's text in one line of at most limit runes around its first
// match, with what matched in bold.
func (o *output) snippet(h *granaryv1.Hit, limit int) string {
	text := h.GetText()
	marked := func(at int) bool {
		for _, r := range h.GetHighlights() {
			if at >= int(r.GetStart()) && at < int(r.GetEnd()) {
				return true
			}
		}
		return false
	}
	from := snippetStart(text, h.GetHighlights())
	var b, run strings.Builder
	flush := func(s style) {
		b.WriteString(o.paint(s, run.String()))
		run.Reset()
	}
	if from > 0 {
		b.WriteString("… ")
	}
	current, space, count := plain, true, 0
	for at, r := range text[from:] {
		if unicode.IsSpace(r) {
			if space {
				continue
			}
			r = ' '
		} else if steers(r) {
			continue
		}
		if count++; count > limit {
			run.WriteString(" …")
			break
		}
		next := plain
		if marked(from + at) {
			next = bold
		}
		if next != current {
			flush(current)
			current = next
		}
		space = r == ' '
		run.WriteRune(r)
	}
	flush(current)
	return strings.TrimRight(b.String(), " ")
}

// snippetStart is where a snippet begins: the start of a word up to leadRunes
// before the first match.
func snippetStart(text string, matches []*granaryv1.Range) int {
	first := len(text)
	for _, r := range matches {
		if at := int(r.GetStart()); at >= 0 {
			first = min(first, at)
		}
	}
	if first == len(text) || utf8.RuneCountInString(text[:first]) <= leadRunes {
		return 0
	}
	from := first
	for range leadRunes {
		_, size := utf8.DecodeLastRuneInString(text[:from])
		from -= size
	}
	if i := strings.IndexFunc(text[from:first], unicode.IsSpace); i >= 0 {
		from += i + 1
	}
	return from
}

// explanation prints how an answer was made.
func (o *output) explanation(res *granaryv1.SearchResponse) error {
	e := res.GetExplain()
	if err := o.printf("\n"); err != nil {
		return err
	}
	if err := o.pairs(nil, [][2]string{
		{"plan", e.GetPlan()},
		{"why", e.GetReason()},
		{"terms", strings.Join(e.GetTerms(), " ")},
		{"searched", fmt.Sprintf("%d of %d chunks in %d documents", e.GetEligibleChunks(), e.GetChunks(), e.GetDocuments())},
		{"candidates", fmt.Sprint(e.GetCandidates())},
		{"revision", fmt.Sprint(res.GetRevision())},
		{"node", e.GetNode()},
	}); err != nil || len(e.GetSteps()) == 0 {
		return err
	}
	if err := o.printf("\n"); err != nil {
		return err
	}
	var rows [][]cell
	for _, step := range e.GetSteps() {
		rows = append(rows, cells(step.GetName(), step.GetTook().AsDuration().String(), step.GetDetail()))
	}
	return o.table([]string{"STEP", "TIME", "DETAIL"}, rows)
}
