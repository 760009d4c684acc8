package node

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
)

// I2: what a parser is given by way of a file is not in plain there.
func TestI2_ScratchFilesAreEncrypted(t *testing.T) {
	dir := t.TempDir()
	s, err := newScratch(dir, "x-*")
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("SECRET text of a tenant. "), 10_000)
	if n, err := s.ReadFrom(bytes.NewReader(want)); err != nil || n != int64(len(want)) {
		t.Fatal(n, err)
	}
	stored, err := os.ReadFile(s.f.Name())
	if err != nil || len(stored) != len(want) || bytes.Contains(stored, []byte("SECRET")) {
		t.Fatalf("%d bytes, in plain: %v, %v", len(stored), bytes.Contains(stored, []byte("SECRET")), err)
	}
	for range 200 {
		from := rand.IntN(len(want))
		p := make([]byte, rand.IntN(5000))
		n, err := s.ReadAt(p, int64(from))
		if n != min(len(p), len(want)-from) || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(p[:n], want[from:from+n]) {
			t.Fatalf("%d bytes at %d: %d, %v", len(p), from, n, err)
		}
	}
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Fatal(left, err)
	}
}
