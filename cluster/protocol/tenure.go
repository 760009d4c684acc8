package protocol

import "time"

// Tenure says since when a grain has been placed where it is: all views from
// Version to Through name the same owner.
type Tenure struct {
	Version     int64
	CommittedAt time.Time // of that view
	Through     int64     // the last view that was seen
}

// Tenures keeps the tenure of every identity as one node has seen it. Its own
// sight counts: after a view it missed, every tenure starts anew, since the grain
// may have been elsewhere in between. It never changes.
type Tenures struct {
	place     *Placement
	at        *Tenure   // of the newest view
	since     []*Tenure // by partition; partitions share them, and Through is not kept
	overrides map[string]Tenure
}

// Follow gives the tenures after v, whose placement is p. The receiver may be nil.
func (t *Tenures) Follow(v View, p *Placement) *Tenures {
	next := &Tenures{place: p, at: &Tenure{Version: v.Version, CommittedAt: v.CommittedAt}}
	next.since = make([]*Tenure, len(p.owners))
	seen := t != nil && t.at.Version+1 == v.Version && len(t.since) == len(p.owners)
	for i := range next.since {
		next.since[i] = next.at
		if seen && t.place.at(i) == p.at(i) {
			next.since[i] = t.since[i]
		}
	}
	if seen {
		next.keepOverrides(t)
	}
	return next
}

// keepOverrides notes since when tenants are on a node of their own, and since
// when those are back that were.
func (t *Tenures) keepOverrides(before *Tenures) {
	for tenant := range t.place.overrides {
		t.setOverride(tenant, *t.at)
	}
	for tenant := range before.place.overrides {
		t.setOverride(tenant, *t.at)
	}
	for tenant, since := range before.overrides {
		was, on := before.place.overrides[tenant]
		is, still := t.place.overrides[tenant]
		if on == still && was == is {
			t.setOverride(tenant, since)
		}
	}
}

func (t *Tenures) setOverride(tenant string, since Tenure) {
	if t.overrides == nil {
		t.overrides = make(map[string]Tenure)
	}
	t.overrides[tenant] = since
}

// Of gives the tenure of an identity.
func (t *Tenures) Of(id Identity) Tenure {
	since := *t.at
	if len(t.since) > 0 {
		since = *t.since[id.Hash()%uint64(len(t.since))]
	}
	if o, ok := t.overrides[id.Tenant]; ok {
		if _, on := t.place.overrides[id.Tenant]; on || o.Version > since.Version {
			since = o
		}
	}
	since.Through = t.at.Version
	return since
}
