package journal

import (
	"context"
	"errors"
	"io"
	"time"
)

// ErrKeysChanged says that a record of keys is not at the version its writer knows.
var ErrKeysChanged = errors.New("journal: the keys were changed by somebody else")

// These name records that belong to no tenant: the store's own keys, the master key
// where a key service wraps it, and, with a name behind SecretKeys, what servers keep
// secret. No tenant's name is like them.
const (
	StoreKeys  = "#store"
	MasterKeys = "#master"
	SecretKeys = "#secret:"
)

// KeyRecord is what the store keeps of a tenant's keys. It never holds a key in plain.
type KeyRecord struct {
	Tenant  string    // or one of the names above
	Version int64     // 1, 2, 3 …; goes on after a destruction
	Wrapped []byte    // keys under the master key, opaque here; empty: destroyed
	Master  string    // id of the master key that wraps them
	Primary string    // id of the key that seals
	Created time.Time // when the tenant got keys
	Rotated time.Time // when the key that seals was made
}

// Destroyed tells a record whose keys are gone for good.
func (r KeyRecord) Destroyed() bool { return r.Version > 0 && len(r.Wrapped) == 0 }

// KeyChange tells that a record was changed or destroyed.
type KeyChange struct {
	Mark      int64 // rises with each change, in the order of commits
	Tenant    string
	Version   int64
	Destroyed bool
}

// KeyStore keeps wrapped keys. What it is given and gives back is of no use without
// the master key.
type KeyStore interface {
	// Keys reads a record; ErrNotFound when there never was one. A destroyed one
	// comes back without keys.
	Keys(ctx context.Context, tenant string) (KeyRecord, error)
	// PutKeys writes r in place of version r.Version-1, 0 meaning that there is none
	// yet; ErrKeysChanged when that is not what is stored. Created stays what it was
	// unless the record was destroyed.
	PutKeys(ctx context.Context, r KeyRecord) error
	// DestroyKeys removes the keys and keeps their version, so that nobody takes the
	// next ones for them. Unknown tenants are no error.
	DestroyKeys(ctx context.Context, tenant string) error
	// ListKeys lists up to limit records after a tenant, by tenant; "" starts.
	ListKeys(ctx context.Context, after string, limit int) ([]KeyRecord, error)
	// KeyChanges lists up to limit changes and destructions after a mark, in order.
	// It is complete: what commits later has a higher mark. First writings need not
	// be told. last is the mark to go on from; a negative one asks for it alone.
	KeyChanges(ctx context.Context, after int64, limit int) (changes []KeyChange, last int64, err error)
	// HasContent tells whether anything a tenant's keys would seal is stored, of
	// tenant "" whether anything is at all: what is there before the keys are is not
	// sealed.
	HasContent(ctx context.Context, tenant string) (bool, error)
}

// SealedBlobWriter receives what a sealing layer makes of a blob.
type SealedBlobWriter interface {
	io.Writer
	// ID is what the blob will be called.
	ID() string
	// CommitSealed makes it durable. size is that of the blob itself; note is kept
	// beside it. The bytes carry their own proof, so the store hashes nothing.
	CommitSealed(ctx context.Context, size int64, note []byte) error
	// Abort is as that of [BlobWriter].
	Abort()
}

// SealedStore is what a sealing layer needs of the store below it besides its ports.
type SealedStore interface {
	CreateSealedBlob(ctx context.Context, tenant string) (SealedBlobWriter, error)
	// OpenSealedBlob gives the bytes as they are stored. note is nil for a blob that was
	// written unsealed; then info is whole and the bytes are verified as usual.
	OpenSealedBlob(ctx context.Context, tenant, id string) (body io.ReadCloser, info BlobInfo, note []byte, err error)
	// SaveIndexFrom is [Store.SaveIndex] of size bytes that are read as they are written.
	SaveIndexFrom(ctx context.Context, f Fence, r io.Reader, size int64) error
}

// SealedRow is a row with a value that a sealing layer wrote.
type SealedRow struct {
	Key  []string // names the row inside its tenant and kind; they are listed in its order
	At   []string // what the value is bound to, see the kinds
	Data []byte   // nil: sealed with the key that was asked for
}

// Kinds of rows that hold sealed values, and what their At says. Blobs and search
// indexes are larger than rows: of a blob Data is its note and the head of its first
// frame, of an index it is the head and the beginning of the first frame.
const (
	SealedEvents      = "events"       // kind, id, seq, type
	SealedSnapshots   = "snapshots"    // kind, id, seq
	SealedResponses   = "idempotency"  // kind, id, principal, method, key, expires in Unix milliseconds
	SealedDeadLetters = "dead_letters" // kind, id, key
	SealedChunks      = "chunks"       // uid, attempt, ordinal
	SealedVectors     = "vectors"      // uid, model, hash, space
)

// SealedBlob is a blob as a sealing layer wrote it.
type SealedBlob struct {
	ID   string
	Note []byte
	Head []byte // its first bytes, up to [SealedHead]
}

// SealedHead is how many of a large thing's first bytes tell its key.
const SealedHead = 64

// ResealStore lets a sealing layer write anew what it wrote before: under another key,
// the value being the same. Nothing of it needs a fence, as what a reader finds means
// the same before and after.
type ResealStore interface {
	// SealedRows lists up to limit rows of a kind after a key, nil starting; values of
	// which bytes 3 to 7 are done come without their data.
	SealedRows(ctx context.Context, tenant, kind string, done []byte, after []string, limit int) ([]SealedRow, error)
	// PutSealed writes data in place of row's; false when something else is there by now.
	PutSealed(ctx context.Context, tenant, kind string, row SealedRow, data []byte) (bool, error)
	// SealedBlobs lists up to limit blobs that have a note after an id, "" starting.
	SealedBlobs(ctx context.Context, tenant, after string, limit int) ([]SealedBlob, error)
	// PutSealedBlob writes a blob's bytes, of the same length, and its note in place of b's;
	// false when it is gone or has another note by now. Who reads it meanwhile may read
	// some bytes of before and some of after.
	PutSealedBlob(ctx context.Context, tenant string, b SealedBlob, r io.Reader, note []byte) (bool, error)
	// SealedIndexes lists up to limit search indexes after a key, with their first bytes and
	// as At kind, id and generation.
	SealedIndexes(ctx context.Context, tenant string, after []string, limit int) ([]SealedRow, error)
	// DropIndex forgets a search index if it is still of row's generation: it can be built again.
	DropIndex(ctx context.Context, tenant string, row SealedRow) error
}
