package uselite

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	// UnknownID is the token of whatever the vocabulary cannot spell.
	UnknownID = 0

	reservedPieces = 6        // ids 0..5 are markers and never match text
	wordMark       = '\u2581' // ▁ stands for a space and for the start of a text
)

// Piece is one entry of the vocabulary; its id is its position.
type Piece struct {
	Text  string
	Score float64 // log probability; the published vocabulary also has 0 (emoticons) and one +30
}

// Tokenizer splits text into pieces of a SentencePiece unigram vocabulary.
// It reproduces the published JavaScript tokenizer exactly, ties included,
// because the model was trained and exported together with those ids.
// It is immutable and safe for concurrent use.
type Tokenizer struct {
	pieces   []Piece
	lengths  []int // runes of each piece
	edges    map[edge]int32
	terminal []int32 // piece id that ends at a trie node, -1 for none
}

type edge struct {
	node int32
	r    rune
}

// NewTokenizer builds the trie over all pieces but the reserved ones.
func NewTokenizer(pieces []Piece) (*Tokenizer, error) {
	if len(pieces) <= reservedPieces {
		return nil, errors.New("uselite: vocabulary too small")
	}
	t := &Tokenizer{
		pieces:   pieces,
		lengths:  make([]int, len(pieces)),
		edges:    make(map[edge]int32, 3*len(pieces)),
		terminal: []int32{-1},
	}
	for id, p := range pieces {
		t.lengths[id] = utf8.RuneCountInString(p.Text)
		if t.lengths[id] == 0 {
			return nil, fmt.Errorf("uselite: piece %d is empty", id)
		}
		if id >= reservedPieces {
			t.insert(p.Text, int32(id))
		}
	}
	if t.lengths[UnknownID] != 1 {
		return nil, errors.New("uselite: the unknown piece must be one character")
	}
	return t, nil
}

func (t *Tokenizer) insert(text string, id int32) {
	var node int32
	for _, r := range text {
		next, ok := t.edges[edge{node, r}]
		if !ok {
			next = int32(len(t.terminal))
			t.terminal = append(t.terminal, -1)
			t.edges[edge{node, r}] = next
		}
		node = next
	}
	t.terminal[node] = id
}

// Size returns the number of pieces; every id is in [0, Size).
func (t *Tokenizer) Size() int { return len(t.pieces) }

// Encode returns the ids of text, none for an empty text. Time and memory are
// linear in the length of text.
func (t *Tokenizer) Encode(text string) []int {
	symbols := normalize(text)
	if len(symbols) == 0 {
		return nil
	}
	return t.backtrack(t.bestPieces(symbols))
}

// normalize applies NFKC and puts the word mark for every space and in front.
func normalize(text string) []rune {
	text = norm.NFKC.String(strings.ToValidUTF8(text, "\uFFFD"))
	if text == "" {
		return nil
	}
	symbols := make([]rune, 1, len(text)+1)
	symbols[0] = wordMark
	for _, r := range text {
		if r == ' ' {
			r = wordMark
		}
		symbols = append(symbols, r)
	}
	return symbols
}

// bestPieces returns for each position the piece that ends there on the best
// path. A position that no piece reaches keeps score 0 and the unknown piece:
// the reference does so, and 0 is better than any real score.
func (t *Tokenizer) bestPieces(symbols []rune) []int32 {
	best := make([]float64, len(symbols)+1)
	ids := make([]int32, len(symbols)+1)
	offer := func(end int, id int32, score float64) {
		// >= lets the shorter of two equal pieces win, as in the reference.
		if best[end] == 0 || score >= best[end] {
			best[end], ids[end] = score, id
		}
	}
	for start := range symbols {
		var node int32
		matched := false
		for end := start; end < len(symbols); end++ {
			next, ok := t.edges[edge{node, symbols[end]}]
			if !ok {
				break
			}
			node = next
			if id := t.terminal[node]; id >= 0 {
				matched = true
				offer(end+1, id, best[start]+t.pieces[id].Score)
			}
		}
		if !matched {
			offer(start+1, UnknownID, best[start])
		}
	}
	return ids
}

// backtrack reads the path from its end; runs of unknown collapse to one.
func (t *Tokenizer) backtrack(ids []int32) []int {
	var out []int
	wasUnknown := false
	for at := len(ids) - 1; at > 0; {
		id := int(ids[at])
		if id != UnknownID || !wasUnknown {
			out = append(out, id)
		}
		wasUnknown = id == UnknownID
		at -= t.lengths[id]
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}
