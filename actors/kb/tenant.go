package kb

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Tenant is the state of a tenant: the fold of its events. Not safe for concurrent use.
type Tenant struct {
	id       string
	tier     Tier
	config   Config
	version  int64
	revision int64
	kbs      map[string]KBEntry
}

// KBEntry is a knowledge base in its tenant's list.
type KBEntry struct {
	ID          string    `json:"id"`
	UID         string    `json:"uid"`
	DisplayName string    `json:"display_name,omitempty"`
	Created     time.Time `json:"created"`
}

// NewTenant makes the state of a tenant nothing was decided for yet.
func NewTenant(id string, tier Tier) *Tenant { return &Tenant{id: id, tier: tier} }

// ID is the tenant's id.
func (t *Tenant) ID() string { return t.id }

// Tier is the tenant's subscription.
func (t *Tenant) Tier() Tier { return t.tier }

// Config is the tenant's default configuration.
func (t *Tenant) Config() Config { return t.config }

// ConfigVersion rises with each change of the default configuration; 0 = never set.
func (t *Tenant) ConfigVersion() int64 { return t.version }

// Revision is the sequence number of the last applied event.
func (t *Tenant) Revision() int64 { return t.revision }

// Etag changes with the default configuration.
func (t *Tenant) Etag() string { return fmt.Sprintf("%s-%d", t.id, t.version) }

// Limits are those of the tier; an unknown tier has the smallest.
func (t *Tenant) Limits() Limits {
	l, ok := LimitsOf(t.tier)
	if !ok {
		l, _ = LimitsOf(TierStarter)
	}
	return l
}

// Configure decides a new default configuration.
func (t *Tenant) Configure(etag string, c Config) ([]Event, error) {
	if err := checkEtag(etag, t.Etag()); err != nil {
		return nil, err
	}
	return []Event{&TenantConfigured{Config: c, Version: t.version + 1}}, nil
}

// Register decides the listing of a knowledge base; nothing when it is listed
// under this display name.
func (t *Tenant) Register(e KBEntry) []Event {
	if old, listed := t.kbs[e.ID]; listed && old.UID == e.UID && old.DisplayName == e.DisplayName {
		return nil
	}
	return []Event{&KBRegistered{ID: e.ID, UID: e.UID, DisplayName: e.DisplayName, Created: e.Created}}
}

// Unregister decides the end of a listing; nothing when it is not listed.
func (t *Tenant) Unregister(id, uid string) []Event {
	if t.kbs[id].UID != uid || uid == "" {
		return nil
	}
	return []Event{&KBUnregistered{ID: id, UID: uid}}
}

// List gives up to limit entries with id > after, by id, and whether more follow.
func (t *Tenant) List(after string, limit int) (page []KBEntry, more bool) {
	ids := slices.Sorted(maps.Keys(t.kbs))
	at, found := slices.BinarySearch(ids, after)
	if found {
		at++
	}
	for _, id := range ids[at:] {
		if len(page) == limit {
			return page, true
		}
		page = append(page, t.kbs[id])
	}
	return page, false
}

// Apply folds one event.
func (t *Tenant) Apply(seq int64, e Event) error {
	if seq != t.revision+1 {
		return fmt.Errorf("kb: tenant event %d (%s) after revision %d: the journal has a gap", seq, e.Type(), t.revision)
	}
	switch e := e.(type) {
	case *TenantConfigured:
		t.config, t.version = e.Config, e.Version
	case *KBRegistered:
		if t.kbs == nil {
			t.kbs = make(map[string]KBEntry)
		}
		t.kbs[e.ID] = KBEntry{ID: e.ID, UID: e.UID, DisplayName: e.DisplayName, Created: e.Created}
	case *KBUnregistered:
		delete(t.kbs, e.ID)
	default:
		return fmt.Errorf("kb: event %d (%s) is not a tenant's", seq, e.Type())
	}
	t.revision = seq
	return nil
}

type tenantImage struct {
	Format   int       `json:"format"`
	Config   Config    `json:"config,omitzero"`
	Version  int64     `json:"version,omitempty"`
	Revision int64     `json:"revision"`
	KBs      []KBEntry `json:"kbs,omitempty"`
}

// Freeze captures the state for encoding; see [KB.Freeze].
func (t *Tenant) Freeze() func() ([]byte, error) {
	im := tenantImage{Format: imageFormat, Config: t.config, Version: t.version, Revision: t.revision}
	im.KBs, _ = t.List("", len(t.kbs))
	return func() ([]byte, error) { return json.Marshal(im) }
}

// RestoreTenant reads a snapshot made by Freeze.
func RestoreTenant(id string, tier Tier, data []byte) (*Tenant, error) {
	var im tenantImage
	if err := json.Unmarshal(data, &im); err != nil {
		return nil, fmt.Errorf("kb: decode tenant snapshot: %w", err)
	}
	if im.Format != imageFormat {
		return nil, fmt.Errorf("kb: tenant snapshot format %d is unknown to this release", im.Format)
	}
	t := &Tenant{id: id, tier: tier, config: im.Config, version: im.Version, revision: im.Revision,
		kbs: make(map[string]KBEntry, len(im.KBs))}
	for _, e := range im.KBs {
		t.kbs[e.ID] = e
	}
	return t, nil
}
