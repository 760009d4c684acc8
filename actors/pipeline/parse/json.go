package parse

import (
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"

	"granary.dev/granary/actors/pipeline"
)

// parseJSON flattens JSON into "path: value" lines. A record is a paragraph: an
// element of the outermost array, a member of the outermost object that is
// itself an object or array, or one value of JSON Lines.
func (j *job) parseJSON(t decoded) (*pipeline.Parsed, error) {
	dec := json.NewDecoder(strings.NewReader(t.text))
	dec.UseNumber()
	w := &jsonWalk{job: j, dec: dec, b: j.newBuilder()}
	values := 0
	for ; ; values++ {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, jsonError(err)
		}
		if err := w.value(tok, 0, ""); err != nil {
			return nil, err
		}
		if err := w.flush(); err != nil {
			return nil, err
		}
	}
	mediaType := typeJSON
	if values > 1 {
		mediaType = typeJSONL
	}
	out := w.b.done(mediaType)
	out.Charset, out.Warnings, out.Title = t.charset, t.warnings, w.title
	return out, nil
}

func jsonError(err error) error {
	return fail(ReasonMalformed, "the JSON is not valid", err)
}

// jsonWalk flattens values token by token, so that no tree is built.
type jsonWalk struct {
	job    *job
	dec    *json.Decoder
	b      *builder
	record strings.Builder
	title  string
	count  int
}

// value handles one value, whose first token has been read.
func (w *jsonWalk) value(tok json.Token, depth int, path string) error {
	if w.count++; w.count%4096 == 0 {
		if err := w.job.alive(); err != nil {
			return err
		}
	}
	switch t := tok.(type) {
	case json.Delim:
		if depth >= w.job.lim.Depth {
			return tooDeep(w.job.lim)
		}
		// At the top, what follows a container is another record.
		if depth == 1 {
			if err := w.flush(); err != nil {
				return err
			}
		}
		var err error
		if t == '{' {
			err = w.object(depth, path)
		} else {
			err = w.array(depth, path)
		}
		if err == nil && depth == 1 {
			err = w.flush()
		}
		return err
	case string:
		if depth == 1 && path == "title" {
			w.title = collapse(stripControl(t))
		}
		return w.line(path, t)
	case json.Number:
		return w.line(path, t.String())
	case bool:
		return w.line(path, strconv.FormatBool(t))
	}
	return nil // null says nothing
}

func (w *jsonWalk) object(depth int, path string) error {
	for w.dec.More() {
		key, err := w.dec.Token()
		if err != nil {
			return jsonError(err)
		}
		name, _ := key.(string)
		tok, err := w.dec.Token()
		if err != nil {
			return jsonError(err)
		}
		sep := "."
		if path == "" {
			sep = ""
		}
		name = joinPath(path, sep, name)
		if err := w.value(tok, depth+1, name); err != nil {
			return err
		}
	}
	return w.closing()
}

func (w *jsonWalk) array(depth int, path string) error {
	for i := 0; w.dec.More(); i++ {
		tok, err := w.dec.Token()
		if err != nil {
			return jsonError(err)
		}
		name := path
		if depth > 0 {
			name = joinPath(path, "[", strconv.Itoa(i)+"]")
		}
		if err := w.value(tok, depth+1, name); err != nil {
			return err
		}
	}
	return w.closing()
}

func (w *jsonWalk) closing() error {
	if _, err := w.dec.Token(); err != nil {
		return jsonError(err)
	}
	return nil
}

// joinPath extends a path, keeping its end when it grows long: a hostile file
// could make it longer with every level and repeat it for every value.
func joinPath(path, sep, name string) string {
	const maxPath = 512
	if len(name) > maxPath {
		name = "…" + strings.ToValidUTF8(name[len(name)-maxPath/2:], "")
	}
	if len(path)+len(name) > maxPath {
		path = "…" + strings.ToValidUTF8(path[max(0, len(path)+len(name)-maxPath):], "")
	}
	return path + sep + name
}

// line adds one "path: value" line.
func (w *jsonWalk) line(path, value string) error {
	if value = collapse(value); value == "" {
		return nil
	}
	if w.record.Len() > 0 {
		w.record.WriteByte('\n')
	}
	if path != "" {
		w.record.WriteString(path)
		w.record.WriteString(": ")
	}
	w.record.WriteString(value)
	if w.record.Len() > w.job.lim.TextBytes {
		return textTooLarge(w.job.lim)
	}
	return nil
}

func (w *jsonWalk) flush() error {
	text := w.record.String()
	w.record.Reset()
	return w.b.paragraph(text)
}
