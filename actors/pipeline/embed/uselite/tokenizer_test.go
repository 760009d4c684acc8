package uselite

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

func testTokenizer(t testing.TB) *Tokenizer {
	t.Helper()
	pieces, err := BuiltinVocabulary()
	if err != nil {
		t.Fatal(err)
	}
	tokenizer, err := NewTokenizer(pieces)
	if err != nil {
		t.Fatal(err)
	}
	return tokenizer
}

// sample is a text with the output of the published JavaScript program.
type sample struct {
	Text      string
	Tokens    []int
	Embedding []float32
}

func readSamples(t testing.TB, path string) []sample {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var samples []sample
	if err := json.Unmarshal(data, &samples); err != nil {
		t.Fatal(err)
	}
	if len(samples) == 0 {
		t.Fatalf("%s is empty", path)
	}
	return samples
}

// tokens.json holds what the published JavaScript tokenizer answers for odd
// spellings, other scripts, ties and the vocabulary's irregular scores.
func TestTokensEqualThePublishedTokenizer(t *testing.T) {
	tokenizer := testTokenizer(t)
	samples := append(readSamples(t, "testdata/tokens.json"), readSamples(t, "testdata/reference.json")...)
	for _, s := range samples {
		if got := tokenizer.Encode(s.Text); !slices.Equal(got, s.Tokens) {
			t.Errorf("Encode(%q)\n got %v\nwant %v", s.Text, got, s.Tokens)
		}
	}
}

func TestEmptyTextHasNoTokens(t *testing.T) {
	if got := testTokenizer(t).Encode(""); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

func TestNewTokenizerRefusesBadVocabularies(t *testing.T) {
	unnamed := make([]Piece, reservedPieces+1)
	long := slices.Repeat([]Piece{{Text: "ab"}}, reservedPieces+1)
	for name, pieces := range map[string][]Piece{"small": nil, "empty piece": unnamed, "long unknown": long} {
		if _, err := NewTokenizer(pieces); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzEncode(f *testing.F) {
	tokenizer := testTokenizer(f)
	for _, s := range []string{"", "hello world", "::)://", "\xff\xfe", "e\u0301\u0301", "日本語", "\u2581 \u2581", ":30:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ids := tokenizer.Encode(text)
		for i, id := range ids {
			if id < 0 || id >= tokenizer.Size() {
				t.Fatalf("id %d out of range", id)
			}
			if i > 0 && id == UnknownID && ids[i-1] == UnknownID {
				t.Fatal("a run of unknown was not collapsed")
			}
		}
		if !slices.Equal(ids, tokenizer.Encode(text)) {
			t.Fatal("not deterministic")
		}
		if (len(ids) == 0) != (text == "") {
			t.Fatalf("%d tokens for a text of %d bytes", len(ids), len(text))
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	tokenizer := testTokenizer(b)
	text := strings.Repeat("The quick brown fox jumps over the lazy dog. ", 12)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		tokenizer.Encode(text)
	}
}
