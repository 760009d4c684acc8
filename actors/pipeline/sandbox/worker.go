package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/parse"
)

// parseFunc parses one source.
type parseFunc func(ctx context.Context, in parse.Input) (*pipeline.Parsed, error)

// WorkerMain is the main function of a worker process: it confines the process,
// then answers jobs read from in on out until in ends. Nothing else may write
// to out. It must run in a process of its own: its limits are for good.
func WorkerMain(ctx context.Context, in io.Reader, out io.Writer) error {
	return workerMain(ctx, in, out, func(h hello) (parseFunc, func() error) {
		p := parse.New(parse.Options{CacheDir: h.CacheDir})
		return p.Parse, p.Close
	})
}

// workerMain is WorkerMain for any parser.
func workerMain(ctx context.Context, in io.Reader, out io.Writer, open func(hello) (parseFunc, func() error)) error {
	r := bufio.NewReaderSize(in, 64<<10)
	w := bufio.NewWriterSize(out, 64<<10)
	var h hello
	if err := readJSON(r, &h); err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	// The collector is told of less than the kernel grants: it needs room to
	// run, and the code of the PDF module is not on its heap.
	debug.SetMemoryLimit(h.MemoryBytes / 4 * 3)
	if err := confine(h); err != nil {
		return fmt.Errorf("confine worker: %w", err)
	}
	run, closeParser := open(h)
	err := serve(ctx, r, w, run)
	return errors.Join(err, closeParser())
}

// serve answers jobs until the input ends.
func serve(ctx context.Context, r *bufio.Reader, w *bufio.Writer, run parseFunc) error {
	for {
		var j jobFrame
		if err := readJSON(r, &j); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		parsed, err := runJob(ctx, r, j, run)
		if err := writeAnswer(w, j.ID, parsed, err); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
}

// runJob reads the source of a job and parses it.
func runJob(ctx context.Context, r io.Reader, j jobFrame, run parseFunc) (*pipeline.Parsed, error) {
	in := parse.Input{Name: j.Name, MediaType: j.MediaType, Size: j.Size, Limits: j.Limits}
	if j.Path == "" {
		data := make([]byte, j.Size)
		if _, err := io.ReadFull(r, data); err != nil {
			return nil, fmt.Errorf("read source: %w", err)
		}
		in.Data = bytes.NewReader(data)
		return run(ctx, in)
	}
	f, err := os.Open(j.Path)
	if err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	in.Data = f
	out, err := run(ctx, in)
	return out, errors.Join(err, f.Close())
}
