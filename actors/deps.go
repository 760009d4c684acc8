package actors

import (
	"context"
	"crypto/ed25519"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/embed"
)

// The kinds of grain.
const (
	KindTenant = "tenant"
	KindKB     = "kb"
)

// Asker reaches other grains, wherever they live. Errors are *kb.Error or the
// context's.
type Asker interface {
	Ask(ctx context.Context, kind, tenant, id string, msg proto.Message) (proto.Message, error)
}

// Ownership is what this node knows of its right to the grains it hosts. It is
// asked on every call: it reads memory and never blocks.
type Ownership interface {
	// Claim is by what right this node may take a grain over; ok is false while
	// the view this node knows places it elsewhere, or the node gives up what it has.
	Claim(id journal.Identity) (c journal.Claim, ok bool)
	// Lease tells the term of the node's lease, and whether it can be relied on
	// now. A statement that was sent and answered in one term, with ok both
	// times, proves the fence it used until that term ends.
	Lease() (term uint64, ok bool)
	// Lone tells that no other node shares the store, now or later.
	Lone() bool
	// Outdated reports that the store knows a newer view than this node.
	Outdated()
}

// ParseRequest is a source to parse.
type ParseRequest struct {
	Tenant    string    // whose turn a worker takes
	Name      string    // file name, tells the type when nothing else does
	MediaType string    // declared type, "" when none
	Body      io.Reader // the bytes
	Size      int64     // their number
}

// Parser turns a source into text with structure. Errors are *pipeline.Error.
type Parser interface {
	Parse(ctx context.Context, r ParseRequest) (*pipeline.Parsed, error)
}

// Fetched tells what a URL delivered.
type Fetched struct {
	MediaType string
	FileName  string
}

// Fetcher writes what a URL delivers to w. Errors are *pipeline.Error.
type Fetcher interface {
	Fetch(ctx context.Context, url string, w io.Writer) (Fetched, error)
}

// Embedder makes vectors. Errors are *pipeline.Error.
type Embedder interface {
	Model() string
	Dims() int
	Passages(ctx context.Context, in []embed.Input) ([]pipeline.Embedding, error)
	Query(ctx context.Context, in embed.Input) ([]pipeline.QueryVector, error)
}

// Meters counts what is limited in windows of time.
type Meters interface {
	// Take counts one; the error is a *kb.Error when the limit is reached or cannot be
	// read, or the context's.
	Take(ctx context.Context, tenant string, m kb.Meter) (kb.TokenState, error)
	// Wait counts one of what can wait, and waits until there is room. waits is told until
	// when, and the zero time when it goes on. The error is the context's.
	Wait(ctx context.Context, tenant string, m kb.Meter, waits func(until time.Time)) error
}

// Deps is everything the grains of a node share.
type Deps struct {
	Node      string // name of this node, for people
	Store     journal.Store
	Blobs     journal.BlobStore
	Chunks    journal.ChunkStore
	Counters  journal.CounterStore
	Directory journal.Directory
	Shredder  Shredder // nil: nothing is encrypted
	Asker     Asker
	Owner     Ownership // nil: the node is alone
	Parser    Parser
	Fetcher   Fetcher
	Embedder  Embedder
	Slots     *Scheduler
	Meters    Meters // nil: nothing is counted
	Logger    *slog.Logger
	Receipts  journal.ReceiptStore
	// ReceiptKey signs receipts of erasures; nil: a new one, for tests.
	ReceiptKey ed25519.PrivateKey
	Tier       kb.Tier // tier of tenants nothing else is known of

	ChildrenPerKB int            // documents a knowledge base processes at a time; 0: two more than processors, at most 8
	Retry         kb.RetryPolicy // zero means kb.DefaultRetry
	Now           func() time.Time
	Jitter        func() float64 // [0, 1)

	// Gone tells that a life of a node (name#boot) can run nothing any more; nil: not known.
	Gone func(node string) bool

	places    *places
	lone      bool // no other node shares the store
	runs      *runs
	searching chan struct{} // a place per search under way

	counts *counts
}

// Grains makes the grains of one node.
type Grains struct {
	deps  *Deps
	waker *Waker
}

// Wait returns when no pipeline run is left, or with ctx's error.
func (g *Grains) Wait(ctx context.Context) error { return g.deps.runs.wait(ctx, nil) }

// BrokenChains counts loads that failed because the hash chain of the journal did not
// hold: each is a grain that serves nobody until an operator looks at it.
func (g *Grains) BrokenChains() int64 { return g.deps.counts.brokenChains.Load() }

// NewGrains fills defaults and returns the maker of grains.
func NewGrains(d Deps) *Grains {
	if d.ChildrenPerKB == 0 {
		d.ChildrenPerKB = min(8, DefaultSlots()+1)
	}
	if d.Retry == (kb.RetryPolicy{}) {
		d.Retry = kb.DefaultRetry()
	}
	if d.Now == nil {
		d.Now = func() time.Time { return time.Now().UTC() }
	}
	if d.Jitter == nil {
		d.Jitter = rand.Float64
	}
	if d.Tier == "" {
		d.Tier = kb.TierStarter
	}
	if d.Owner == nil {
		d.Owner = lone{journal.Claim{Node: d.Node}}
	}
	if d.ReceiptKey == nil {
		_, d.ReceiptKey, _ = ed25519.GenerateKey(nil)
	}
	d.lone = d.Owner.Lone()
	d.places = newPlaces(nil)
	d.runs, d.counts = newRuns(), new(counts)
	d.searching = make(chan struct{}, searchesPerCore*runtime.GOMAXPROCS(0))
	d.places.deps = &d
	return &Grains{deps: &d, waker: newWaker(&d)}
}

// searchesPerCore bounds how many searches run at a time: enough to cover their
// waits for the store.
const searchesPerCore = 8

// New makes the grain of an identity; nil for a kind it does not know.
func (g *Grains) New(kind, tenant, id string) actor.Actor {
	ident := journal.Identity{Kind: kind, Tenant: tenant, ID: id}
	switch kind {
	case KindTenant:
		return newTenantGrain(g.deps, ident)
	case KindKB:
		return newKBGrain(g.deps, ident)
	}
	return nil
}

// builtIn is the lowest configuration layer of this node.
func (d *Deps) builtIn() kb.Config { return kb.BuiltIn(d.Embedder.Model()) }

// knownModel reports whether this node offers a model.
func (d *Deps) knownModel(model string) bool { return model == d.Embedder.Model() }
