package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// question is something the documents answer.
type question struct {
	text   string
	answer string // name of the document with the answer, without a module's version
}

// questions in words of people, not copied from the documents.
func questions() []question {
	return []question{
		{"what happens when I send a value on a nil channel?", "go/doc/go_spec.html"},
		{"when is a goroutine guaranteed to see a write made by another goroutine?", "go/doc/go_mem.html"},
		{"how do I bring back the behaviour of an older Go release with an environment variable?", "go/doc/godebug.md"},
		{"which phases does the Go compiler consist of?", "go/src/cmd/compile/README.md"},
		{"which Go releases still get security fixes?", "go/SECURITY.md"},
		{"where does the time zone archive come from and how is it rebuilt?", "go/lib/time/README"},
		{"is a UUID stored as an array or as a slice?", "github.com/google/uuid/README.md"},
		{"replacement for the flag package with POSIX style double dashes", "github.com/spf13/pflag/README.md"},
		{"how do I apply and roll back SQL schema migrations?", "github.com/pressly/goose/v3/README.md"},
		{"zero dependency WebAssembly runtime for Go without cgo", "github.com/tetratelabs/wazero/README.md"},
		{"extensible Markdown parser that follows CommonMark", "github.com/yuin/goldmark/README.md"},
		{"how many gigabytes per second does the XXH64 hash reach with assembly?", "github.com/cespare/xxhash/v2/README.md"},
	}
}

const (
	topHits   = 3
	quoteSize = 150 // bytes of an answer that are printed
)

// askAll asks what the machine's documents can answer, and checks the answers.
func askAll(ctx context.Context, c *client, files []file) error {
	asked, found := 0, 0
	var times []time.Duration
	for _, q := range questions() {
		if !slices.ContainsFunc(files, func(f file) bool { return subject(f.name) == q.answer }) {
			fmt.Printf("\n? %s\n  not asked: %s is not among the documents\n", q.text, q.answer)
			continue
		}
		asked++
		start := time.Now()
		res, err := c.search.Search(ctx, &granaryv1.SearchRequest{KnowledgeBase: knowledgeBase, Query: q.text})
		took := time.Since(start)
		if err != nil {
			return fmt.Errorf("ask %q: %w", q.text, err)
		}
		times = append(times, took)
		if printAnswer(q, res.GetHits(), took) {
			found++
		}
	}
	if asked == 0 {
		return fmt.Errorf("none of the %d questions can be asked of these documents; raise -limit", len(questions()))
	}
	slices.Sort(times)
	fmt.Printf("\n%d of %d answers in the first %d, median time %v\n", found, asked, topHits, times[len(times)/2].Round(10*time.Microsecond))
	if 4*found < 3*asked {
		return fmt.Errorf("the expected document was found for %d of %d questions, fewer than three quarters", found, asked)
	}
	return nil
}

// printAnswer shows the best hit with its citation, and reports whether the
// expected document is among the first.
func printAnswer(q question, hits []*granaryv1.Hit, took time.Duration) (found bool) {
	fmt.Printf("\n? %s   (%v)\n", q.text, took.Round(10*time.Microsecond))
	if len(hits) == 0 {
		fmt.Println("  no answer")
		return false
	}
	at := slices.IndexFunc(hits, func(h *granaryv1.Hit) bool { return subject(h.GetDisplayName()) == q.answer })
	show := hits[0]
	if at > 0 && at < topHits {
		show = hits[at]
	}
	fmt.Printf("  %q\n", quote(show.GetText()))
	fmt.Printf("  %s v%d", show.GetDisplayName(), show.GetVersion())
	if len(show.GetHeadings()) > 0 {
		fmt.Printf(" › %s", strings.Join(show.GetHeadings(), " › "))
	}
	fmt.Printf(", bytes %d–%d, score %.3f\n", show.GetStart(), show.GetEnd(), show.GetScore())
	switch {
	case at < 0:
		fmt.Printf("  MISSED: expected %s\n", q.answer)
	case at >= topHits:
		fmt.Printf("  MISSED: expected %s, which is at rank %d\n", q.answer, at+1)
	default:
		fmt.Printf("  expected document at rank %d\n", at+1)
	}
	return at >= 0 && at < topHits
}

// quote is the beginning of a text in one line.
func quote(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= quoteSize {
		return text
	}
	if at := strings.LastIndexByte(text[:quoteSize], ' '); at > 0 {
		return text[:at] + " …"
	}
	return strings.ToValidUTF8(text[:quoteSize], "") + " …"
}
