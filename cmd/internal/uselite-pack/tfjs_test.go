package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const testManifest = `{"weightsManifest":[{"paths":["a","b"],"weights":[
	{"name":"x/kernel","shape":[1,2],"dtype":"float32"},
	{"name":"x/axis","shape":[],"dtype":"int32"},
	{"name":"x/bias","shape":[1],"dtype":"float32"}]}]}`

func floats(values ...float32) []byte {
	var out []byte
	for _, v := range values {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
	}
	return out
}

func TestTensorsAreReadAcrossShards(t *testing.T) {
	data := floats(1, 2, 0, 3)
	files := map[string][]byte{
		"package/dist/model.json": []byte(testManifest),
		"package/dist/a":          data[:6], // a shard may end inside a number
		"package/dist/b":          data[6:],
	}
	got, err := readTensors(files)
	if err != nil || len(got) != 2 || !slices.Equal(got["x/kernel"].values, []float32{1, 2}) {
		t.Fatalf("%v, %v", got, err)
	}
	if bias, err := got.find("bias"); err != nil || !slices.Equal(bias.values, []float32{3}) {
		t.Errorf("bias %v, %v", bias, err)
	}
	for _, suffix := range []string{"nowhere", ""} {
		if _, err := got.find(suffix); err == nil {
			t.Errorf("%q: found", suffix)
		}
	}
	for name, b := range map[string][]byte{"short": data[6:12], "long": append(slices.Clone(data[6:]), 0)} {
		files["package/dist/b"] = b
		if _, err := readTensors(files); err == nil {
			t.Errorf("%s shards: accepted", name)
		}
	}
}

// The tokenizer written in JavaScript adds a missing score as 0.
func TestVocabularyWithoutScores(t *testing.T) {
	got, err := readVocabulary([]byte(`[["a",-1.5],[":",null]]`))
	if err != nil || len(got) != 2 || got[0].Score != -1.5 || got[1].Text != ":" || got[1].Score != 0 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{``, `[[1,2]]`, `{}`} {
		if _, err := readVocabulary([]byte(bad)); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}

func TestAnotherPackageIsRefused(t *testing.T) {
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zipped)
	if err := archive.WriteHeader(&tar.Header{Name: "package/dist/model.json", Mode: 0o644, Size: int64(len(testManifest))}); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Write([]byte(testManifest)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []func() error{archive.Close, zipped.Close} {
		if err := c(); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	in, out := filepath.Join(dir, "p.tgz"), filepath.Join(dir, "weights.bin")
	if err := os.WriteFile(in, packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(options{in: in, out: out}); err == nil || !strings.Contains(err.Error(), "shards") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Error("wrote a file all the same")
	}
}
