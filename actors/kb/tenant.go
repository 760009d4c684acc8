package kb

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Tenant is the state of a tenant: the fold of its events. Not safe for concurrent use.
type Tenant struct {
	id       string
	tier     Tier // of tenants that no operator gave another
	life     tenantLife
	config   Config
	version  int64
	revision int64
	erased   int64     // revision of the last erasure: what was before is another tenant's
	since    time.Time // of that erasure; zero: the name never had another tenant
	kbs      []KBEntry // sorted by id; most tenants have few, so a map would be mostly empty

	keys       []APIKey    // by id
	bindings   []Binding   // by subject and place
	workspaces []Workspace // by id
}

// KBEntry is a knowledge base in its tenant's list.
type KBEntry struct {
	ID          string    `json:"id"`
	UID         string    `json:"uid"`
	DisplayName string    `json:"display_name,omitempty"`
	Workspace   string    `json:"workspace,omitempty"` // "": DefaultWorkspace
	Created     time.Time `json:"created"`
}

// NewTenant makes the state of a tenant nothing was decided for yet.
func NewTenant(id string, tier Tier) *Tenant { return &Tenant{id: id, tier: tier} }

// ID is the tenant's id.
func (t *Tenant) ID() string { return t.id }

// Tier is the tenant's subscription.
func (t *Tenant) Tier() Tier { return cmp.Or(t.life.Tier, t.tier) }

// Config is the tenant's default configuration.
func (t *Tenant) Config() Config { return t.config }

// ConfigVersion rises with each change of the default configuration; 0 = never set.
func (t *Tenant) ConfigVersion() int64 { return t.version }

// Revision is the sequence number of the last applied event.
func (t *Tenant) Revision() int64 { return t.revision }

// Known reports whether anything was ever decided for the tenant.
func (t *Tenant) Known() bool { return t.revision > t.erased }

// Etag changes with the default configuration and with all that operators set.
func (t *Tenant) Etag() string { return fmt.Sprintf("%s-%d-%d", t.id, t.version, t.life.Version) }

// Limits are those of the tier, but for those an operator set; an unknown tier
// has the smallest.
func (t *Tenant) Limits() Limits {
	l, ok := LimitsOf(t.Tier())
	if !ok {
		l, _ = LimitsOf(TierStarter)
	}
	return l.override(t.life.Overrides)
}

// Configure decides a new default configuration.
func (t *Tenant) Configure(etag string, c Config) ([]Event, error) {
	if err := checkEtag(etag, t.Etag()); err != nil {
		return nil, err
	}
	return []Event{&TenantConfigured{Config: c, Version: t.version + 1}}, nil
}

// Register decides the listing of a knowledge base; nothing when it is listed
// under this display name and workspace.
func (t *Tenant) Register(e KBEntry) []Event {
	if at, listed := t.find(e.ID); listed && t.kbs[at].UID == e.UID && t.kbs[at].DisplayName == e.DisplayName && WorkspaceOr(t.kbs[at].Workspace) == WorkspaceOr(e.Workspace) {
		return nil
	}
	return []Event{&KBRegistered{ID: e.ID, UID: e.UID, DisplayName: e.DisplayName, Workspace: e.Workspace, Created: e.Created}}
}

// Unregister decides the end of a listing; nothing when it is not listed.
func (t *Tenant) Unregister(id, uid string) []Event {
	if at, listed := t.find(id); !listed || t.kbs[at].UID != uid || uid == "" {
		return nil
	}
	return []Event{&KBUnregistered{ID: id, UID: uid}}
}

// List gives up to limit entries with id > after, by id, and whether more follow.
func (t *Tenant) List(after string, limit int) (page []KBEntry, more bool) {
	return t.ListWhere(after, limit, func(KBEntry) bool { return true })
}

// ListWhere is [Tenant.List] of the entries that keep wants.
func (t *Tenant) ListWhere(after string, limit int, keep func(KBEntry) bool) (page []KBEntry, more bool) {
	at, found := t.find(after)
	if found {
		at++
	}
	for _, e := range t.kbs[at:] {
		if !keep(e) {
			continue
		}
		if len(page) == limit {
			return page, true
		}
		page = append(page, e)
	}
	return page, false
}

// Lists reports whether a knowledge base is listed.
func (t *Tenant) Lists(id string) bool {
	_, listed := t.find(id)
	return listed
}

// ListsUID reports whether this incarnation of a knowledge base is listed.
func (t *Tenant) ListsUID(id, uid string) bool {
	at, listed := t.find(id)
	return listed && t.kbs[at].UID == uid
}

// find gives the place of a knowledge base in the list, or where it would be.
func (t *Tenant) find(id string) (at int, listed bool) {
	return slices.BinarySearchFunc(t.kbs, id, func(e KBEntry, id string) int { return strings.Compare(e.ID, id) })
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
		t.put(KBEntry{ID: e.ID, UID: e.UID, DisplayName: e.DisplayName, Workspace: e.Workspace, Created: e.Created})
	case *KBUnregistered:
		if at, listed := t.find(e.ID); listed {
			t.kbs = slices.Delete(t.kbs, at, at+1)
		}
	default:
		if !t.applyLife(e) && !t.applyAccess(e) {
			return fmt.Errorf("kb: event %d (%s) is not a tenant's", seq, e.Type())
		}
	}
	t.revision = seq
	return nil
}

// ResetTo makes this the state of an erased tenant: nothing but its revision, and
// since when the name is another's.
func (t *Tenant) ResetTo(revision int64, at time.Time) {
	*t = Tenant{id: t.id, tier: t.tier, revision: revision, erased: revision, since: at.UTC()}
}

// Since is when the former tenant of this name was erased; zero: there was none.
func (t *Tenant) Since() time.Time { return t.since }

// Remains is what must be remembered of a tenant while it is erased: that it is.
func (t *Tenant) Remains() *Tenant {
	return &Tenant{id: t.id, tier: t.tier, revision: t.revision, life: tenantLife{Purging: true, PurgeAt: t.life.PurgeAt}}
}

// put lists a knowledge base, in the place of one of the same id.
func (t *Tenant) put(e KBEntry) {
	at, listed := t.find(e.ID)
	if listed {
		t.kbs[at] = e
		return
	}
	t.kbs = slices.Insert(t.kbs, at, e)
}

type tenantImage struct {
	Format     int         `json:"format"`
	Life       tenantLife  `json:"life,omitzero"`
	Config     Config      `json:"config,omitzero"`
	Version    int64       `json:"version,omitempty"`
	Revision   int64       `json:"revision"`
	Erased     int64       `json:"erased,omitempty"`
	Since      time.Time   `json:"since,omitzero"`
	KBs        []KBEntry   `json:"kbs,omitempty"`
	Keys       []APIKey    `json:"keys,omitempty"`
	Bindings   []Binding   `json:"bindings,omitempty"`
	Workspaces []Workspace `json:"workspaces,omitempty"`
}

// Freeze captures the state for encoding; see [KB.Freeze].
func (t *Tenant) Freeze() func() ([]byte, error) {
	im := tenantImage{Format: imageFormat, Life: t.life, Config: t.config, Version: t.version, Revision: t.revision, Erased: t.erased, Since: t.since,
		KBs: slices.Clone(t.kbs), Keys: slices.Clone(t.keys), Bindings: slices.Clone(t.bindings), Workspaces: slices.Clone(t.workspaces)}
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
	t := &Tenant{id: id, tier: tier, life: im.Life, config: im.Config, version: im.Version, revision: im.Revision, erased: im.Erased, since: im.Since,
		keys: im.Keys, bindings: im.Bindings, workspaces: im.Workspaces}
	for _, e := range im.KBs {
		t.put(e)
	}
	return t, nil
}
