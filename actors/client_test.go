package actors_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/storage/embedded"
)

// client speaks with one knowledge base as the gateway does.
type client struct {
	w  *world // of a node alone
	p  *peer  // of one of several
	t  *testing.T
	id string
}

// kb gives a client of a knowledge base that need not exist.
func (w *world) kb(id string) *client { return &client{w: w, t: w.t, id: id} }

// kb gives a client that speaks with this node.
func (p *peer) kb(id string) *client { return &client{p: p, t: p.t, id: id} }

// created creates a knowledge base by way of this node.
func (p *peer) created(id string) *client {
	p.t.Helper()
	c := p.kb(id)
	if _, err := c.create(); err != nil {
		p.t.Fatalf("create %s: %v", id, err)
	}
	return c
}

func (c *client) send(ctx context.Context, m proto.Message) (proto.Message, error) {
	if c.p != nil {
		return c.p.Ask(ctx, actors.KindKB, tenant, c.id, m)
	}
	return c.w.ask(ctx, actors.KindKB, c.id, m)
}

func (c *client) disk() *embedded.Store {
	if c.p != nil {
		return c.p.r.disk
	}
	return c.w.disk
}

// created creates a knowledge base with small chunks.
func (w *world) created(id string) *client {
	w.t.Helper()
	c := w.kb(id)
	if _, err := c.create(); err != nil {
		w.t.Fatalf("create %s: %v", id, err)
	}
	return c
}

func ptr[T any](v T) *T { return &v }

func (c *client) create() (*granaryv1.KnowledgeBase, error) {
	r, err := c.call(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Create{Create: &granaryv1.CreateKnowledgeBaseRequest{
		KnowledgeBaseId: c.id, Config: &granaryv1.Config{Chunking: &granaryv1.ChunkingConfig{
			TargetWords: ptr[int32](20), MaxWords: ptr[int32](40), OverlapSentences: ptr[int32](0)}}}}})
	return r.GetKnowledgeBase(), err
}

// call sends m and turns an error answer into an error.
func (c *client) call(m *nodev1.KnowledgeBaseCall) (*nodev1.KnowledgeBaseReply, error) {
	return c.callCtx(context.Background(), m)
}

func (c *client) callCtx(ctx context.Context, m *nodev1.KnowledgeBaseCall) (*nodev1.KnowledgeBaseReply, error) {
	if m.Header == nil {
		m.Header = &nodev1.Header{Tenant: tenant, Principal: "tester", Internal: true}
	}
	r, err := c.send(ctx, m)
	if err != nil {
		return nil, err
	}
	reply := r.(*nodev1.KnowledgeBaseReply)
	if e := reply.GetError(); e != nil {
		return nil, &kb.Error{Code: kb.Code(e.GetCode()), Reason: e.GetReason(), Message: e.GetMessage(),
			Metadata: e.GetMetadata(), RetryAfter: e.GetRetryAfter().AsDuration()}
	}
	return reply, nil
}

// keyed makes a call a keyed one.
func keyed(m *nodev1.KnowledgeBaseCall, key string) *nodev1.KnowledgeBaseCall {
	m.Header = &nodev1.Header{Tenant: tenant, Principal: "tester", Internal: true, Method: "m", IdempotencyKey: key}
	return m
}

// upload stores bytes as the gateway does before it adds a document.
func (c *client) upload(text string) *nodev1.SourceRef {
	c.t.Helper()
	w, err := c.disk().CreateBlob(context.Background(), tenant)
	if err != nil {
		c.t.Fatal(err)
	}
	defer w.Abort()
	if _, err := io.WriteString(w, text); err != nil {
		c.t.Fatal(err)
	}
	info, err := w.Commit(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	return &nodev1.SourceRef{Blob: info.ID, SizeBytes: info.Size, Sha256: info.SHA256}
}

func (c *client) addCall(id, text string) *nodev1.KnowledgeBaseCall {
	c.t.Helper()
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_AddDocument{AddDocument: &nodev1.AddDocument{
		Spec: &granaryv1.DocumentSpec{DocumentId: id, DisplayName: id + ".txt"}, Source: c.upload(text)}}}
}

func (c *client) add(id, text string) (*granaryv1.Document, error) {
	c.t.Helper()
	r, err := c.call(c.addCall(id, text))
	return r.GetAddDocument().GetDocument(), err
}

func (c *client) mustAdd(id, text string) *granaryv1.Document {
	c.t.Helper()
	d, err := c.add(id, text)
	if err != nil {
		c.t.Fatalf("add %s: %v", id, err)
	}
	return d
}

func (c *client) addURL(id, url string) error {
	_, err := c.call(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_AddDocument{AddDocument: &nodev1.AddDocument{
		Spec: &granaryv1.DocumentSpec{DocumentId: id}, Source: &nodev1.SourceRef{Url: url}}}})
	return err
}

func (c *client) get(id string) (*granaryv1.Document, error) {
	r, err := c.call(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_GetDocument{
		GetDocument: &granaryv1.GetDocumentRequest{Name: id}}})
	return r.GetDocument(), err
}

func (c *client) describe() (*granaryv1.KnowledgeBase, error) {
	r, err := c.call(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Get{Get: &granaryv1.GetKnowledgeBaseRequest{}}})
	return r.GetKnowledgeBase(), err
}

func (c *client) cancel(id string) error {
	_, err := c.call(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_CancelDocument{
		CancelDocument: &granaryv1.CancelDocumentRequest{Name: id}}})
	return err
}

func (c *client) remove(id string) error {
	_, err := c.call(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_DeleteDocument{
		DeleteDocument: &granaryv1.DeleteDocumentRequest{Name: id}}})
	return err
}

func (c *client) reprocess(id string) error {
	_, err := c.call(reprocessCall(id))
	return err
}

func reprocessCall(id string) *nodev1.KnowledgeBaseCall {
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ReprocessDocument{
		ReprocessDocument: &granaryv1.ReprocessDocumentRequest{Name: id}}}
}

func (c *client) deleteKB() error {
	_, err := c.call(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Delete{Delete: &granaryv1.DeleteKnowledgeBaseRequest{}}})
	return err
}

func (c *client) search(query string) (*granaryv1.SearchResponse, error) {
	r, err := c.call(searchCall(query, 0))
	return r.GetSearch(), err
}

func searchCall(query string, min int64) *nodev1.KnowledgeBaseCall {
	return &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Search{Search: &granaryv1.SearchRequest{
		Query: query, MinRevision: min, Retrieval: &granaryv1.RetrievalConfig{TopN: ptr[int32](50)}}}}
}

// found gives id@version of each document that a query finds, best first.
func (c *client) found(query string) []string {
	c.t.Helper()
	r, err := c.search(query)
	if err != nil {
		c.t.Fatalf("search %q: %v", query, err)
	}
	return documentsOf(r)
}

func documentsOf(r *granaryv1.SearchResponse) []string {
	var out []string
	seen := make(map[string]bool)
	for _, h := range r.GetHits() {
		name := fmt.Sprintf("%s@%d", h.GetDocument()[strings.LastIndexByte(h.GetDocument(), '/')+1:], h.GetVersion())
		if !seen[name] {
			seen[name] = true
			out = append(out, name)
		}
	}
	return out
}

func (c *client) read(after int64, wait time.Duration) (*nodev1.ReadEventsResult, error) {
	return c.readAll(&nodev1.ReadEvents{AfterRevision: after, Wait: durationpb.New(wait)})
}

func (c *client) readAll(r *nodev1.ReadEvents) (*nodev1.ReadEventsResult, error) {
	reply, err := c.call(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ReadEvents{ReadEvents: r}})
	return reply.GetEvents(), err
}

// waitFor follows the events until the document is as asked.
func (c *client) waitFor(id string, want func(*granaryv1.Document) bool) *granaryv1.Document {
	c.t.Helper()
	revision, cursor := int64(0), ""
	var last *granaryv1.Document
	for range 2000 {
		d, err := c.get(id)
		if err == nil && want(d) {
			return d
		}
		last = d
		r, err := c.readAll(&nodev1.ReadEvents{AfterRevision: revision, IncludeProgress: true, ProgressCursor: cursor,
			Wait: durationpb.New(10 * time.Second)})
		if err != nil {
			time.Sleep(10 * time.Millisecond) // the bubble's time: an activation ends meanwhile
			continue
		}
		if n := len(r.GetEvents()); n > 0 {
			revision = r.GetEvents()[n-1].GetRevision()
		}
		cursor = r.GetProgressCursor()
	}
	c.t.Fatalf("document %s does not get there: %v", id, last)
	return nil
}

func (c *client) settle(id string) *granaryv1.Document {
	c.t.Helper()
	return c.waitFor(id, func(d *granaryv1.Document) bool {
		return d.GetState() >= granaryv1.DocumentState_DOCUMENT_STATE_READY && d.GetState() <= granaryv1.DocumentState_DOCUMENT_STATE_CANCELLED
	})
}

func (c *client) ready(id string) *granaryv1.Document {
	c.t.Helper()
	d := c.settle(id)
	if d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_READY {
		c.t.Fatalf("document %s ended as %v: %v", id, d.GetState(), d.GetError())
	}
	return d
}

// page makes a text of n chunks about a word.
func page(word string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s paragraph number %d", word, i)
		for j := range 21 {
			fmt.Fprintf(&b, " %sfiller%dx%d", word, i, j)
		}
		b.WriteString(".\n\n")
	}
	return b.String()
}

// unavailable checks that err tells a client to come again, with this reason.
func unavailable(t *testing.T, what string, err error, reason string) {
	t.Helper()
	e, ok := errors.AsType[*kb.Error](err)
	if !ok || e.Code != kb.CodeUnavailable || e.Reason != reason || e.RetryAfter <= 0 {
		t.Errorf("%s: got %#v, want UNAVAILABLE %s with a retry hint", what, err, reason)
	}
}

func (c *client) within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}
