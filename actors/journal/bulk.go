package journal

import (
	"context"
	"io"
)

// BlobInfo tells what a stored blob is.
type BlobInfo struct {
	ID     string // UUID, assigned by the store
	Size   int64  // bytes
	SHA256 string // hex
}

// BlobWriter receives a blob's bytes. Exactly one of Commit and Abort ends it;
// Abort after Commit does nothing, so that it can be deferred.
type BlobWriter interface {
	io.Writer
	// Commit makes the blob durable and readable.
	Commit(ctx context.Context) (BlobInfo, error)
	// Abort discards what was written.
	Abort()
}

// BlobStore keeps the sources of documents, streamed, never held in memory whole.
// A blob is unclaimed until a [Batch] names it in ClaimBlobs; unclaimed blobs
// are collected when they are older than a day.
type BlobStore interface {
	CreateBlob(ctx context.Context, tenant string) (BlobWriter, error)
	// OpenBlob reads a committed blob of the tenant; ErrNotFound else.
	OpenBlob(ctx context.Context, tenant, id string) (io.ReadCloser, BlobInfo, error)
	// DeleteBlob removes it; unknown ids are no error.
	DeleteBlob(ctx context.Context, tenant, id string) error
	// ClaimedBlobs lists up to limit blobs that belong to the grain, in the order of
	// their ids, those after the id given; of an identity with a tenant only, the
	// tenant's blobs that nobody has claimed.
	ClaimedBlobs(ctx context.Context, id Identity, after string, limit int) ([]string, error)
}

// Scope is one incarnation of one knowledge base. UID is new each time a
// knowledge base is created, so that a recreated one never sees old rows.
type Scope struct {
	Tenant string
	UID    string
}

// Attempt is one run of the pipeline over one version of a document. Rows of an
// attempt become visible to readers only by the journal event that commits it.
type Attempt struct {
	Scope
	Document string
	Version  int64
	ID       string // UUID of the attempt
}

// Chunk is a stored chunk.
type Chunk struct {
	Ordinal  int
	Text     string
	Start    int // byte offsets into the document's extracted text
	End      int
	Page     int
	Headings []string
	Language string
	Kind     uint8
	Hash     string // SHA-256 in hex of the text that is embedded: the checkpoint key
	Model    string // embedding model id its vectors were made with, "" when none yet
}

// ChunkRef names one chunk of an attempt.
type ChunkRef struct {
	Attempt string
	Ordinal int
}

// Vectors is the embedding of one chunk hash under one model: windows × dims.
type Vectors struct {
	Hash   string
	Space  uint8
	Data   [][]float32
	Sealed []byte // in place of Data, between a layer that encrypts and the store below it
}

// ChunkStore keeps chunks and vectors. Vectors are keyed by (scope, model,
// chunk hash): they are the embedding checkpoint, shared by all attempts of a
// knowledge base, so that a crash or a new version repeats no finished chunk.
type ChunkStore interface {
	// PutChunks writes all chunks of an attempt, replacing what that attempt had.
	// f is the fence of the knowledge base: ErrFenced when it is stale, and then
	// no row is left.
	PutChunks(ctx context.Context, f Fence, a Attempt, chunks []Chunk) error
	// Chunks reads an attempt's chunks with Ordinal > after, in order, up to limit.
	Chunks(ctx context.Context, s Scope, attempt string, after, limit int) ([]Chunk, error)
	// ChunksByRef reads the chunks named, in the order asked; unknown ones are left out of the map.
	ChunksByRef(ctx context.Context, s Scope, refs []ChunkRef) (map[ChunkRef]Chunk, error)
	// CountChunks counts an attempt's chunks, and those of them whose hash has vectors under model.
	CountChunks(ctx context.Context, s Scope, attempt, model string) (chunks, embedded int, err error)
	// PutVectors stores vectors; existing hashes are kept as they are. Fenced as
	// PutChunks.
	PutVectors(ctx context.Context, f Fence, s Scope, model string, v []Vectors) error
	// VectorsByHash returns the vectors known for these hashes.
	VectorsByHash(ctx context.Context, s Scope, model string, hashes []string) (map[string]Vectors, error)
	// DeleteAttempts removes the chunks of these attempts and the vectors that
	// no remaining chunk of the scope refers to. Returns the number of chunks removed.
	DeleteAttempts(ctx context.Context, s Scope, attempts []string) (int, error)
	// DeleteScope removes every chunk and vector of the scope. It first waits for
	// writes of an earlier owner that have begun, so that none comes after it.
	DeleteScope(ctx context.Context, s Scope) (chunks, vectors int, err error)
	// CountAttempts counts the chunks that DeleteAttempts of these would remove, and
	// the vectors; of the whole scope when attempts is nil.
	CountAttempts(ctx context.Context, s Scope, attempts []string) (chunks, vectors int, err error)
	// AttemptsOf lists the attempts that have chunk rows in the scope, for
	// collection. It waits for writes under way as DeleteScope does.
	AttemptsOf(ctx context.Context, s Scope) ([]Attempt, error)
}
