package search

import (
	"cmp"
	"errors"
	"slices"
	"sort"
	"time"

	"granary.dev/granary/actors/pipeline"
)

// The limits of one segment.
const (
	MaxSegmentChunks = 1 << 24 // chunks; above the largest knowledge base we serve
	MaxDims          = 4096    // dimensions of a vector
)

// Errors of [BuildSegment] and [Segment.WithVectors].
var (
	ErrInvalidDocument = errors.New("search: invalid document")
	ErrInvalidVectors  = errors.New("search: invalid vectors")
)

// SegmentDoc is one version of a document as the index wants it.
type SegmentDoc struct {
	ID        string // document id; replaces any live version with this id
	Version   int64
	Attempt   string // index attempt, repeated in each hit
	Name      string // display or file name
	Title     string
	MediaType string
	Language  string // ISO 639-1, "" when unknown
	Created   time.Time
	Metadata  map[string]string
	Chunks    []pipeline.Chunk // in order; a hit's ordinal is the position here
	// Embeddings is nil, or has one entry per chunk; an entry without vectors
	// stands for a chunk not embedded yet.
	Embeddings []pipeline.Embedding
}

// docMeta is what filters and hits need to know of a document.
type docMeta struct {
	id        string
	version   int64
	attempt   string
	name      string
	title     string
	mediaType string
	language  string
	created   int64 // Unix nanoseconds, 0 when unknown
	metadata  []pair
}

type pair struct{ key, value string }

func (d *docMeta) lookup(key string) (string, bool) {
	i, found := slices.BinarySearchFunc(d.metadata, key, func(p pair, k string) int { return cmp.Compare(p.key, k) })
	if !found {
		return "", false
	}
	return d.metadata[i].value, true
}

// Segment is an immutable piece of an index: some documents, their postings and
// their vectors. It may be shared by any number of indexes and goroutines.
type Segment struct {
	docs      []docMeta
	byID      []uint32 // indexes of docs, sorted by id
	docStart  []uint32 // chunks of document d are [docStart[d], docStart[d+1])
	pages     []uint32 // per chunk; nil when no chunk has a page
	lengths   []uint16 // per chunk, in terms
	total     uint64   // sum of lengths
	terms     termDict
	vectors   []vectorSet // ordered by space and dims, one each
	languages []string    // of the chunks, sorted, "" included
}

// Documents returns the number of documents in the segment.
func (s *Segment) Documents() int { return len(s.docs) }

// Chunks returns the number of chunks in the segment.
func (s *Segment) Chunks() int { return len(s.lengths) }

// Vectors returns the number of vectors in the segment.
func (s *Segment) Vectors() int {
	n := 0
	for i := range s.vectors {
		n += len(s.vectors[i].chunks)
	}
	return n
}

// find returns the index of the document with that id.
func (s *Segment) find(id string) (uint32, bool) {
	i := sort.Search(len(s.byID), func(i int) bool { return s.docs[s.byID[i]].id >= id })
	if i < len(s.byID) && s.docs[s.byID[i]].id == id {
		return s.byID[i], true
	}
	return 0, false
}

// docOf returns the document that holds a chunk.
func (s *Segment) docOf(chunk uint32) uint32 {
	// The first document that starts after the chunk, minus one; documents
	// without chunks share their start with the next one.
	return uint32(sort.Search(len(s.docs), func(i int) bool { return s.docStart[i+1] > chunk }))
}

// orderByID fills byID; it reports whether all ids differ.
func (s *Segment) orderByID() bool {
	s.byID = make([]uint32, len(s.docs))
	for i := range s.byID {
		s.byID[i] = uint32(i)
	}
	slices.SortFunc(s.byID, func(a, b uint32) int { return cmp.Compare(s.docs[a].id, s.docs[b].id) })
	for i := 1; i < len(s.byID); i++ {
		if s.docs[s.byID[i]].id == s.docs[s.byID[i-1]].id {
			return false
		}
	}
	return true
}

// termDict maps sorted terms to posting lists.
type termDict struct {
	blob     []byte   // all terms, one after another
	offsets  []uint32 // term i is blob[offsets[i]:offsets[i+1]]
	starts   []uint32 // its postings are postings[starts[i]:starts[i+1]]
	postings []byte
}

func (d *termDict) len() int { return max(0, len(d.offsets)-1) }

func (d *termDict) term(i int) []byte { return d.blob[d.offsets[i]:d.offsets[i+1]] }

func (d *termDict) list(i int) []byte { return d.postings[d.starts[i]:d.starts[i+1]] }

// find returns the posting list of a term, nil when no chunk holds it.
func (d *termDict) find(term string) []byte {
	n := d.len()
	i := sort.Search(n, func(i int) bool { return string(d.term(i)) >= term })
	if i < n && string(d.term(i)) == term {
		return d.list(i)
	}
	return nil
}

// bytes is the memory the segment holds, in bytes, without the small change.
func (s *Segment) bytes() int64 {
	n := int64(len(s.byID)+len(s.docStart)+len(s.pages)+len(s.terms.offsets)+len(s.terms.starts)) * 4
	n += int64(len(s.lengths))*2 + int64(len(s.terms.blob)+len(s.terms.postings))
	for i := range s.vectors {
		v := &s.vectors[i]
		n += int64(len(v.high)+len(v.low)) + int64(len(v.chunks)+len(v.scales))*4
	}
	for i := range s.docs {
		d := &s.docs[i]
		n += docOverhead + int64(len(d.id)+len(d.attempt)+len(d.name)+len(d.title)+len(d.mediaType)+len(d.language))
		for _, p := range d.metadata {
			n += pairOverhead + int64(len(p.key)+len(p.value))
		}
	}
	return n + segmentOverhead
}

// Sizes of the fixed parts on a 64-bit machine.
const (
	docOverhead     = 136
	pairOverhead    = 32
	segmentOverhead = 320
)
