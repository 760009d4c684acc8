package kb

import "time"

// Events of a tenant's life.
type (
	// TenantCreated is the explicit creation, or what is set of a tenant that came
	// to be by its first use.
	TenantCreated struct {
		DisplayName string `json:"display_name,omitempty"`
		Tier        Tier   `json:"tier"`
		Overrides   Limits `json:"overrides,omitzero"` // 0: the tier's
	}
	// TenantUpdated replaces what an operator sets.
	TenantUpdated struct {
		DisplayName string `json:"display_name,omitempty"`
		Tier        Tier   `json:"tier"`
		Overrides   Limits `json:"overrides,omitzero"`
	}
	// TenantSuspended locks everybody out and pauses processing.
	TenantSuspended struct {
		Reason string `json:"reason,omitempty"`
	}
	// TenantResumed ends a suspension.
	TenantResumed struct{}
	// TenantDeleteRequested locks everybody out; at PurgeAt there is no way back.
	TenantDeleteRequested struct {
		PurgeAt time.Time `json:"purge_at"`
	}
	// TenantUndeleted takes a deletion back.
	TenantUndeleted struct{}
	// TenantPurgeStarted begins the erasure.
	TenantPurgeStarted struct{}
)

// Events of a tenant's access.
type (
	// KeyCreated makes an API key good.
	KeyCreated struct {
		Key APIKey `json:"key"`
	}
	// KeyRevoked ends it for good.
	KeyRevoked struct {
		ID string `json:"id"`
	}
	// RoleBound gives a subject a role.
	RoleBound struct {
		Binding Binding `json:"binding"`
	}
	// RoleUnbound takes it away.
	RoleUnbound struct {
		Binding Binding `json:"binding"`
	}
	// WorkspaceSet makes a workspace, or names it anew.
	WorkspaceSet struct {
		Workspace Workspace `json:"workspace"`
	}
	// WorkspaceRemoved ends an empty workspace.
	WorkspaceRemoved struct {
		ID string `json:"id"`
	}
)

// Type names; see [Event].
func (*TenantCreated) Type() string         { return "tenant.created" }
func (*TenantUpdated) Type() string         { return "tenant.updated" }
func (*TenantSuspended) Type() string       { return "tenant.suspended" }
func (*TenantResumed) Type() string         { return "tenant.resumed" }
func (*TenantDeleteRequested) Type() string { return "tenant.delete_requested" }
func (*TenantUndeleted) Type() string       { return "tenant.undeleted" }
func (*TenantPurgeStarted) Type() string    { return "tenant.purge_started" }
func (*KeyCreated) Type() string            { return "tenant.key_created" }
func (*KeyRevoked) Type() string            { return "tenant.key_revoked" }
func (*RoleBound) Type() string             { return "tenant.role_bound" }
func (*RoleUnbound) Type() string           { return "tenant.role_unbound" }
func (*WorkspaceSet) Type() string          { return "tenant.workspace_set" }
func (*WorkspaceRemoved) Type() string      { return "tenant.workspace_removed" }

// newTenantEvent makes an empty event of a stored type; nil for an unknown one.
func newTenantEvent(typ string) Event {
	for _, e := range []Event{
		&TenantCreated{}, &TenantUpdated{}, &TenantSuspended{}, &TenantResumed{}, &TenantDeleteRequested{}, &TenantUndeleted{},
		&TenantPurgeStarted{}, &KeyCreated{}, &KeyRevoked{}, &RoleBound{}, &RoleUnbound{}, &WorkspaceSet{}, &WorkspaceRemoved{},
	} {
		if e.Type() == typ {
			return e
		}
	}
	return nil
}
