package codec

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"granary.dev/granary/actors/journal"
)

func newCodec(t testing.TB) *Codec {
	c, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestStatesComeBackAndDamageIsNoticed(t *testing.T) {
	c := newCodec(t)
	for _, in := range [][]byte{nil, []byte("short"), []byte(strings.Repeat("state ", 1000))} {
		stored, packed := c.Pack(in)
		out, err := c.Unpack(stored, packed, c.Sum(in))
		if err != nil || !bytes.Equal(in, out) {
			t.Errorf("%d bytes: %v", len(in), err)
		}
		if _, err := c.Unpack(stored, packed, c.Sum(in)+1); !errors.Is(err, journal.ErrCorrupt) {
			t.Errorf("%d bytes with another checksum: %v", len(in), err)
		}
	}
	if _, packed := c.Pack([]byte(strings.Repeat("state ", 1000))); !packed {
		t.Error("what repeats is not packed")
	}
}

func TestVectorsComeBackAndAnyFlippedByteIsNoticed(t *testing.T) {
	c := newCodec(t)
	in := [][]float32{{1, -2.5, 0}, {0.25, 3e-9, 7}}
	stored, err := c.PackVectors(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.UnpackVectors(stored)
	if err != nil || !slices.EqualFunc(in, out, slices.Equal[[]float32]) {
		t.Fatalf("%v, %v", out, err)
	}
	for i := range stored {
		bad := slices.Clone(stored)
		bad[i] ^= 0x10
		if _, err := c.UnpackVectors(bad); !errors.Is(err, journal.ErrCorrupt) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
	if _, err := c.PackVectors([][]float32{{1}, {1, 2}}); err == nil {
		t.Error("windows of two sizes are taken")
	}
}

func FuzzUnpackVectors(f *testing.F) {
	c := newCodec(f)
	good, err := c.PackVectors([][]float32{{1, 2}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := c.UnpackVectors(data); err != nil && !errors.Is(err, journal.ErrCorrupt) {
			t.Errorf("%v", err)
		}
	})
}
