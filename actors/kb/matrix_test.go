package kb_test

import (
	"bufio"
	"os"
	"strings"
	"testing"

	"granary.dev/granary/actors/kb"
)

func TestTransitionsAreThoseOfTheDiagram_C4(t *testing.T) {
	file, err := os.Open("testdata/transitions.golden")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	rows := 0
	for in := bufio.NewScanner(file); in.Scan(); {
		cells := strings.Fields(in.Text())
		if cells[0] == "#" || cells[0] == "from" {
			continue
		}
		from := kb.DocumentState(rows)
		rows++
		if from.String() != cells[0] || len(cells) != 1+len(kb.States()) {
			t.Fatalf("row %d is %v, wanted %s and a cell for each state", rows, cells, from)
		}
		for i, to := range kb.States() {
			if got, want := kb.CanMove(from, to), cells[i+1] == "x"; got != want {
				t.Errorf("%s → %s: allowed %v, the diagram says %v", from, to, got, want)
			}
		}
		if kb.CanMove(from, kb.StateNone) || kb.CanMove(from, kb.StateDeleting+1) {
			t.Errorf("%s leads to a state that is none", from)
		}
	}
	if rows != 1+len(kb.States()) {
		t.Errorf("%d rows in the matrix, wanted %d", rows, 1+len(kb.States()))
	}
}

func TestEveryStateIsPendingTerminalOrDeleting_C4(t *testing.T) {
	for _, s := range kb.States() {
		n := 0
		for _, is := range []bool{s.Pending(), s.Terminal(), s == kb.StateDeleting} {
			if is {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s is in %d of the three classes", s, n)
		}
		if s.Processing() != (s.Pending() && s != kb.StateQueued) {
			t.Errorf("%s: processing %v", s, s.Processing())
		}
		if s.String() == "UNKNOWN" || s.String() == "NONE" {
			t.Errorf("state %d has no name", s)
		}
	}
	if got := (kb.StateDeleting + 1).String(); got != "UNKNOWN" {
		t.Errorf("a state of a newer release is called %q", got)
	}
}
