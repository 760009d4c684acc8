package kb

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// Erasure is a deletion under way: who asked for it, and what it comes to.
type Erasure struct {
	By      string         `json:"by,omitempty"`
	At      time.Time      `json:"at"`
	Seq     int64          `json:"seq"` // of the event that asked
	Expired bool           `json:"expired,omitempty"`
	Garbage Garbage        `json:"garbage,omitzero"` // of a document: all there is of it
	Counts  *ErasureCounts `json:"counts,omitempty"` // nil until they are known
}

// ErasureCounts is how much an erasure removes. It is counted and committed before
// anything is removed: a crash between must not make it less.
type ErasureCounts struct {
	KnowledgeBases int64 `json:"knowledge_bases,omitempty"`
	Documents      int64 `json:"documents"`
	Chunks         int64 `json:"chunks"`
	Vectors        int64 `json:"vectors"`
	Blobs          int64 `json:"blobs"`
	Events         int64 `json:"events"`
	CachedChunks   int64 `json:"cached_chunks"`
	AccessEntries  int64 `json:"access_entries,omitempty"`
}

// Add sums counts.
func (c *ErasureCounts) Add(o ErasureCounts) {
	c.KnowledgeBases += o.KnowledgeBases
	c.Documents += o.Documents
	c.Chunks += o.Chunks
	c.Vectors += o.Vectors
	c.Blobs += o.Blobs
	c.Events += o.Events
	c.CachedChunks += o.CachedChunks
	c.AccessEntries += o.AccessEntries
}

// Events of erasures.
type (
	// DocumentErasing says how much of a document there is to remove.
	DocumentErasing struct {
		ID     string        `json:"id"`
		Counts ErasureCounts `json:"counts"`
	}
	// Erasing says how much of the knowledge base there is to remove.
	Erasing struct {
		Counts ErasureCounts `json:"counts"`
	}
)

// Type names; see [Event].
func (*DocumentErasing) Type() string { return "document.erasing" }
func (*Erasing) Type() string         { return "kb.erasing" }

// Erasure is the deletion of the knowledge base under way, or done but for the
// journal; nil when there is none.
func (k *KB) Erasure() *Erasure { return k.erasure }

// EventCount is how many events this incarnation has.
func (k *KB) EventCount() int64 { return k.revision - k.firstSeq + 1 }

// applyErasing notes how much of the knowledge base there is to remove.
func (k *KB) applyErasing(e *Erasing) error {
	if k.phase != PhaseDeleting {
		return fmt.Errorf("erasing in phase %d", k.phase)
	}
	next := Erasure{}
	if k.erasure != nil {
		next = *k.erasure
	}
	next.Counts = &e.Counts
	k.erasure = &next
	return nil
}

// applyDocErasing notes how much of a document there is to remove.
func (k *KB) applyDocErasing(seq int64, at time.Time, e *DocumentErasing) error {
	old := k.Document(e.ID)
	if old == nil || old.State != StateDeleting {
		return fmt.Errorf("document %q is not being deleted", e.ID)
	}
	d := old.clone()
	next := d.Doom()
	next.Counts = &e.Counts
	d.Erasure, d.Updated, d.UpdatedSeq = &next, at, seq
	k.replace(d)
	return nil
}

// Doom is the deletion of a document under way. One that was asked for before it
// was noted who did has nobody.
func (d *Document) Doom() Erasure {
	if d.Erasure != nil {
		return *d.Erasure
	}
	return Erasure{At: d.Updated, Seq: d.UpdatedSeq, Garbage: GarbageBetween(d, nil)}
}

// ReceiptID names the receipt of one erasure, the same each time it is asked for.
// uid is the incarnation of the knowledge base, document "" for the whole of it.
func ReceiptID(tenant, uid, document string, seq int64) string {
	h := sha256.Sum256(fmt.Appendf(nil, "granary receipt 1\x00%s\x00%s\x00%s\x00%d", tenant, uid, document, seq))
	return hex.EncodeToString(h[:16])
}
