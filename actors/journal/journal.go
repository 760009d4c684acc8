// Package journal is the vocabulary of durable state: one gapless, fenced
// sequence of events per grain, with its snapshots, idempotency records and
// wake-ups, and the bulk data (blobs, chunks, vectors) its events speak of.
// The grains consume these ports; the adapters below storage/ implement them
// and pass the conformance suite storage/storagetest. Standard library only.
//
// Authority: the owner row (kind, tenant, id, epoch, activation, node, head).
// Only the holder of the current (epoch, activation) can append, and an append
// moves head from exactly the value the holder knows. Invariants (design I1–I5):
//
//	I1  one (epoch, activation) can commit
//	I2  epochs only rise
//	I3  events are gapless: head = max(seq) = count(events)
//	I4  acknowledged ⇒ in the journal for ever (until erased as a whole)
//	I5  an idempotency key applies once and keeps its first response
package journal

import (
	"context"
	"errors"
	"time"
)

// Errors every implementation of [Store] reports with errors.Is.
var (
	// ErrFenced: another activation owns the grain, or head moved. The holder
	// must stop itself and its children and answer nothing.
	ErrFenced = errors.New("journal: fenced: another activation owns this grain")
	// ErrInDoubt: the commit may or may not have happened. Neither OK nor
	// failed may be answered before the journal has been read again.
	ErrInDoubt = errors.New("journal: outcome of the commit is in doubt")
	// ErrUnavailable: nothing was written; the store cannot be reached or is closed.
	ErrUnavailable = errors.New("journal: store unavailable")
	// ErrNotFound: the blob, chunk or snapshot asked for does not exist.
	ErrNotFound = errors.New("journal: not found")
	// ErrLocked: a second process holds the data folder.
	ErrLocked = errors.New("journal: data folder is in use by another process")
	// ErrNotPlaced: the store's view is not the one the claim names, or places
	// the grain on another node. Nothing was changed; look at the view again.
	ErrNotPlaced = errors.New("journal: the grain is placed elsewhere, or the view has moved on")
	// ErrHeld is wrapped by [HeldError].
	ErrHeld = errors.New("journal: the last owner may still answer reads")
	// ErrCorrupt: stored bytes do not match their checksum.
	ErrCorrupt = errors.New("journal: stored data is corrupt")
)

// Identity names a grain. Tenant is never empty: every key of every table starts with it.
type Identity struct {
	Kind   string // "tenant" or "kb"
	Tenant string
	ID     string
}

// String gives kind/tenant/id, for logs.
func (i Identity) String() string { return i.Kind + "/" + i.Tenant + "/" + i.ID }

// HeldError says for how long an acquisition must wait, unless the last owner
// releases the grain, leaves or is given up before.
type HeldError struct {
	By         string        // the node, as in [Fence]
	RetryAfter time.Duration // at most one lease
}

// Error names the holder and the time.
func (e *HeldError) Error() string { return ErrHeld.Error() + ": " + e.By }

// Unwrap gives [ErrHeld].
func (e *HeldError) Unwrap() error { return ErrHeld }

// Claim is by what right a node takes a grain over. A store that keeps a view
// of the cluster grants it only if that view is the claim's.
type Claim struct {
	Node string // name#boot; of a node that is alone, its name
	// View is the version of the view that places the grain on the node; 0 for
	// a node that is alone and keeps none.
	View int64
	// Since is the first of the views up to View that all place it there, as the
	// node has seen them, and SinceTime when it was committed, by the store's clock.
	Since     int64
	SinceTime time.Time
}

// Fence is the proof of ownership an activation holds.
type Fence struct {
	Identity   Identity
	Epoch      int64  // rises by one with each activation
	Activation string // a new UUID per activation: two activations never share one
	Node       string // the node that holds it, for operators
}

// Owner is the owner row as an operator or a taking-over node sees it.
type Owner struct {
	Fence
	Head     int64     // sequence number of the last event, 0 = none
	Released bool      // the holder gave it up
	Since    time.Time // when it was acquired
	// Hash is that of the event at Head as it was appended, byte for byte; empty if
	// that event has none. It stays when the event is erased.
	Hash []byte
	// Events up to Erased are erased; Anchor is the hash of the last of them, from
	// which the chain goes on.
	Erased int64
	Anchor []byte
	// Former: events up to there were of a former tenant of the name (see Store.EndTenant).
	Former int64
}

// Event is one entry of a grain's journal.
type Event struct {
	Seq       int64     // 1, 2, 3 … without gaps
	Time      time.Time // when it was decided, UTC
	Type      string    // stable name of the event, e.g. "document.added"
	Data      []byte    // encoded by the domain; opaque here
	Principal string    // who caused it; "system" for the grain itself
	RequestID string    // request that caused it, "" when none
	Remote    string    // address of the client that caused it, "" for the grain itself
	// Hash is the event's link in the journal's chain, see [Link]: 32 bytes, or none
	// in events of before there were chains. It is made of plaintext: a store that
	// seals the data must seal it too, in Snapshot and Owner as well. What a store is
	// given it keeps as it is.
	Hash []byte
}

// IdempotencyKey identifies a client's request inside one grain.
type IdempotencyKey struct {
	Principal string
	Method    string
	Key       string
}

// Idempotency remembers the response of a keyed request, in the same
// transaction as the events it caused.
type Idempotency struct {
	IdempotencyKey
	RequestHash string // SHA-256 in hex of the request; a different one under the same key is a misuse
	Response    []byte
	Expires     time.Time
}

// Wakeup makes unfinished work findable without the grain being active.
type Wakeup struct {
	Key string    // unique inside the grain, e.g. a document id
	Due time.Time // when the owner should act at the latest
}

// DueWakeup is a wake-up together with its grain.
type DueWakeup struct {
	Identity Identity
	Wakeup
}

// Batch is what one commit writes. All of it or nothing.
type Batch struct {
	Head         int64         // the head the holder knows; the commit moves it by len(Events)
	Events       []Event       // Seq must be Head+1 … Head+len(Events)
	Idempotency  []Idempotency // recorded with the events; the holder looks keys up before it decides, an expired record is replaced
	SetWakeups   []Wakeup      // inserted or moved
	ClearWakeups []string      // keys removed; unknown keys are no error
	ClaimBlobs   []string      // blob ids that now belong to this grain (see BlobStore)

	SetDeadLetters   []DeadLetter // inserted or replaced
	ClearDeadLetters []string     // keys removed; unknown keys are no error

	SetCounters   []Counter // inserted or replaced
	ClearCounters []string  // names removed; unknown names are no error

	AddReceipts  []Receipt // one whose name is there stays as it is
	DropReceipts bool      // those the tenant keeps go, those for operators stay
}

// DeadLetter is work that was given up, kept where an operator finds it without
// the grain being active.
type DeadLetter struct {
	Key    string    // unique inside the grain, e.g. a document id
	Name   string    // what a person calls it, e.g. the document's name
	Reason string    // stable reason, e.g. "QUARANTINED"
	Since  time.Time // when it was given up
}

// DeadLetterRow is a dead letter together with its grain.
type DeadLetterRow struct {
	Identity Identity
	DeadLetter
}

// Snapshot is a grain's state at Seq. It may lag the head; the events after it are replayed.
type Snapshot struct {
	Seq   int64
	State []byte // encoded by the domain
	Hash  []byte // of the event at Seq, from which the chain is followed; empty if it has none
	// Blank says, to a store that encrypts, that the state tells nothing of the
	// tenant: it stays readable when the tenant's keys are destroyed, so that a grain
	// can go on erasing itself and its name can be used again. It is not stored.
	Blank bool
}

// Store keeps the journals.
// Implementations are safe for concurrent use. A context that ends before the
// commit started yields its error and nothing is written; a commit that has
// started runs to its end on a context of its own.
type Store interface {
	// Acquire takes the grain over: epoch+1 and a new activation. It creates
	// the owner row of a grain never seen. Returns the head to replay to.
	// ErrNotPlaced or a *HeldError when the view does not allow it (now).
	Acquire(ctx context.Context, id Identity, c Claim) (Fence, int64, error)
	// Verify tells whether f is still the current fence; ErrFenced when not.
	// What it says was true at a moment after the call began.
	Verify(ctx context.Context, f Fence) error
	// Release gives the grain up; a stale fence is no error.
	Release(ctx context.Context, f Fence) error
	// Owner reads the owner row; ErrNotFound when the grain was never activated.
	Owner(ctx context.Context, id Identity) (Owner, error)
	// Append commits b under f. ErrFenced, ErrInDoubt or ErrUnavailable on failure.
	// A batch with no events may still carry wake-ups; the fence is checked all the same.
	Append(ctx context.Context, f Fence, b Batch) error
	// Events reads up to limit events with Seq > after, in order.
	Events(ctx context.Context, id Identity, after int64, limit int) ([]Event, error)
	// FindIdempotency looks a key up under f, in one snapshot with the check that
	// f is current; ErrFenced when it is not: a stale owner must not acknowledge
	// what its successor wrote. ok is false when the key is unknown or expired.
	FindIdempotency(ctx context.Context, f Fence, key IdempotencyKey) (rec Idempotency, ok bool, err error)
	// SaveSnapshot stores s under the fence, replacing an older one; one that is
	// older than what is stored is ignored. ErrFenced when the fence is stale.
	SaveSnapshot(ctx context.Context, f Fence, s Snapshot) error
	// LoadSnapshot returns the newest snapshot; ErrNotFound when none.
	LoadSnapshot(ctx context.Context, id Identity) (Snapshot, error)
	// SaveIndex stores the encoded search index under the fence, replacing what
	// was there; up to hundreds of MB. ErrFenced when the fence is stale.
	SaveIndex(ctx context.Context, f Fence, data []byte) error
	// LoadIndex returns the stored search index; ErrNotFound when none.
	LoadIndex(ctx context.Context, id Identity) ([]byte, error)
	// DueWakeups lists up to limit wake-ups due at now, the most overdue first.
	DueWakeups(ctx context.Context, now time.Time, limit int) ([]DueWakeup, error)
	// Erase removes everything of the grain but its owner row and its head
	// (so that epochs and sequence numbers never start again): events,
	// snapshots but one at the head, the index, idempotency records, wake-ups
	// but [WakeErasing], dead letters. Fenced.
	Erase(ctx context.Context, f Fence) error
	// EndTenant notes of every owner row of f's tenant that all there is up to its head
	// ([Owner.Former]) is of a tenant whose name others may have from now on. Fenced by f;
	// to be repeated when it fails.
	EndTenant(ctx context.Context, f Fence) error
	// DeadLetters lists up to limit dead letters of all grains in the order of
	// (tenant, kind, id, key), those after the row given; the zero row starts.
	DeadLetters(ctx context.Context, after DeadLetterRow, limit int) ([]DeadLetterRow, error)
}
