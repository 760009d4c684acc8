package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/sandbox"
	"granary.dev/granary/cluster"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/storage/sealed"
)

// rig is one node without its gateway.
type rig struct {
	store *watchedStore
	pool  *sandbox.Pool

	node    *cluster.Node
	grains  *actors.Grains
	stopped chan struct{} // closed when the waker has ended
	cancel  context.CancelFunc
}

// rigConfig is what the measurements vary.
type rigConfig struct {
	dir       string
	embedder  actors.Embedder
	onEvent   func(journal.Identity, journal.Event) // after its commit; must be quick
	slots     *actors.Scheduler                     // nil: a new one
	trimAfter time.Duration                         // 0: never in a run
}

const never = 24 * time.Hour

// newRig opens the store and the parse pool.
func newRig(ctx context.Context, c rigConfig) (*rig, error) {
	store, err := openStore(ctx, c.dir)
	if err != nil {
		return nil, err
	}
	cache := filepath.Join(c.dir, "cache")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	pool, err := sandbox.NewPool(sandbox.Config{CacheDir: cache})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return &rig{store: &watchedStore{Store: store, onEvent: c.onEvent}, pool: pool}, nil
}

// start starts grains and their cluster node, as cmd/internal/node does.
func (r *rig) start(ctx context.Context, c rigConfig) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	ask := &asker{}
	slots := c.slots
	if slots == nil {
		slots = actors.NewScheduler(0)
	}
	r.grains = actors.NewGrains(actors.Deps{Node: "bench", Store: r.store, Blobs: r.store, Chunks: r.store, Counters: r.store, Receipts: r.store, Directory: r.store, Asker: ask,
		Parser: &parser{pool: r.pool}, Embedder: c.embedder, Slots: slots, Logger: logger, Tier: kb.TierEnterprise})
	trim := c.trimAfter
	if trim == 0 {
		trim = never
	}
	var err error
	r.node, err = cluster.New(cluster.Config{Name: "bench", Logger: logger, TrimAfter: trim, IdleTimeout: never,
		SweepInterval: 500 * time.Millisecond, DrainTimeout: 10 * time.Minute,
		Kinds: []cluster.Kind{{Name: actors.KindTenant, New: r.grains.New}, {Name: actors.KindKB, New: r.grains.New}}})
	if err != nil {
		return err
	}
	ask.node = r.node
	if err := r.node.Start(ctx); err != nil {
		return err
	}
	wakeCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.cancel, r.stopped = cancel, make(chan struct{})
	go func(waker *actors.Waker, stopped chan struct{}) {
		defer close(stopped)
		waker.Run(wakeCtx)
	}(r.grains.Waker(), r.stopped)
	return nil
}

// stop ends what start started; the grains save what they have.
func (r *rig) stop(ctx context.Context) error {
	if r.node == nil {
		return nil
	}
	r.cancel()
	<-r.stopped
	err := r.node.Stop(ctx)
	r.node = nil
	return errors.Join(err, r.grains.Wait(ctx))
}

// close ends everything; stop and pool.Close may have been called before.
func (r *rig) close(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	return errors.Join(r.stop(ctx), r.pool.Close(), r.store.Close())
}

// callKB asks a knowledge base and unwraps an error it answers.
func (r *rig) callKB(ctx context.Context, tenant, id string, m *nodev1.KnowledgeBaseCall) (*nodev1.KnowledgeBaseReply, error) {
	m.Header = &nodev1.Header{Tenant: tenant, Principal: "bench", Internal: true}
	got, err := (&asker{node: r.node}).Ask(ctx, actors.KindKB, tenant, id, m)
	if err != nil {
		return nil, err
	}
	reply, ok := got.(*nodev1.KnowledgeBaseReply)
	if !ok {
		return nil, fmt.Errorf("%T is not an answer of a knowledge base", got)
	}
	if e := reply.GetError(); e != nil {
		return nil, fmt.Errorf("%s: %s", e.GetReason(), e.GetMessage())
	}
	return reply, nil
}

func (r *rig) createKB(ctx context.Context, tenant, id string) error {
	_, err := r.callKB(ctx, tenant, id, &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Create{
		Create: &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: id}}})
	return err
}

// add uploads a document as the gateway does: the bytes into a blob, then the
// decision of the knowledge base.
func (r *rig) add(ctx context.Context, tenant, id, name string, data []byte) error {
	w, err := r.store.CreateBlob(ctx, tenant)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return err
	}
	info, err := w.Commit(ctx)
	if err != nil {
		return err
	}
	_, err = r.callKB(ctx, tenant, id, &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_AddDocument{
		AddDocument: &nodev1.AddDocument{Spec: &granaryv1.DocumentSpec{KnowledgeBase: id, DisplayName: name},
			Source: &nodev1.SourceRef{Blob: info.ID, SizeBytes: info.Size, Sha256: info.SHA256}}}})
	return err
}

func (r *rig) search(ctx context.Context, tenant, id string, req *granaryv1.SearchRequest) (*granaryv1.SearchResponse, error) {
	reply, err := r.callKB(ctx, tenant, id, &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Search{Search: req}})
	return reply.GetSearch(), err
}

// watchedStore tells of committed events.
type watchedStore struct {
	*sealed.Store
	onEvent func(journal.Identity, journal.Event)
}

// Append implements journal.Store.
func (s *watchedStore) Append(ctx context.Context, f journal.Fence, b journal.Batch) error {
	err := s.Store.Append(ctx, f, b)
	if err == nil && s.onEvent != nil {
		for _, e := range b.Events {
			s.onEvent(f.Identity, e)
		}
	}
	return err
}

// asker is the way between grains.
type asker struct{ node *cluster.Node }

// Ask implements actors.Asker. Full mailboxes are waited for by the cluster's
// own retries; what is left of them ends a measurement.
func (a *asker) Ask(ctx context.Context, kind, tenant, id string, m proto.Message) (proto.Message, error) {
	return a.node.Ask(cluster.WithSafe(ctx), cluster.Identity{Kind: kind, Tenant: tenant, ID: id}, m)
}

// parser runs parses in worker processes.
type parser struct{ pool *sandbox.Pool }

// Parse implements actors.Parser.
func (p *parser) Parse(ctx context.Context, r actors.ParseRequest) (*pipeline.Parsed, error) {
	data, err := io.ReadAll(io.LimitReader(r.Body, r.Size+1))
	if err != nil {
		return nil, err
	}
	return p.pool.Parse(ctx, sandbox.Request{Name: r.Name, MediaType: r.MediaType, Data: bytes.NewReader(data), Size: int64(len(data))})
}
