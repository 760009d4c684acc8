package search

import (
	"context"
	"encoding/binary"
	"math"
)

// The parameters of BM25.
const (
	bm25K1 = 1.2
	bm25B  = 0.75
)

// wordTerm is a query word with its posting lists. Its forms in several
// languages count as one word: one idf from the sum of their frequencies.
type wordTerm struct {
	queryTerm
	df    int
	idf   float64
	lists []wordList
}

type wordList struct {
	seg  int
	list []byte
}

// accumulator holds one score per chunk of a view and the list of those that
// have one, so that choosing and clearing cost what was found and not the size of
// the index. All scores are zero between uses.
type accumulator struct {
	scores  []float32
	touched []uint32 // chunks with a score are touched[:n]; one longer than scores
	n       int
}

func (s *shared) accumulator(chunks int) *accumulator {
	a, _ := s.scores.Get().(*accumulator)
	if a == nil || cap(a.scores) < chunks {
		room := chunks + chunks/4
		a = &accumulator{scores: make([]float32, room), touched: make([]uint32, room+1)}
	}
	a.scores = a.scores[:chunks]
	a.touched = a.touched[:chunks+1]
	return a
}

// release zeroes what was written and gives the accumulator back.
func (s *shared) release(a *accumulator) {
	for _, c := range a.touched[:a.n] {
		a.scores[c] = 0
	}
	a.n = 0
	s.scores.Put(a)
}

// lookUp finds the posting lists of the words and their idf.
func (v *View) lookUp(words []queryTerm) (terms []wordTerm, postings int) {
	terms = make([]wordTerm, 0, len(words))
	for _, w := range words {
		t := wordTerm{queryTerm: w}
		for i := range v.segs {
			for _, form := range w.forms {
				if list := v.segs[i].seg.terms.find(form); list != nil {
					t.lists = append(t.lists, wordList{i, list})
					t.df += postingCount(list)
				}
			}
		}
		postings += t.df
		t.df = min(t.df, v.chunks)
		t.idf = idf(t.df, v.chunks)
		terms = append(terms, t)
	}
	return terms, postings
}

// idf is the inverse document frequency of BM25, always above 0.
func idf(df, n int) float64 {
	return math.Log(1 + (float64(n-df)+0.5)/(float64(df)+0.5))
}

// bound is the highest score that any chunk can reach: Σ(idf·(k1+1)).
func bound(terms []wordTerm) float64 {
	sum := 0.0
	for i := range terms {
		sum += terms[i].idf * (bm25K1 + 1)
	}
	return sum
}

// scoreWords adds the BM25 of every chunk to a.
func (v *View) scoreWords(ctx context.Context, terms []wordTerm, a *accumulator) error {
	average := 1.0
	if v.total > 0 {
		average = float64(v.total) / float64(v.chunks)
	}
	fixed, perTerm := float32(bm25K1*(1-bm25B)), float32(bm25K1*bm25B/average)
	for i := range terms {
		weight := float32(terms[i].idf * (bm25K1 + 1))
		for _, l := range terms[i].lists {
			if err := ctx.Err(); err != nil {
				return err
			}
			s := &v.segs[l.seg]
			scorer{
				into: a, base: s.base, lengths: s.seg.lengths,
				weight: weight, fixed: fixed, perTerm: perTerm,
			}.add(l.list)
		}
	}
	return nil
}

// scorer adds one posting list to the scores of a segment.
type scorer struct {
	into                   *accumulator
	base                   uint32
	lengths                []uint16 // of the segment's chunks
	weight, fixed, perTerm float32
}

// add reads the list as postingReader does, by hand: this is the inner loop of
// every search by words.
func (s scorer) add(list []byte) {
	n, size := binary.Uvarint(list)
	list = list[size:]
	lengths := s.lengths
	scores := s.into.scores[s.base:][:len(lengths)]
	touched, found := s.into.touched, s.into.n
	chunk := -1
	for at := 0; n > 0; n-- {
		v := uint64(list[at])
		at++
		if v >= 0x80 {
			v, size = binary.Uvarint(list[at-1:])
			at += size - 1
		}
		chunk += int(v>>1) + 1
		frequency := float32(1)
		if v&1 != 0 {
			f, size := binary.Uvarint(list[at:])
			at += size
			frequency = float32(f + 2)
		}
		score := scores[chunk]
		touched[found] = s.base + uint32(chunk)
		if score == 0 {
			found++
		}
		scores[chunk] = score + s.weight*frequency/(frequency+s.fixed+s.perTerm*float32(lengths[chunk]))
	}
	s.into.n = found
}

// bestWords returns the limit best chunks that are allowed and have a score.
func (v *View) bestWords(a *accumulator, allowed []bitmap, limit int) *topK {
	top := newTopK(limit)
	top.floor = 0
	at := 0 // the segment that the last chunk was in: lists go segment by segment
	for _, c := range a.touched[:a.n] {
		if a.scores[c] <= top.floor {
			continue
		}
		if s := &v.segs[at]; c < s.base || int(c-s.base) >= s.seg.Chunks() {
			at = v.segmentAt(c)
		}
		if allowed[at] == nil || allowed[at].has(c-v.segs[at].base) {
			top.offer(scored{score: a.scores[c], chunk: c})
		}
	}
	return top
}
