package search

import (
	"fmt"
	"math"
	"slices"
	"time"

	"granary.dev/granary/actors/pipeline"
)

// BuildSegment analyses documents and makes a segment of them. It is pure and
// meant to run outside the owner's mailbox. Errors wrap [ErrInvalidDocument] or
// [ErrInvalidVectors].
func BuildSegment(docs []SegmentDoc) (*Segment, error) {
	b := newBuilder()
	for i := range docs {
		if err := b.addDoc(&docs[i]); err != nil {
			return nil, err
		}
	}
	s := b.finish()
	if !s.orderByID() {
		return nil, fmt.Errorf("%w: two documents with one id", ErrInvalidDocument)
	}
	return s, nil
}

// WithVectors returns a segment that shares the words of s and has these vectors
// instead of its own. s must hold exactly one document; embeddings has one entry
// per chunk, as in [SegmentDoc].
func (s *Segment) WithVectors(embeddings []pipeline.Embedding) (*Segment, error) {
	if len(s.docs) != 1 {
		return nil, fmt.Errorf("%w: the segment holds %d documents, want 1", ErrInvalidVectors, len(s.docs))
	}
	if len(embeddings) != len(s.lengths) {
		return nil, fmt.Errorf("%w: %d embeddings for %d chunks", ErrInvalidVectors, len(embeddings), len(s.lengths))
	}
	var v vectorBuilder
	v.reserve(embeddings)
	for i := range embeddings {
		if err := v.add(uint32(i), &embeddings[i]); err != nil {
			return nil, err
		}
	}
	out := *s
	out.vectors = v.finish()
	return &out, nil
}

// occurrence says that a term occurs in a chunk; they are gathered in order of
// chunks and then sorted by term.
type occurrence struct{ term, chunk, freq uint32 }

type builder struct {
	seg     Segment
	vectors vectorBuilder
	ids     map[string]uint32            // index term → id
	stems   map[string]map[string]uint32 // language → word → id of its stem
	names   []string                     // id → index term
	hits    []occurrence

	chunk     uint32
	words     map[string]uint32 // stems of the current language
	stemmer   *stemmer
	stemmers  map[string]*stemmer
	freq      []uint32 // id → frequency in the current chunk
	touched   []uint32 // ids with a frequency
	length    int
	tokenizer tokenizer
}

func newBuilder() *builder {
	b := &builder{
		ids:      make(map[string]uint32),
		stems:    make(map[string]map[string]uint32),
		stemmers: make(map[string]*stemmer),
	}
	b.seg.docStart = []uint32{0}
	b.tokenizer.emit = b.token
	return b
}

func (b *builder) addDoc(d *SegmentDoc) error {
	switch {
	case d.ID == "":
		return fmt.Errorf("%w: no id", ErrInvalidDocument)
	case len(b.seg.lengths)+len(d.Chunks) > MaxSegmentChunks:
		return fmt.Errorf("%w: more than %d chunks", ErrInvalidDocument, MaxSegmentChunks)
	case d.Embeddings != nil && len(d.Embeddings) != len(d.Chunks):
		return fmt.Errorf("%w: %d embeddings for %d chunks", ErrInvalidVectors, len(d.Embeddings), len(d.Chunks))
	}
	b.seg.docs = append(b.seg.docs, metaOf(d))
	for i := range d.Chunks {
		c := &d.Chunks[i]
		b.addChunk(d, c)
		if d.Embeddings != nil {
			if err := b.vectors.add(b.chunk, &d.Embeddings[i]); err != nil {
				return err
			}
		}
		b.chunk++
	}
	b.seg.docStart = append(b.seg.docStart, b.chunk)
	return nil
}

func metaOf(d *SegmentDoc) docMeta {
	m := docMeta{
		id: d.ID, version: d.Version, attempt: d.Attempt, name: d.Name, title: d.Title,
		mediaType: d.MediaType, language: d.Language, created: nanos(d.Created),
	}
	for k, v := range d.Metadata {
		m.metadata = append(m.metadata, pair{k, v})
	}
	slices.SortFunc(m.metadata, func(a, b pair) int {
		if a.key < b.key {
			return -1
		}
		return 1 // keys of a map differ
	})
	return m
}

// nanos is a time in Unix nanoseconds, 0 for the zero time, clamped to what an
// int64 holds (years 1678 to 2262).
func nanos(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Year() < 1678:
		return math.MinInt64
	case t.Year() > 2261:
		return math.MaxInt64
	}
	return t.UnixNano()
}

// addChunk counts the words of a chunk, and those of its headings and of the
// document's title once more each: they say what the chunk is about without
// repeating it. They do not count towards its length.
func (b *builder) addChunk(d *SegmentDoc, c *pipeline.Chunk) {
	language := c.Language
	if language == "" {
		language = d.Language
	}
	b.speak(language)
	b.length = 0
	b.tokenizer.run(c.Text)
	length := min(b.length, math.MaxUint16)
	for _, h := range c.Headings {
		b.tokenizer.run(h)
	}
	b.tokenizer.run(d.Title)
	for _, id := range b.touched {
		b.hits = append(b.hits, occurrence{id, b.chunk, b.freq[id]})
		b.freq[id] = 0
	}
	b.touched = b.touched[:0]
	b.seg.lengths = append(b.seg.lengths, uint16(length))
	b.seg.total += uint64(length)
	if c.Page > 0 && b.seg.pages == nil {
		b.seg.pages = make([]uint32, b.chunk)
	}
	if b.seg.pages != nil {
		b.seg.pages = append(b.seg.pages, uint32(max(0, min(c.Page, math.MaxInt32))))
	}
}

// speak changes the language of the analysis.
func (b *builder) speak(language string) {
	if words, ok := b.stems[language]; ok {
		b.words, b.stemmer = words, b.stemmers[language]
		return
	}
	b.words, b.stemmer = make(map[string]uint32), newStemmer(language)
	b.stems[language], b.stemmers[language] = b.words, b.stemmer
}

func (b *builder) token(t token) {
	if t.counted {
		b.length++
	}
	table := b.ids
	if t.stem {
		table = b.words
	}
	id, ok := table[string(t.text)]
	if !ok {
		word := string(t.text)
		if t.stem {
			id = b.id(b.stemmer.stem(word))
			b.words[word] = id
		} else {
			id = b.id(word)
		}
	}
	if b.freq[id] == 0 {
		b.touched = append(b.touched, id)
	}
	b.freq[id]++
}

func (b *builder) id(term string) uint32 {
	id, ok := b.ids[term]
	if !ok {
		id = uint32(len(b.names))
		b.ids[term] = id
		b.names = append(b.names, term)
		b.freq = append(b.freq, 0)
	}
	return id
}

// finish sorts the terms and writes their postings.
func (b *builder) finish() *Segment {
	s := b.seg
	order := make([]uint32, len(b.names))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(x, y uint32) int {
		if b.names[x] < b.names[y] {
			return -1
		}
		return 1 // names differ
	})
	byTerm, starts := b.group()
	d := termDict{offsets: make([]uint32, 1, len(order)+1), starts: make([]uint32, 1, len(order)+1)}
	for _, id := range order {
		d.blob = append(d.blob, b.names[id]...)
		d.offsets = append(d.offsets, uint32(len(d.blob)))
		list := byTerm[starts[id]:starts[id+1]]
		w := beginPostings(d.postings, len(list))
		for _, h := range list {
			w.add(h.chunk, h.freq)
		}
		d.postings = w.out
		d.starts = append(d.starts, uint32(len(d.postings)))
	}
	d.blob, d.postings = slices.Clip(d.blob), slices.Clip(d.postings)
	s.terms = d
	s.lengths, s.pages = slices.Clip(s.lengths), slices.Clip(s.pages)
	s.vectors = b.vectors.finish()
	for l := range b.stems {
		s.languages = append(s.languages, l)
	}
	slices.Sort(s.languages)
	return &s
}

// group sorts the occurrences by term, keeping the order of chunks: a counting
// sort. Those of term id are out[starts[id]:starts[id+1]].
func (b *builder) group() (out []occurrence, starts []uint32) {
	starts = make([]uint32, len(b.names)+1)
	for _, h := range b.hits {
		starts[h.term+1]++
	}
	for i := 1; i < len(starts); i++ {
		starts[i] += starts[i-1]
	}
	next := slices.Clone(starts)
	out = make([]occurrence, len(b.hits))
	for _, h := range b.hits {
		out[next[h.term]] = h
		next[h.term]++
	}
	return out, starts
}
