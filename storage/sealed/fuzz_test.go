package sealed

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"testing"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/internal/codec"
)

var discard = slog.New(slog.DiscardHandler)

// fixedIndex is a store that has one index for everybody.
type fixedIndex struct {
	Inner
	data []byte
}

func (s fixedIndex) LoadIndex(context.Context, journal.Identity) ([]byte, error) {
	return bytes.Clone(s.data), nil
}

// FuzzStoredValues reads what somebody put into the store as every kind of value: it
// never opens, and never ends the process.
func FuzzStoredValues(f *testing.F) {
	k, err := newKeys("acme", false)
	if err != nil {
		f.Fatal(err)
	}
	good, err := k.seal([]byte("a value"), place("event", "acme"), 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{codec.SealedMark, formatOne, 1, 0, 0, 0, 0})
	f.Add(append([]byte{codec.SealedMark, formatOne}, make([]byte, 60)...))
	f.Add(encodeChunk(&journal.Chunk{Hash: "h", Language: "en", Headings: []string{"a", "b"}, Text: "t"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if plain, err := k.open(b, place("event", "other")); err == nil {
			t.Fatalf("opened %x in the wrong place: %x", b, plain)
		}
		var c journal.Chunk
		if decodeChunk(&c, b) {
			var again journal.Chunk
			if !decodeChunk(&again, encodeChunk(&c)) || again.Text != c.Text || again.Hash != c.Hash || len(again.Headings) != len(c.Headings) {
				t.Fatalf("%x reads as %+v and then as %+v", b, c, again)
			}
		}
		r := newRing(&testing.T{}, &oneRow{}, true)
		r.keep(k)
		s := &Store{Inner: fixedIndex{data: b}, ring: r, own: k, failures: failures{log: discard}}
		if data, err := s.LoadIndex(context.Background(), journal.Identity{Kind: "kb", Tenant: "acme", ID: "k"}); err == nil {
			t.Fatalf("opened an index: %x", data)
		}
		frames := &frameReader{s: s, ctx: context.Background(), tenant: "acme", thing: blobPlace("acme", "b"), src: bytes.NewReader(b), left: 2}
		if data, err := io.ReadAll(frames); err == nil {
			t.Fatalf("opened a blob: %x", data)
		}
	})
}
