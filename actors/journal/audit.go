package journal

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
)

// The audit beside the journals. What grains change is in their journals; who asked
// for what, and was refused, is in accesses: one record per call, in streams that each
// life of a node writes. Checkpoints, signed, say how far all chains of a tenant had
// come at one moment. Records are only ever added.

// Phases of an access.
const (
	PhaseCall    = ""        // a whole call
	PhaseOpen    = "open"    // a stream was opened
	PhaseEnd     = "end"     // a stream ended
	PhaseSummary = "summary" // Count calls that were not recorded one by one
)

// Access is one record of the audit: who did what, when, from where, and what came of
// it. It holds ids only: no bodies, queries, names given by people, tokens or keys.
type Access struct {
	Tenant string // a scope, see [AuditScope]; "" when nobody was known, and of operators' calls that concern no tenant
	Stream string // the life of the node that wrote it; never ""
	Seq    int64  // 1, 2, 3 … inside the tenant's part of the stream

	Time       time.Time // when the call came
	Phase      string
	Principal  string        // subject of the credential, "" when nobody was known
	Credential string        // kind: "token", "api_key", "operator", "" none that was good
	KeyID      string        // of an API key
	Method     string        // e.g. granary.v1.SearchService/Search
	Resource   string        // e.g. knowledgeBases/handbook
	Remote     string        // address of the client
	RequestID  string        // as in the events the call caused
	Code       string        // "ok", or the answer's code, e.g. "not_found"
	Reason     string        // stable reason of an error
	Duration   time.Duration // in the server; whole microseconds
	Count      int64         // calls the record stands for: 1 but in a summary

	Hash []byte // link in the chain of (Tenant, Stream), see [LinkAccess]
}

// AccessQuery selects accesses of one tenant, in the order of time.
type AccessQuery struct {
	Tenant    string
	From, To  time.Time // To is exclusive; zero: open
	Principal string    // "" for all
	Method    string    // "" for all
	After     AccessPosition
	Limit     int
}

// AccessPosition is a place in that order. The zero value stands before the first.
type AccessPosition struct {
	Time   time.Time
	Stream string
	Seq    int64
}

// StreamHead is how far a stream of a tenant's accesses has come in the store.
type StreamHead struct {
	Stream string
	Seq    int64
	Hash   []byte
}

// AuditScope names one tenant's part of the audit. A name can be had by several tenants, one
// after the other: since is when the one before was erased, zero for the first. Where this
// file says tenant, it is a scope.
func AuditScope(tenant string, since time.Time) string {
	if since.IsZero() {
		return tenant
	}
	return tenant + scopeMark + strconv.FormatInt(since.UnixMicro(), 10)
}

// scopeMark is in no tenant's name.
const scopeMark = "@"

// ParseAuditScope is the inverse of [AuditScope].
func ParseAuditScope(scope string) (tenant string, since time.Time) {
	tenant, at, later := strings.Cut(scope, scopeMark)
	us, err := strconv.ParseInt(at, 10, 64)
	if !later || err != nil {
		return scope, time.Time{}
	}
	return tenant, time.UnixMicro(us).UTC()
}

// LaterAuditScopes is where in the order of names those of later tenants of a name begin.
func LaterAuditScopes(tenant string) string { return tenant + scopeMark }

// Checkpoint is a signed statement over all chains of a tenant.
type Checkpoint struct {
	Tenant    string
	Number    int64  // 1, 2, 3 …
	Body      []byte // what is signed, opaque here
	KeyID     string // of the key that signed it
	Signature []byte
	Hash      []byte // of body and signature, for the head of the chain of checkpoints
}

// ErrCheckpoint says that the checkpoint's number is not the next one; another node was faster.
var ErrCheckpoint = errors.New("journal: another checkpoint has that number")

// AuditStore keeps accesses and checkpoints. Errors are as those of [Store].
type AuditStore interface {
	// PutAccesses adds records, of any tenants and streams. Those of one stream come in
	// order. What is there already (by tenant, stream and seq) stays as it is, so that
	// a batch can be sent again.
	PutAccesses(ctx context.Context, list []Access) error
	// Accesses lists up to Limit records.
	Accesses(ctx context.Context, q AccessQuery) ([]Access, error)
	// StreamAccesses lists up to limit records of one stream with Seq > after, in order.
	StreamAccesses(ctx context.Context, tenant, stream string, after int64, limit int) ([]Access, error)
	// Streams lists up to limit streams of a tenant by name, those after the one given.
	Streams(ctx context.Context, tenant, after string, limit int) ([]StreamHead, error)
	// AuditTenants lists up to limit tenants that have accesses, by name, those after
	// the one given. "" is not among them.
	AuditTenants(ctx context.Context, after string, limit int) ([]string, error)
	// RetireAccesses removes up to limit records of a stream with Seq <= upTo, the first
	// ones first; left tells whether there are more.
	RetireAccesses(ctx context.Context, tenant, stream string, upTo int64, limit int) (left bool, err error)
	// DropStream forgets a stream unless its head is beyond upTo.
	DropStream(ctx context.Context, tenant, stream string, upTo int64) error
	// PutCheckpoint adds a checkpoint; ErrCheckpoint unless its number is the next.
	PutCheckpoint(ctx context.Context, c Checkpoint) error
	// CheckpointHead tells the number and hash of the last checkpoint as they were
	// noted when it was added; zero when there is none.
	CheckpointHead(ctx context.Context, tenant string) (StreamHead, error)
	// Checkpoints lists up to limit checkpoints with Number > after, in order.
	Checkpoints(ctx context.Context, tenant string, after int64, limit int) ([]Checkpoint, error)
	// RetireCheckpoints removes up to limit checkpoints with Number < below, the first ones
	// first; left tells whether there are more. The head stays.
	RetireCheckpoints(ctx context.Context, tenant string, below int64, limit int) (left bool, err error)
}
