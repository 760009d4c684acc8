package search_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/search"
)

// sample is a small index with all that a snapshot holds, dead documents included.
func sample(t testing.TB) *search.Index {
	t.Helper()
	x := search.New(search.Options{})
	t.Cleanup(x.Close)
	full := search.SegmentDoc{
		ID: "full", Version: -3, Attempt: "try", Name: "n", Title: "Silo", MediaType: "text/plain", Language: "en",
		Created: time.Unix(1, 2), Metadata: map[string]string{"b": "2", "a": "1"},
		Chunks: []pipeline.Chunk{{Text: "wheat wheat rye", Page: 2}, {Text: "oats", Page: 7}},
		Embeddings: []pipeline.Embedding{
			{Vectors: [][]float32{{1, 0, 0}, {0, 1, 0}}}, {Space: pipeline.SpaceNGrams, Vectors: [][]float32{{0.6, 0.8}}},
		},
	}
	apply(t, x, search.Batch{Add: []*search.Segment{segment(t, full, in("de", "gone", "Weizen"), doc("empty", 1))}})
	apply(t, x, search.Batch{Revision: 42, Add: []*search.Segment{segment(t, in("", "plain", "wheat 粮仓", 0, 0, 1))}, Remove: []string{"gone"}})
	return x
}

func snapshot(t testing.TB, x *search.Index) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := x.View().WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("wrote %d of %d bytes: %v", n, b.Len(), err)
	}
	return b.Bytes()
}

// questions are asked of an index before and after a trip through a snapshot.
func questions(t testing.TB) []search.Query {
	f, err := search.ParseFilter(`page > 1 OR metadata.a = 1 OR created > 1970-01-01T00:00:00Z`)
	if err != nil {
		t.Fatal(err)
	}
	vectors := []pipeline.QueryVector{{Vector: []float32{.6, .8, 0}}, {Space: pipeline.SpaceNGrams, Vector: []float32{1, 0}}}
	return []search.Query{
		{Text: "wheat rye silo 粮仓 weizen", Vectors: vectors}, {Text: "oats", Vectors: vectors, Filter: f}, words("silo oats"),
	}
}

func TestA4_ASnapshotAnswersAsTheIndexItWasTakenFrom(t *testing.T) {
	x := sample(t)
	y, err := search.Load(iotest.OneByteReader(bytes.NewReader(snapshot(t, x))), search.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer y.Close()
	if y.View().Revision() != 42 || x.View().Stats() != y.View().Stats() {
		t.Errorf("revision %d, stats %+v, want %+v", y.View().Revision(), y.View().Stats(), x.View().Stats())
	}
	for i, q := range questions(t) {
		if want, got := find(t, x.View(), q), find(t, y.View(), q); fmt.Sprint(want.Hits) != fmt.Sprint(got.Hits) || len(got.Hits) == 0 {
			t.Errorf("question %d: got %v, want %v", i, got.Hits, want.Hits)
		}
	}
	if !bytes.Equal(snapshot(t, y), snapshot(t, x)) {
		t.Error("a loaded index writes another snapshot")
	}
	apply(t, y, search.Batch{Revision: 43, Add: []*search.Segment{segment(t, doc("full", 2, "spelt"))}})
	if got := ids(find(t, y.View(), words("wheat spelt")).Hits); len(got) != 2 {
		t.Errorf("after a change: %v", got)
	}
}

func TestA4_AnyFlippedOrMissingByteIsATypedError(t *testing.T) {
	good := snapshot(t, sample(t))
	for i := range good {
		for _, bad := range [][]byte{good[:i], flip(good, i, 1), flip(good, i, 0x80)} {
			if _, err := search.Load(bytes.NewReader(bad), search.Options{}); !errors.Is(err, search.ErrCorrupt) && !errors.Is(err, search.ErrVersion) {
				t.Fatalf("byte %d: %v", i, err)
			}
		}
	}
	broken := errors.New("disk")
	if _, err := search.Load(io.MultiReader(bytes.NewReader(good[:40]), iotest.ErrReader(broken)), search.Options{}); !errors.Is(err, broken) {
		t.Errorf("a failing reader: %v", err)
	}
	if _, err := sample(t).View().WriteTo(failing{broken}); !errors.Is(err, broken) {
		t.Errorf("a failing writer: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func flip(b []byte, i int, mask byte) []byte {
	out := bytes.Clone(b)
	out[i] ^= mask
	return out
}

// FuzzLoad makes the checksum right, so that the checks of structure are met.
func FuzzLoad(f *testing.F) {
	f.Add(snapshot(f, sample(f))[20:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, payload []byte) {
		data := append([]byte("GRNINDEX"), 1, 0, 0, 0)
		data = binary.LittleEndian.AppendUint64(data, uint64(len(payload)-4))
		data = append(data, payload...)
		if n := len(data) - 4; n >= 20 {
			binary.LittleEndian.PutUint32(data[n:], crc32.Checksum(data[:n], crc32.MakeTable(crc32.Castagnoli)))
		}
		x, err := search.Load(bytes.NewReader(data), search.Options{})
		if err != nil {
			if !errors.Is(err, search.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		defer x.Close()
		for _, q := range questions(t) {
			find(t, x.View(), q)
		}
		if err := x.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, q := range questions(t) {
			find(t, x.View(), q)
		}
	})
}

func TestP5_ATenThousandChunkSnapshotLoadsQuickly(t *testing.T) {
	if testing.Short() {
		t.Skip("builds 10k chunks")
	}
	data := snapshot(t, corpusIndex(t, 10_000, 512, 2))
	start := time.Now()
	x, err := search.Load(bytes.NewReader(data), search.Options{})
	took := time.Since(start)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	t.Logf("%.1f MB loaded in %v", float64(len(data))/1e6, took.Round(time.Millisecond))
	if x.View().Stats().Vectors != 20_000 {
		t.Errorf("%+v", x.View().Stats())
	}
}
