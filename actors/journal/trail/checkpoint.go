package trail

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"granary.dev/granary/actors/journal"
)

// Head is how far a chain had come.
type Head struct {
	Chain  string `json:"chain"` // journal/kb/handbook, accesses/node#boot
	Seq    int64  `json:"seq"`
	Hash   []byte `json:"hash,omitempty"`
	Erased int64  `json:"erased,omitempty"` // what is up to there is erased, or retired
	Anchor []byte `json:"anchor,omitempty"` // of a stream: the hash at Erased, from which it goes on
}

const (
	journalPrefix  = "journal/"
	accessesPrefix = "accesses/"
)

func journalChain(id journal.Identity) string { return journalPrefix + id.Kind + "/" + id.ID }

func streamChain(stream string) string { return accessesPrefix + stream }

func sameHead(a, b Head) bool {
	return a.Chain == b.Chain && a.Seq == b.Seq && a.Erased == b.Erased && bytes.Equal(a.Hash, b.Hash)
}

// body is what a checkpoint says. Heads are those that changed since the one before;
// now and then (FullAt is the number of the last) all of them.
type body struct {
	Tenant string    `json:"tenant"`
	Number int64     `json:"number"`
	Time   time.Time `json:"time"`
	Prev   []byte    `json:"prev,omitempty"` // hash of the checkpoint before
	FullAt int64     `json:"full_at"`
	Heads  []Head    `json:"heads"`
	Chains int       `json:"chains"` // number of all chains
	// Ended are streams of which everything is retired; they are no chains any more. Those
	// that ended since the full checkpoint before are in a full one, too.
	Ended []Head `json:"ended,omitempty"`
	Base  int64  `json:"base,omitempty"` // checkpoints before it are retired
	Root  []byte `json:"root"`           // over the heads of all chains
}

// fullEvery bounds how many checkpoints are read to know all heads.
const fullEvery = 64

// heads are the heads of all chains.
type heads map[string]Head

// root hashes all heads in the order of their chains' names.
func (h heads) root() []byte {
	b := []byte("granary audit heads 1\x00")
	for _, chain := range slices.Sorted(maps.Keys(h)) {
		x := h[chain]
		b = journal.AppendField(b, chain)
		b = journal.AppendField(b, strconv.FormatInt(x.Seq, 10)+" "+strconv.FormatInt(x.Erased, 10))
		b = journal.AppendField(b, x.Hash)
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

// parseBody reads a checkpoint's body.
func parseBody(c journal.Checkpoint) (body, error) {
	var b body
	d := json.NewDecoder(bytes.NewReader(c.Body))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return b, fmt.Errorf("%w: checkpoint %d cannot be read: %w", journal.ErrCorrupt, c.Number, err)
	}
	return b, nil
}

// signed are the bytes under a checkpoint's signature.
func signed(b []byte) []byte { return append([]byte("granary audit checkpoint 1\x00"), b...) }

// hashOf is the hash of a checkpoint, which the next one names.
func hashOf(c journal.Checkpoint) []byte {
	b := []byte("granary audit checkpoint link 1\x00")
	b = journal.AppendField(b, c.Body)
	b = journal.AppendField(b, c.KeyID)
	b = journal.AppendField(b, c.Signature)
	sum := sha256.Sum256(b)
	return sum[:]
}
