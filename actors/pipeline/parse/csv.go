package parse

import (
	"encoding/csv"
	"errors"
	"io"
	"strings"

	"granary.dev/granary/actors/pipeline"
)

// parseCSV makes one table of delimited text. When the first row looks like a
// header every later row names its columns.
func (j *job) parseCSV(t decoded) (*pipeline.Parsed, error) {
	mediaType := typeCSV
	comma := sniffDelimiter(t.text)
	if j.mediaType() == typeTSV || j.extension() == ".tsv" {
		mediaType, comma = typeTSV, '\t'
	}
	r := csv.NewReader(strings.NewReader(t.text))
	r.Comma, r.LazyQuotes, r.FieldsPerRecord, r.ReuseRecord = comma, true, -1, false
	var table tableText
	var first []string
	for n := 0; ; n++ {
		if n%aliveEvery == 0 {
			if err := j.alive(); err != nil {
				return nil, err
			}
		}
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fail(ReasonMalformed, "the rows could not be told apart", err)
		}
		if table.rows == 0 && first == nil {
			if !emptyRow(row) {
				first = row
			}
			continue
		}
		if err := table.withFirst(j.lim, &first, row); err != nil {
			return nil, err
		}
	}
	if first != nil {
		if err := table.row(j.lim, first); err != nil {
			return nil, err
		}
	}
	b := j.newBuilder()
	if err := b.add(pipeline.BlockTable, 0, table.String()); err != nil {
		return nil, err
	}
	out := b.done(mediaType)
	out.Charset, out.Warnings = t.charset, t.warnings
	return out, nil
}

// sniffDelimiter takes the separator that stands equally often in the first
// lines; a comma when none does.
func sniffDelimiter(text string) rune {
	best, bestCount := ',', 0
	for _, c := range []rune{',', ';', '\t', '|'} {
		want, same, n := -1, 0, 0
		for _, line := range lines(text[:min(len(text), sniffBytes)]) {
			if strings.TrimSpace(line) == "" {
				continue
			}
			if n++; n > 10 {
				break
			}
			count := countUnquoted(line, c)
			if want < 0 {
				want = count
			}
			if count == want && count > 0 {
				same++
			}
		}
		if score := same * max(want, 0); score > bestCount {
			best, bestCount = c, score
		}
	}
	return best
}

// countUnquoted counts c outside of double quotes.
func countUnquoted(line string, c rune) int {
	n, quoted := 0, false
	for _, r := range line {
		switch {
		case r == '"':
			quoted = !quoted
		case r == c && !quoted:
			n++
		}
	}
	return n
}
