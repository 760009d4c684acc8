package storagetest

import (
	"slices"
	"testing"

	"granary.dev/granary/actors/journal"
)

func directoryPromises() []promise {
	return []promise{{"B1_OwnersAreListedByTenantKindAndIDFilteredAndPaged", ownersListed}}
}

func ownersListed(t *testing.T, s *suite) {
	list := []journal.Identity{
		{Kind: "kb", Tenant: "acme", ID: "a"}, {Kind: "kb", Tenant: "acme", ID: "b"}, {Kind: "tenant", Tenant: "acme", ID: "acme"},
		{Kind: "kb", Tenant: "acme-2", ID: "a"}, {Kind: "kb", Tenant: "other", ID: "a"}, {Kind: "tenant", Tenant: "other", ID: "other"},
	}
	for _, id := range list {
		f, _ := s.acquire(t, id)
		s.append(t, f, 0, 2)
	}
	for what, c := range map[string]struct {
		q    journal.OwnerQuery
		want []journal.Identity
	}{
		"all":             {journal.OwnerQuery{}, list},
		"a kind":          {journal.OwnerQuery{Kind: "tenant"}, []journal.Identity{list[2], list[5]}},
		"a tenant":        {journal.OwnerQuery{Tenant: "acme"}, list[:3]},
		"both":            {journal.OwnerQuery{Tenant: "acme", Kind: "kb"}, list[:2]},
		"an unknown one":  {journal.OwnerQuery{Tenant: "acm"}, nil},
		"behind one":      {journal.OwnerQuery{After: list[3]}, list[4:]},
		"a tenant's rest": {journal.OwnerQuery{Tenant: "acme", After: list[0]}, list[1:3]},
	} {
		var got []journal.Identity
		for q := c.q; ; {
			q.Limit = 2
			page, err := s.Directory.Owners(s.ctx, q)
			must(t, err)
			if len(page) == 0 {
				break
			}
			for _, o := range page {
				got = append(got, o.Identity)
				one, err := s.Journal.Owner(s.ctx, o.Identity)
				must(t, err)
				if !one.Since.Equal(o.Since) || one.Fence != o.Fence || one.Head != o.Head || string(one.Hash) != string(o.Hash) {
					t.Fatalf("listed as %+v, but it is %+v", o, one)
				}
			}
			q.After = page[len(page)-1].Identity
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", what, got, c.want)
		}
	}
}
