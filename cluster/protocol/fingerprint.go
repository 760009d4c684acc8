package protocol

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// algorithm names the rules of this package. Change it whenever the identity
// hash, the ring keys or the library's version change.
const algorithm = "consistent-0.10.0+xxh64+v2"

// The golden tables are smaller than the defaults: a changed library or hash
// shows in them as well, and every start of a node computes them.
const (
	goldenPartitions  = 1021
	goldenReplication = 40
)

// goldenMembers are the member sets over which the fingerprint is taken; 12
// members hold both node-1 and node-11, whose plain ring keys would meet.
var goldenMembers = [...]int{1, 2, 3, 5, 12}

// Fingerprint tells the rules of a cluster in one line:
// "algorithm/partitions/replication/load/digest". The digest covers the tables
// that this build really computes for fixed members, small ones, so that a changed library
// shows even if nobody changed the name. Two nodes may share a cluster only if
// their fingerprints are equal.
func Fingerprint(cfg TableConfig) (string, error) {
	sum := sha256.New()
	small := cfg
	small.Partitions, small.Replication = min(cfg.Partitions, goldenPartitions), min(cfg.Replication, goldenReplication)
	for _, n := range goldenMembers {
		if n > small.Partitions {
			break // a table that small exists in tests only
		}
		t, err := NewTable(small, goldenNames(n))
		if err != nil {
			return "", fmt.Errorf("fingerprint of %d members: %w", n, err)
		}
		for _, owner := range t.owners {
			_ = binary.Write(sum, binary.LittleEndian, owner) // a hash never fails
		}
	}
	_ = binary.Write(sum, binary.LittleEndian, Identity{Kind: "kb", Tenant: "acme", ID: "handbook"}.Hash())
	digest := hex.EncodeToString(sum.Sum(nil)[:16])
	return fmt.Sprintf("%s/%d/%d/%g/%s", algorithm, cfg.Partitions, cfg.Replication, cfg.Load, digest), nil
}

func goldenNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("node-%d", i+1)
	}
	return names
}
