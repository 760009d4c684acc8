package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"time"
)

// Writer writes one archive. It is not safe for concurrent use.
type Writer struct {
	tar      *tar.Writer
	prefix   string // before all names, for archives inside a larger one
	at       time.Time
	manifest Manifest
	names    hash.Hash // of the sources
	seen     map[string]bool
	pages    int
}

// NewWriter begins an archive with its header.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	return newWriter(tar.NewWriter(w), "", h)
}

func newWriter(t *tar.Writer, prefix string, h Header) (*Writer, error) {
	out := &Writer{tar: t, prefix: prefix, at: h.Created, names: sha256.New(), seen: make(map[string]bool), manifest: Manifest{Version: Version}}
	h.Format, h.Version = Format, Version
	return out, out.json(headerName, h)
}

// Has reports whether a source is in the archive already.
func (w *Writer) Has(sha string) bool { return w.seen[sha] }

// Source writes the bytes of a source, exactly size of them.
func (w *Writer) Source(sha string, size int64, r io.Reader) error {
	if err := w.header(sourceDir+sha, size); err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(w.tar, h), r)
	if err != nil {
		return err
	}
	if n != size || hex.EncodeToString(h.Sum(nil)) != sha {
		return fmt.Errorf("archive: source %s is not what it is said to be", sha)
	}
	w.seen[sha] = true
	w.names.Write([]byte(sha))
	w.manifest.Sources++
	w.manifest.SourceBytes += size
	return nil
}

// Documents writes a page; its sources come before it.
func (w *Writer) Documents(page []Document) error {
	var b bytes.Buffer
	for _, d := range page {
		line, err := json.Marshal(d)
		if err != nil {
			return fmt.Errorf("archive: encode document %s: %w", d.ID, err)
		}
		b.Write(line)
		b.WriteByte('\n')
	}
	w.pages++
	w.manifest.Documents += int64(len(page))
	return w.entry(pageName(w.pages), b.Bytes())
}

func pageName(n int) string { return fmt.Sprintf("%s%06d.jsonl", documentDir, n) }

// Close ends the archive with its manifest, which says how many documents were left out.
func (w *Writer) Close(erased int64) error {
	if err := w.finish(erased); err != nil {
		return err
	}
	return w.tar.Close()
}

func (w *Writer) finish(erased int64) error {
	w.manifest.Erased = erased
	w.manifest.SourceNames = hex.EncodeToString(w.names.Sum(nil))
	return w.json(manifestName, w.manifest)
}

func (w *Writer) json(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("archive: encode %s: %w", name, err)
	}
	return w.entry(name, append(data, '\n'))
}

func (w *Writer) entry(name string, data []byte) error {
	if err := w.header(name, int64(len(data))); err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	w.manifest.Entries = append(w.manifest.Entries, Entry{name, int64(len(data)), hex.EncodeToString(sum[:])})
	_, err := w.tar.Write(data)
	return err
}

func (w *Writer) header(name string, size int64) error {
	return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: w.prefix + name, Size: size, Mode: 0o644, ModTime: w.at.Truncate(time.Second), Format: tar.FormatUSTAR})
}
