//go:build unix

package trail_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"granary.dev/granary/actors/journal/trail"
)

// A store that was set back as a whole is whole: only who knows a later checkpoint sees it.
func TestI1_StoreSetBackAsAWholeIsNoticedByACheckpointKnownFromBefore(t *testing.T) {
	each(t, func(w *world) {
		w.fill()
		w.save()
		w.events("kb", "handbook", 1)
		known := w.checkpoint()
		expect := fmt.Sprintf("%d:%x", known.Number, trail.HashOf(known))
		read := func() *trail.Report {
			r, err := trail.Read(bytes.NewReader(w.export(true)), w.signer.Public())
			check(w, err)
			return r
		}
		r := read()
		if r.Expect(expect); !r.Good() {
			w.Fatal(r.Problems)
		}
		if r.Expect(strings.ToUpper(expect)); !r.Good() {
			w.Fatal(r.Problems)
		}
		w.restore()
		if r = read(); !r.Good() {
			w.Fatal(r.Problems)
		}
		if r.Expect(expect); r.Good() || r.Problems[0].Seq != known.Number {
			w.Fatal("nothing is noticed")
		}
		for _, bad := range []string{"", "4", "x:y"} {
			r := read()
			if r.Expect(bad); r.Good() {
				w.Errorf("%q was taken for a checkpoint", bad)
			}
		}
	})
}
