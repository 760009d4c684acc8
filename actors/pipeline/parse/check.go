package parse

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"granary.dev/granary/actors/pipeline"
)

// Check verifies the invariants of a result (see the package documentation).
// Tests and the reader of a worker's answer, which may be garbage, use it.
func Check(p *pipeline.Parsed) error {
	if !utf8.ValidString(p.Text) {
		return fmt.Errorf("text is not valid UTF-8")
	}
	if i := strings.IndexFunc(p.Text, isControl); i >= 0 {
		return fmt.Errorf("control character at %d", i)
	}
	end := 0
	for i, b := range p.Blocks {
		switch {
		case b.Start < end || b.End <= b.Start || b.End > len(p.Text):
			return fmt.Errorf("block %d [%d:%d] out of order, empty or outside of the text", i, b.Start, b.End)
		case strings.TrimSpace(p.Text[end:b.Start]) != "":
			return fmt.Errorf("text outside of blocks before block %d", i)
		case !utf8.RuneStart(p.Text[b.Start]) || b.End < len(p.Text) && !utf8.RuneStart(p.Text[b.End]):
			return fmt.Errorf("block %d splits a character", i)
		case b.Kind > pipeline.BlockQuote:
			return fmt.Errorf("block %d is of unknown kind %d", i, b.Kind)
		case (b.Kind == pipeline.BlockHeading) != (b.Level > 0) || b.Level < 0 || b.Level > 6:
			return fmt.Errorf("block %d has level %d", i, b.Level)
		case b.Page < 0 || b.Page > p.Pages:
			return fmt.Errorf("block %d is on page %d of %d", i, b.Page, p.Pages)
		}
		end = b.End
	}
	if strings.TrimSpace(p.Text[end:]) != "" {
		return fmt.Errorf("text outside of blocks at the end")
	}
	return nil
}
