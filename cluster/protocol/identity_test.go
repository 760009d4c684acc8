package protocol_test

import (
	"errors"
	"strings"
	"testing"

	"granary.dev/granary/cluster/protocol"
)

func TestIdentityAcceptsOnlyUnambiguousAddresses(t *testing.T) {
	good := protocol.Identity{Kind: "kb", Tenant: "acme", ID: "handbook"}
	cases := map[string]struct {
		edit func(*protocol.Identity)
		ok   bool
	}{
		"plain":            {func(*protocol.Identity) {}, true},
		"uuid":             {func(id *protocol.Identity) { id.ID = "0198c3f0-7e5a-7bd4-9a21-0f2d7c8e1a44" }, true},
		"mail-like tenant": {func(id *protocol.Identity) { id.Tenant = "a+b@example.com" }, true},
		"longest id":       {func(id *protocol.Identity) { id.ID = strings.Repeat("x", protocol.MaxIDLength) }, true},
		"empty kind":       {func(id *protocol.Identity) { id.Kind = "" }, false},
		"empty tenant":     {func(id *protocol.Identity) { id.Tenant = "" }, false},
		"empty id":         {func(id *protocol.Identity) { id.ID = "" }, false},
		"kind in capitals": {func(id *protocol.Identity) { id.Kind = "KB" }, false},
		"kind from digit":  {func(id *protocol.Identity) { id.Kind = "1kb" }, false},
		"slash in tenant":  {func(id *protocol.Identity) { id.Tenant = "acme/kb" }, false},
		"slash in id":      {func(id *protocol.Identity) { id.ID = "a/b" }, false},
		"blank":            {func(id *protocol.Identity) { id.ID = "a b" }, false},
		"control":          {func(id *protocol.Identity) { id.Tenant = "a\x00" }, false},
		"not ASCII":        {func(id *protocol.Identity) { id.ID = "käse" }, false},
		"long kind":        {func(id *protocol.Identity) { id.Kind = strings.Repeat("k", protocol.MaxKindLength+1) }, false},
		"long tenant":      {func(id *protocol.Identity) { id.Tenant = strings.Repeat("t", protocol.MaxTenantLength+1) }, false},
		"long id":          {func(id *protocol.Identity) { id.ID = strings.Repeat("i", protocol.MaxIDLength+1) }, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			id := good
			c.edit(&id)
			err := id.Validate()
			if (err == nil) != c.ok {
				t.Fatalf("Validate() = %v, want ok = %v", err, c.ok)
			}
			if err != nil && !errors.Is(err, protocol.ErrInvalidIdentity) {
				t.Fatalf("error %v does not wrap ErrInvalidIdentity", err)
			}
		})
	}
}

// The two identities differ in where the parts end, so only the separators tell
// them apart.
func TestIdentityHashSeesWhereThePartsEnd(t *testing.T) {
	a := protocol.Identity{Kind: "kb", Tenant: "ab", ID: "c"}
	b := protocol.Identity{Kind: "kb", Tenant: "a", ID: "bc"}
	if a.Hash() == b.Hash() || a.String() == b.String() {
		t.Fatalf("%v and %v are taken for the same", a, b)
	}
}

func TestIdentityHashDoesNotAllocate(t *testing.T) {
	id := protocol.Identity{Kind: "kb", Tenant: "0198c3f0-7e5a-7bd4-9a21-0f2d7c8e1a44", ID: "0198c3f0-7e5a-7bd4-9a21-0f2d7c8e1a45"}
	var sum uint64
	if n := testing.AllocsPerRun(100, func() { sum += id.Hash() }); n != 0 {
		t.Fatalf("%v allocations per hash, want 0", n)
	}
}
