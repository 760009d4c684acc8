package kb

import (
	"time"
)

// TenantState is where a tenant is in its life.
type TenantState uint8

// The states. The numbers are those of the API.
const (
	TenantActive  TenantState = iota + 1
	TenantLocked              // suspended: nobody gets in, nothing is processed, nothing is lost
	TenantDeleted             // as suspended, until it is undeleted or its time is over
	TenantPurging             // being erased; there is no way back
)

// Admits refuses the users of a tenant that is not active.
func (s TenantState) Admits() error {
	switch s {
	case TenantLocked:
		return Errorf(CodePermissionDenied, ReasonTenantSuspended, "The tenant is suspended.")
	case TenantDeleted, TenantPurging:
		return Errorf(CodePermissionDenied, ReasonTenantDeleted, "The tenant is deleted.")
	}
	return nil
}

// tenantLife is what operators decided of a tenant.
type tenantLife struct {
	DisplayName string    `json:"display_name,omitempty"`
	Tier        Tier      `json:"tier,omitempty"` // "": the server's default
	Overrides   Limits    `json:"overrides,omitzero"`
	Version     int64     `json:"version,omitempty"` // rises with each change of what is above
	Reason      string    `json:"reason,omitempty"`  // of the suspension
	PurgeAt     time.Time `json:"purge_at,omitzero"`
	Created     bool      `json:"created,omitempty"` // explicitly, by an operator
	Suspended   bool      `json:"suspended,omitempty"`
	Purging     bool      `json:"purging,omitempty"`
}

// TenantSpec is what an operator sets of a tenant.
type TenantSpec struct {
	DisplayName string
	Tier        Tier
	Overrides   Limits // 0: the tier's
}

func (s TenantSpec) check() error {
	if _, ok := LimitsOf(s.Tier); !ok {
		return Errorf(CodeInvalidArgument, ReasonRequestInvalid, "tier: %q is not starter, professional or enterprise", s.Tier)
	}
	o := s.Overrides
	if o.ConcurrentProcessing < 0 || o.DocumentsPerKB < 0 || o.StorageBytes < 0 || o.APICallsPerHour < 0 || o.VectorOperationsPerMinute < 0 {
		return Errorf(CodeInvalidArgument, ReasonRequestInvalid, "limit_overrides: a limit cannot be negative")
	}
	return nil
}

// State is where the tenant is in its life.
func (t *Tenant) State() TenantState {
	switch {
	case t.life.Purging:
		return TenantPurging
	case !t.life.PurgeAt.IsZero():
		return TenantDeleted
	case t.life.Suspended:
		return TenantLocked
	}
	return TenantActive
}

// Spec is what an operator set, or the defaults.
func (t *Tenant) Spec() TenantSpec {
	return TenantSpec{DisplayName: t.life.DisplayName, Tier: t.Tier(), Overrides: t.life.Overrides}
}

// Explicit reports whether an operator created the tenant.
func (t *Tenant) Explicit() bool { return t.life.Created }

// SuspendReason says why the tenant is suspended.
func (t *Tenant) SuspendReason() string { return t.life.Reason }

// PurgeAt is when a deleted tenant is erased; zero when it is not deleted.
func (t *Tenant) PurgeAt() time.Time { return t.life.PurgeAt }

// Create decides an explicit tenant. One that came to be by its use is taken over
// with all it has.
func (t *Tenant) Create(s TenantSpec) ([]Event, error) {
	switch {
	case t.State() == TenantPurging:
		return nil, Errorf(CodeUnavailable, ReasonUnavailable, "tenant %q is being erased; try again", t.id).After(time.Second)
	case t.life.Created || t.State() != TenantActive:
		return nil, Errorf(CodeAlreadyExists, ReasonTenantExists, "tenant %q exists", t.id).With("tenant", t.id)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return []Event{&TenantCreated{DisplayName: s.DisplayName, Tier: s.Tier, Overrides: s.Overrides}}, nil
}

// exists refuses what cannot be done to a tenant that is being erased, or that
// nobody ever heard of.
func (t *Tenant) exists() error {
	if !t.Known() || t.life.Purging {
		return Errorf(CodeNotFound, ReasonTenantNotFound, "tenant %q does not exist", t.id).With("tenant", t.id)
	}
	return nil
}

// Update decides a change of what an operator sets; nothing when nothing changes.
func (t *Tenant) Update(etag string, s TenantSpec) ([]Event, error) {
	if err := t.exists(); err != nil {
		return nil, err
	}
	if err := checkEtag(etag, t.Etag()); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	if s == t.Spec() {
		return nil, nil
	}
	return []Event{&TenantUpdated{DisplayName: s.DisplayName, Tier: s.Tier, Overrides: s.Overrides}}, nil
}

// Suspend decides that nobody gets in; nothing when it is so for that reason.
func (t *Tenant) Suspend(etag, reason string) ([]Event, error) {
	if err := t.exists(); err != nil {
		return nil, err
	}
	if err := checkEtag(etag, t.Etag()); err != nil {
		return nil, err
	}
	if t.life.Suspended && t.life.Reason == reason {
		return nil, nil
	}
	return []Event{&TenantSuspended{Reason: reason}}, nil
}

// Resume decides the end of a suspension; nothing when there is none.
func (t *Tenant) Resume(etag string) ([]Event, error) {
	if err := t.exists(); err != nil {
		return nil, err
	}
	if err := checkEtag(etag, t.Etag()); err != nil {
		return nil, err
	}
	if !t.life.Suspended {
		return nil, nil
	}
	return []Event{&TenantResumed{}}, nil
}

// Delete decides the deletion, final at purgeAt; nothing when it is decided for
// that time or an earlier one.
func (t *Tenant) Delete(etag string, purgeAt time.Time) ([]Event, error) {
	if err := t.exists(); err != nil {
		return nil, err
	}
	if err := checkEtag(etag, t.Etag()); err != nil {
		return nil, err
	}
	if !t.life.PurgeAt.IsZero() && !purgeAt.Before(t.life.PurgeAt) {
		return nil, nil
	}
	return []Event{&TenantDeleteRequested{PurgeAt: purgeAt.UTC()}}, nil
}

// Undelete decides that a deleted tenant stays; nothing when it is not deleted.
func (t *Tenant) Undelete(etag string) ([]Event, error) {
	if err := t.exists(); err != nil {
		return nil, err
	}
	if err := checkEtag(etag, t.Etag()); err != nil {
		return nil, err
	}
	if t.life.PurgeAt.IsZero() {
		return nil, nil
	}
	return []Event{&TenantUndeleted{}}, nil
}

// Purge decides that the erasure begins, when its time has come.
func (t *Tenant) Purge(now time.Time) []Event {
	if t.life.Purging || t.life.PurgeAt.IsZero() || now.Before(t.life.PurgeAt) {
		return nil
	}
	return []Event{&TenantPurgeStarted{}}
}

// applyLife folds an event of the tenant's life; false when it is none.
func (t *Tenant) applyLife(e Event) bool {
	l := &t.life
	switch e := e.(type) {
	case *TenantCreated:
		l.Created, l.DisplayName, l.Tier, l.Overrides = true, e.DisplayName, e.Tier, e.Overrides
	case *TenantUpdated:
		l.DisplayName, l.Tier, l.Overrides = e.DisplayName, e.Tier, e.Overrides
	case *TenantSuspended:
		l.Suspended, l.Reason = true, e.Reason
	case *TenantResumed:
		l.Suspended, l.Reason = false, ""
	case *TenantDeleteRequested:
		l.PurgeAt = e.PurgeAt
	case *TenantUndeleted:
		l.PurgeAt = time.Time{}
	case *TenantPurgeStarted:
		l.Purging = true
	default:
		return false
	}
	l.Version++
	return true
}

// override replaces the limits that are set.
func (l Limits) override(o Limits) Limits {
	for _, f := range []struct{ have, want *int64 }{
		{&l.ConcurrentProcessing, &o.ConcurrentProcessing}, {&l.DocumentsPerKB, &o.DocumentsPerKB}, {&l.StorageBytes, &o.StorageBytes},
		{&l.APICallsPerHour, &o.APICallsPerHour}, {&l.VectorOperationsPerMinute, &o.VectorOperationsPerMinute},
	} {
		if *f.want > 0 {
			*f.have = *f.want
		}
	}
	return l
}
