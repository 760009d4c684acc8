package kb_test

import (
	"fmt"
	"slices"
	"testing"

	"granary.dev/granary/actors/kb"
)

// TestC2_FewDocumentsAndManyAreFoundAlike: what answers for a hash, a URL and an id does not
// depend on how many documents there are, on the order of changes, or on a restart.
func TestC2_FewDocumentsAndManyAreFoundAlike(t *testing.T) {
	for _, n := range []int{1, 2, 7, 8, 9, 10, 40} {
		t.Run(fmt.Sprint(n, " more"), func(t *testing.T) {
			w := active(t)
			ask := func(k *kb.KB, s kb.Source) string {
				_, id, existing, err := k.Add(kb.AddRequest{NewID: "asked", Source: s, Limits: unlimited, Now: w.now})
				if err != nil {
					t.Fatal(err)
				}
				if existing == nil {
					return ""
				}
				return id
			}
			same, page := inline(w, "same"), kb.Source{URL: "https://example.com/"}
			w.add(kb.AddRequest{ID: "b", Source: same})
			w.add(kb.AddRequest{ID: "a", Source: same, Distinct: true})
			w.add(kb.AddRequest{ID: "page", Source: page})
			for i := range n {
				w.add(kb.AddRequest{ID: fmt.Sprint("more-", i), Source: inline(w, fmt.Sprint(i))})
			}
			want := func(hash, url string, ids int) {
				t.Helper()
				for name, k := range map[string]*kb.KB{"as it is": w.k, "folded": w.fold(), "restored": w.restored()} {
					if h, u := ask(k, same), ask(k, page); h != hash || u != url || k.Len() != ids {
						t.Errorf("%s: %q has the bytes, %q the page, %d documents", name, h, u, k.Len())
					}
					all := slices.Collect(k.All)
					if len(all) != ids || !slices.IsSortedFunc(all, func(a, b *kb.Document) int { return int(a.CreatedSeq - b.CreatedSeq) }) {
						t.Errorf("%s: %d documents, or out of order", name, len(all))
					}
					for _, d := range all {
						if k.Document(d.ID) != d {
							t.Errorf("%s: %s is not found", name, d.ID)
						}
					}
					if k.Document("nobody") != nil || k.Document("") != nil {
						t.Errorf("%s: somebody who is not there", name)
					}
				}
			}
			end := func(id string) {
				w.do([]kb.Event{&kb.DocumentDeleteRequested{ID: id}}, nil)
			}
			want("b", "page", n+3)
			end("b") // the next oldest has it
			want("a", "page", n+3)
			w.do([]kb.Event{&kb.DocumentDeleted{ID: "b"}}, nil)
			want("a", "page", n+2)
			end("page")
			want("a", "", n+2)
			for i := range n { // and back to few
				end(fmt.Sprint("more-", i))
				w.do([]kb.Event{&kb.DocumentDeleted{ID: fmt.Sprint("more-", i)}}, nil)
			}
			want("a", "", 2)
		})
	}
}
