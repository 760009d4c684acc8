// Command demo shows Granary at work on documents that are on every machine
// with Go: it starts the real binary, adds the documentation of Go and of the
// modules that Granary itself is built from, follows the processing, and asks
// questions whose answers are in those documents.
//
//	go run ./cmd/internal/demo -granary ./bin/granary
//
// It ends with code 1 unless the document with the answer is among the first
// three for at least three quarters of the questions.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
)

type options struct {
	granary string
	data    string
	keep    bool
	limit   int
}

func main() {
	var o options
	flag.StringVar(&o.granary, "granary", "./bin/granary", "the granary binary to run")
	flag.StringVar(&o.data, "data", "", "data folder of the server, kept afterwards (default a temporary one)")
	flag.BoolVar(&o.keep, "keep", false, "keep the temporary data folder")
	flag.IntVar(&o.limit, "limit", 400, "add this many documents at most")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.limit < 1 || flag.NArg() > 0 {
		return errors.New("usage: demo [-granary BIN] [-data DIR] [-keep] [-limit N], N at least 1")
	}
	files, err := findFiles(ctx, o.granary, o.limit)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return errors.New("there is no documentation under GOROOT and GOMODCACHE")
	}
	dir := o.data
	if dir == "" {
		if dir, err = os.MkdirTemp("", "granary-demo-"); err != nil {
			return err
		}
		if o.keep {
			fmt.Println("data stay in", dir)
		} else {
			defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		}
	}
	s, err := startServer(ctx, o.granary, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	fmt.Printf("granary serves on %s\n\n", s.url)
	c, err := dial(s.url, dir)
	if err != nil {
		return err
	}
	defer c.close()
	if err := ingest(ctx, c, files); err != nil {
		return err
	}
	return askAll(ctx, c, files)
}
