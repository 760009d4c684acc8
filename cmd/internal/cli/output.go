package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/width"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// style is how a terminal shows a text.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

// output prints results for whoever reads them: a terminal, a pipe or a program.
type output struct {
	out, err io.Writer
	json     bool
	tty      bool // out is a terminal
	errTTY   bool // err is a terminal that can redraw a line
	color    bool
	width    int // columns of the terminal, 0 unknown
}

// output settles the shared output flags.
func (a *app) output() (*output, error) {
	o := &output{
		out:    a.env.Stdout,
		err:    a.env.Stderr,
		json:   a.flags.json,
		tty:    a.env.IsTerminal(a.env.Stdout),
		errTTY: a.env.IsTerminal(a.env.Stderr) && a.env.Getenv("TERM") != "dumb",
	}
	if o.tty {
		o.width = a.env.Width()
	}
	switch a.flags.color {
	case "auto", "":
		o.color = o.tty && a.env.Getenv("NO_COLOR") == "" && a.env.Getenv("TERM") != "dumb"
	case "always":
		o.color = true
	case "never":
	default:
		return nil, usagef("--color must be auto, always or never")
	}
	return o, nil
}

// message prints m as protobuf JSON.
func (o *output) message(m proto.Message) error {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the response: %w", err)
	}
	return o.rawJSON(raw)
}

// rawJSON prints one JSON value. protojson varies its white space on purpose,
// so it is settled here.
func (o *output) rawJSON(raw []byte) error {
	var b bytes.Buffer
	var err error
	if o.tty {
		err = json.Indent(&b, raw, "", "  ")
	} else {
		err = json.Compact(&b, raw)
	}
	if err != nil {
		return fmt.Errorf("encode the response: %w", err)
	}
	b.WriteByte('\n')
	_, err = o.out.Write(b.Bytes())
	return err
}

// paint gives text a style where colours are wanted.
func (o *output) paint(s style, text string) string {
	if !o.color || s == plain || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

func (o *output) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(o.out, format, args...)
	return err
}

// notef tells the reader something that is no result.
func (o *output) notef(format string, args ...any) {
	_, _ = fmt.Fprintf(o.err, format+"\n", args...)
}

// cell is one field of a table.
type cell struct {
	text  string
	style style
}

func cells(texts ...string) []cell {
	row := make([]cell, len(texts))
	for i, t := range texts {
		row[i] = cell{text: t}
	}
	return row
}

// table prints rows in aligned columns. The last column is cut to the width of
// a terminal; in a pipe it keeps all of its text.
func (o *output) table(header []string, rows [][]cell) error {
	return o.aligned(header, rows, o.width)
}

// aligned prints rows in columns, the last one cut at limit unless that is 0.
func (o *output) aligned(header []string, rows [][]cell, limit int) error {
	all := make([][]cell, 0, len(rows)+1)
	if header != nil {
		head := cells(header...)
		for i := range head {
			head[i].style = bold
		}
		all = append(all, head)
	}
	all = append(all, rows...)
	var widths []int
	for r, row := range all {
		for i := range row {
			row[i].text = oneLine(row[i].text)
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], columns(row[i].text))
		}
		all[r] = row
	}
	var b strings.Builder
	for _, row := range all {
		b.WriteString(strings.TrimRight(o.row(row, widths, limit), " ") + "\n")
	}
	_, err := io.WriteString(o.out, b.String())
	return err
}

func (o *output) row(row []cell, widths []int, limit int) string {
	const gap = 2
	var b strings.Builder
	used := 0
	for i, c := range row {
		if i == len(row)-1 {
			if left := limit - used; limit > 0 && left > 0 {
				c.text = cut(c.text, left)
			}
			b.WriteString(o.paint(c.style, c.text))
			break
		}
		b.WriteString(o.paint(c.style, c.text))
		b.WriteString(strings.Repeat(" ", widths[i]-columns(c.text)+gap))
		used += widths[i] + gap
	}
	return b.String()
}

// pairs prints a list of names and values, uncut; empty values are left out.
// styles has the values that are not plain, by name.
func (o *output) pairs(styles map[string]style, pairs [][2]string) error {
	var rows [][]cell
	for _, p := range pairs {
		if p[1] != "" {
			rows = append(rows, []cell{{p[0], bold}, {p[1], styles[p[0]]}})
		}
	}
	return o.aligned(nil, rows, 0)
}

// columns is the number of terminal cells text takes.
func columns(text string) int {
	n := 0
	for _, r := range text {
		n += runeColumns(r)
	}
	return n
}

func runeColumns(r rune) int {
	if unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// cut shortens text to at most n columns, with an ellipsis where it ends early.
func cut(text string, n int) string {
	if columns(text) <= n {
		return text
	}
	used := 1 // the ellipsis
	for i, r := range text {
		if used += runeColumns(r); used > n {
			return text[:i] + "…"
		}
	}
	return text
}

// sanitize drops what could steer a terminal: texts of documents, names and
// messages come from elsewhere. Line feeds and tabs stay.
func sanitize(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || !steers(r) {
			return r
		}
		return -1
	}, text)
}

// steers reports whether r is a control character, or one that turns the
// direction of writing.
func steers(r rune) bool {
	return unicode.IsControl(r) || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

// oneLine is text without control characters, its white space collapsed.
func oneLine(text string) string {
	return sanitize(strings.Join(strings.Fields(text), " "))
}

// stamp prints a time in UTC.
func stamp(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}

// bytesText prints a size: exact in a pipe, short on a terminal.
func (o *output) bytesText(n int64) string {
	if !o.tty || n < 1000 {
		return fmt.Sprint(n)
	}
	value, unit := float64(n), ""
	for _, unit = range []string{"kB", "MB", "GB", "TB", "PB", "EB"} {
		if value /= 1000; value < 999.95 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}
