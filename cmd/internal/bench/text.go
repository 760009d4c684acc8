package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// words are common English ones, so that documents are taken for English.
const words = `the of and to in is that for it as with on be at by this from are or an which not have was has can but
all will one when there if more other no out up into then some only time these also been may most such where between
should must after before each any use used made make first two new data system server request response client error
message value field name type list state order number result process index query document chunk store node cluster
memory disk write read commit transaction key token signature policy tenant limit quota event history version schema
service method handler interface function argument return package module build test release configuration default
option network address connection timeout retry failure recovery backup restore replica leader member partition table
page cache buffer stream file folder path permission role account password certificate rotation expiry audit report
question answer passage sentence paragraph section heading title language translation search ranking score model
vector distance similarity embedding keyword frequency weight filter metadata annotation source citation reference`

// documents makes Markdown documents of a size; equal seeds make equal ones.
type documents struct {
	random *rand.Rand
	words  []string
	size   int
}

func newDocuments(seed uint64, size int) *documents {
	return &documents{random: rand.New(rand.NewPCG(seed, 1)), words: strings.Fields(words), size: size}
}

// marker is a word that only document n has.
func marker(n int) string { return fmt.Sprintf("marker%07d", n) }

// document makes document n: a title, sections of some paragraphs, and its
// marker in the first sentence.
func (d *documents) document(n int) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# Report %d\n\nThis report is known as %s. ", n, marker(n))
	for b.Len() < d.size {
		switch d.random.IntN(16) {
		case 0:
			b.WriteString("\n\n## " + d.sentence(4) + "\n\n")
		case 1:
			b.WriteString("\n\n")
		default:
			b.WriteString(d.sentence(8+d.random.IntN(12)) + " ")
		}
	}
	return []byte(b.String()[:d.size])
}

func (d *documents) sentence(n int) string {
	out := make([]string, n)
	for i := range out {
		// Squaring makes the first words, the common ones, frequent.
		f := d.random.Float64()
		out[i] = d.words[int(f*f*float64(len(d.words)))]
	}
	s := strings.Join(out, " ")
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
