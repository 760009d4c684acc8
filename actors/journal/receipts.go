package journal

import (
	"context"
	"time"
)

// WakeErasing is the key of the one wake-up that [Store.Erase] leaves: an erasure
// that has more to do after it must not be forgotten.
const WakeErasing = "erase"

// Receipt proves that something was erased. It outlives the journal of the grain
// that wrote it, and holds ids and counts only: it is not encrypted.
type Receipt struct {
	Name          string // unique inside the tenant
	KnowledgeBase string // id of the one it is about, "" when it is about none
	// Cluster: of the tenant itself, kept for operators when nothing else of it is left.
	Cluster bool
	Time    time.Time
	Body    []byte // opaque here
}

// ReceiptRow is a receipt with the tenant it is of.
type ReceiptRow struct {
	Tenant string
	Receipt
}

// ReceiptQuery selects receipts.
type ReceiptQuery struct {
	Tenant        string // "" for all: only with Cluster, for operators
	Cluster       bool   // those kept for operators, else those of the tenant
	KnowledgeBase string // "" for all
	// After is exclusive; the zero row starts.
	After ReceiptRow
	Limit int
}

// ReceiptStore reads the receipts that batches added.
type ReceiptStore interface {
	// Receipt reads one that the tenant keeps; ErrNotFound else.
	Receipt(ctx context.Context, tenant, name string) (Receipt, error)
	// Receipts lists receipts in the order of (time, tenant, name).
	Receipts(ctx context.Context, q ReceiptQuery) ([]ReceiptRow, error)
}
