package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	knowledgeBase = "documentation"
	uploads       = 4        // at a time
	uploadPart    = 64 << 10 // bytes of one message
	uploadTries   = 5
	// ingestWithin bounds the whole ingestion, however slow the machine.
	ingestWithin = 20 * time.Minute
)

// ingest adds the files, waits until all rest, and says how fast that was.
func ingest(ctx context.Context, c *client, files []file) error {
	ctx, cancel := context.WithTimeout(ctx, ingestWithin)
	defer cancel()
	_, err := c.kbs.CreateKnowledgeBase(ctx, &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: knowledgeBase,
		DisplayName: "Documentation on this machine"})
	if err != nil && connect.CodeOf(err) != connect.CodeAlreadyExists {
		return fmt.Errorf("create the knowledge base: %w", err)
	}
	var bytes int64
	for _, f := range files {
		bytes += f.size
	}
	fmt.Printf("adding %d documents, %.1f MB\n", len(files), float64(bytes)/1e6)
	t := newTracker(len(files))
	start := time.Now()
	// Once all rest, or with the first error, watching and adding both end.
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	watched := make(chan error, 1)
	go func() { watched <- t.watch(watching, c) }()
	addErr := addAll(watching, stopWatching, c, files, t)
	if addErr != nil {
		stopWatching()
	}
	watchErr := <-watched
	switch {
	case addErr != nil:
		return addErr
	case watchErr != nil:
		return fmt.Errorf("follow the processing: %w", watchErr)
	}
	t.summary(time.Since(start), bytes)
	return nil
}

// addAll uploads the files, some at a time.
func addAll(ctx context.Context, cancel context.CancelFunc, c *client, files []file, t *tracker) error {
	next := make(chan file)
	var wg sync.WaitGroup
	var once sync.Once
	var first error
	for range uploads {
		wg.Go(func() {
			for f := range next {
				doc, err := addWithRetry(ctx, c, f)
				if err != nil {
					once.Do(func() { first = fmt.Errorf("add %s: %w", f.name, err); cancel() })
					continue
				}
				t.expect(f.name, doc)
			}
		})
	}
	for _, f := range files {
		next <- f
	}
	close(next)
	wg.Wait()
	return first
}

// addWithRetry repeats what the server asks to repeat; the request id makes
// that safe.
func addWithRetry(ctx context.Context, c *client, f file) (*granaryv1.Document, error) {
	for try := 1; ; try++ {
		doc, err := add(ctx, c, f)
		if err == nil || try == uploadTries {
			return doc, err
		}
		switch connect.CodeOf(err) {
		case connect.CodeUnavailable, connect.CodeResourceExhausted:
		default:
			return nil, err
		}
		select {
		case <-time.After(time.Duration(try) * 200 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// add streams one file.
func add(ctx context.Context, c *client, f file) (*granaryv1.Document, error) {
	in, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stream, err := c.docs.UploadDocument(ctx)
	if err != nil {
		return nil, err
	}
	err = stream.Send(&granaryv1.UploadDocumentRequest{Part: &granaryv1.UploadDocumentRequest_Spec{Spec: &granaryv1.DocumentSpec{
		KnowledgeBase: knowledgeBase, DisplayName: f.name, RequestId: requestID(f)}}})
	part := make([]byte, uploadPart)
	for err == nil {
		n, readErr := in.Read(part)
		if n > 0 {
			err = stream.Send(&granaryv1.UploadDocumentRequest{Part: &granaryv1.UploadDocumentRequest_Data{Data: part[:n]}})
		}
		if errors.Is(readErr, io.EOF) {
			break
		}
		if readErr != nil {
			return nil, readErr
		}
	}
	// io.EOF means that the server answered early; its answer says why.
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	res, err := stream.CloseAndReceive()
	return res.GetDocument(), err
}

// requestID is the same for each try of a file.
func requestID(f file) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", f.size, f.name))
	return "demo-" + hex.EncodeToString(sum[:16])
}

// watch follows the events from the first one until every document rests. A
// broken stream is taken up after the last event.
func (t *tracker) watch(ctx context.Context, c *client) error {
	req := &granaryv1.WatchEventsRequest{KnowledgeBase: knowledgeBase, FromStart: true, Heartbeat: durationpb.New(2 * time.Second)}
	for broken := 0; ; {
		got, err := t.follow(ctx, c, req)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case got:
			broken = 0
		}
		if broken++; broken > uploadTries {
			return err
		}
	}
}

// follow reads one stream; nil when all documents rest.
func (t *tracker) follow(ctx context.Context, c *client, req *granaryv1.WatchEventsRequest) (got bool, err error) {
	stream, err := c.events.WatchEvents(ctx, req)
	if err != nil {
		return false, err
	}
	defer func() { _ = stream.Close() }()
	for {
		m, err := stream.Receive()
		if err != nil {
			return got, err
		}
		got = true
		if token := m.GetResumeToken(); token != "" {
			req.ResumeToken, req.FromStart = token, false
		}
		// A heartbeat looks too: documents that were there before bring no event.
		if t.seen(m.GetEvent()) {
			return true, nil
		}
	}
}
