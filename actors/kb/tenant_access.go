package kb

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"
)

// Most of each that a tenant may have: all of it is in its grain's memory.
const (
	maxKeys       = 1000
	maxBindings   = 10_000
	maxWorkspaces = 1000
)

// APIKey is a key as it is kept: its text is nowhere.
type APIKey struct {
	ID          string    `json:"id"`
	DisplayName string    `json:"display_name,omitempty"`
	MAC         []byte    `json:"mac"`
	Grants      []Grant   `json:"grants"`
	Created     time.Time `json:"created"`
	CreatedBy   string    `json:"created_by"`
	Expires     time.Time `json:"expires,omitzero"` // zero: never
}

// Binding gives a subject a role, in addition to what its token says.
type Binding struct {
	Subject string `json:"subject"`
	Grant   Grant  `json:"grant"`
}

// Workspace is a named group of knowledge bases.
type Workspace struct {
	ID          string    `json:"id"`
	DisplayName string    `json:"display_name,omitempty"`
	Created     time.Time `json:"created"`
}

func compareBindings(a, b Binding) int {
	return cmp.Or(strings.Compare(a.Subject, b.Subject), strings.Compare(a.Grant.Workspace, b.Grant.Workspace),
		strings.Compare(a.Grant.KnowledgeBase, b.Grant.KnowledgeBase))
}

// place finds an element by its id, or where it would be.
func place[T any](all []T, id string, idOf func(T) string) (int, bool) {
	return slices.BinarySearchFunc(all, id, func(e T, id string) int { return strings.Compare(idOf(e), id) })
}

func keyID(k APIKey) string          { return k.ID }
func workspaceID(w Workspace) string { return w.ID }

// Key finds an API key that was not revoked.
func (t *Tenant) Key(id string) (APIKey, bool) {
	at, found := place(t.keys, id, keyID)
	if !found {
		return APIKey{}, false
	}
	return t.keys[at], true
}

// Keys gives up to limit keys with id > after, by id, and whether more follow.
func (t *Tenant) Keys(after string, limit int) (page []APIKey, more bool) {
	return pageOf(t.keys, after, limit, keyID)
}

// Workspace finds a workspace.
func (t *Tenant) Workspace(id string) (Workspace, bool) {
	if at, found := place(t.workspaces, id, workspaceID); found {
		return t.workspaces[at], true
	}
	return Workspace{ID: id}, id == DefaultWorkspace
}

// VisibleWorkspace finds a workspace that somebody with these grants may know of.
func (t *Tenant) VisibleWorkspace(grants []Grant, id string) (Workspace, error) {
	w, found := t.Workspace(id)
	if !found || !knowsWorkspace(grants, id) {
		return Workspace{}, noWorkspace(id)
	}
	return w, nil
}

// knowsWorkspace reports whether grants hold in a workspace, or in some of it.
func knowsWorkspace(grants []Grant, id string) bool {
	return slices.ContainsFunc(grants, func(g Grant) bool {
		return g.Role.Covers(RoleViewer) && (g.Workspace == id || g.Workspace == "" && g.KnowledgeBase == "")
	})
}

// Workspaces gives up to limit workspaces with id > after that somebody with these
// grants may know of, by id, and whether more follow. The default one is there
// without having been made.
func (t *Tenant) Workspaces(grants []Grant, after string, limit int) (page []Workspace, more bool) {
	all := slices.Clone(t.workspaces)
	if at, found := place(all, DefaultWorkspace, workspaceID); !found {
		all = slices.Insert(all, at, Workspace{ID: DefaultWorkspace})
	}
	all = slices.DeleteFunc(all, func(w Workspace) bool { return !knowsWorkspace(grants, w.ID) })
	return pageOf(all, after, limit, workspaceID)
}

func pageOf[T any](all []T, after string, limit int, idOf func(T) string) (page []T, more bool) {
	at, found := place(all, after, idOf)
	if found {
		at++
	}
	rest := all[at:]
	if more = len(rest) > limit; more {
		rest = rest[:limit]
	}
	return slices.Clone(rest), more
}

// Bindings lists role bindings in order; of one subject, or of all for "".
func (t *Tenant) Bindings(subject string) []Binding {
	if subject == "" {
		return slices.Clone(t.bindings)
	}
	from, _ := slices.BinarySearchFunc(t.bindings, Binding{Subject: subject}, compareBindings)
	to := from
	for to < len(t.bindings) && t.bindings[to].Subject == subject {
		to++
	}
	return slices.Clone(t.bindings[from:to])
}

// GrantsOf is what is bound to a subject.
func (t *Tenant) GrantsOf(subject string) []Grant {
	var grants []Grant
	for _, b := range t.Bindings(subject) {
		grants = append(grants, b.Grant)
	}
	return grants
}

// covered refuses to give more than the giver has: every grant must lie inside
// one of the giver's.
func covered(giver, given []Grant) error {
	for _, g := range given {
		if !slices.ContainsFunc(giver, func(have Grant) bool {
			return have.Role.Covers(g.Role) && (have.Workspace == "" || have.Workspace == g.Workspace) &&
				(have.KnowledgeBase == "" || have.KnowledgeBase == g.KnowledgeBase)
		}) {
			return Errorf(CodePermissionDenied, ReasonPermission, "Nobody can give more than they have: the role %s.", g.Role).
				With("required_role", string(g.Role))
		}
	}
	return nil
}

func (t *Tenant) checkGrant(g Grant) error {
	switch {
	case !ValidRole(g.Role):
		return Errorf(CodeInvalidArgument, ReasonRequestInvalid, "role: %q is not viewer, editor or admin", g.Role)
	case g.KnowledgeBase != "" && !ValidID(g.KnowledgeBase):
		return Errorf(CodeInvalidArgument, ReasonRequestInvalid, "%q is not a knowledge base id", g.KnowledgeBase)
	case g.Workspace != "" && !t.hasWorkspace(g.Workspace):
		return noWorkspace(g.Workspace)
	}
	return nil
}

func (t *Tenant) hasWorkspace(id string) bool {
	_, found := place(t.workspaces, id, workspaceID)
	return found || id == DefaultWorkspace
}

func noWorkspace(id string) *Error {
	return Errorf(CodeNotFound, ReasonWorkspaceNotFound, "workspace %q does not exist", id).With("workspace", id)
}

// CreateKey decides a new key of somebody who has giver. A knowledge base it names
// need not exist yet.
func (t *Tenant) CreateKey(giver []Grant, k APIKey, now time.Time) ([]Event, error) {
	switch {
	case len(t.keys) >= maxKeys:
		return nil, tooMany("API keys", maxKeys)
	case len(k.Grants) == 0:
		return nil, Errorf(CodeInvalidArgument, ReasonRequestInvalid, "a key needs a role")
	case !k.Expires.IsZero() && !k.Expires.After(now):
		return nil, Errorf(CodeInvalidArgument, ReasonRequestInvalid, "expire_time is not in the future")
	}
	for _, g := range k.Grants {
		if err := t.checkGrant(g); err != nil {
			return nil, err
		}
	}
	if err := covered(giver, k.Grants); err != nil {
		return nil, err
	}
	if have, taken := t.Key(k.ID); taken && !bytes.Equal(have.MAC, k.MAC) {
		return nil, Errorf(CodeUnavailable, ReasonUnavailable, "the key's id is taken; try again")
	} else if taken {
		return nil, nil
	}
	return []Event{&KeyCreated{Key: k}}, nil
}

func tooMany(what string, most int) *Error {
	return Errorf(CodeResourceExhausted, ReasonTooMany, "a tenant has at most %d %s", most, what)
}

// RevokeKey decides the end of a key; nothing when there is none.
func (t *Tenant) RevokeKey(id string) []Event {
	if _, found := t.Key(id); !found {
		return nil
	}
	return []Event{&KeyRevoked{ID: id}}
}

// Bind decides a role of a subject, in the place of the one it has there.
func (t *Tenant) Bind(giver []Grant, b Binding) ([]Event, error) {
	if err := t.checkGrant(b.Grant); err != nil {
		return nil, err
	}
	if err := covered(giver, []Grant{b.Grant}); err != nil {
		return nil, err
	}
	at, found := slices.BinarySearchFunc(t.bindings, b, compareBindings)
	switch {
	case found && t.bindings[at] == b:
		return nil, nil
	case found:
		// To replace a stronger role is to take it away, which needs it, too.
		if err := covered(giver, []Grant{t.bindings[at].Grant}); err != nil {
			return nil, err
		}
	case len(t.bindings) >= maxBindings:
		return nil, tooMany("role bindings", maxBindings)
	}
	return []Event{&RoleBound{Binding: b}}, nil
}

// Unbind decides that a subject has no role there any more; nothing when it has none.
func (t *Tenant) Unbind(giver []Grant, b Binding) ([]Event, error) {
	at, found := slices.BinarySearchFunc(t.bindings, b, compareBindings)
	if !found {
		return nil, nil
	}
	if err := covered(giver, []Grant{t.bindings[at].Grant}); err != nil {
		return nil, err
	}
	return []Event{&RoleUnbound{Binding: t.bindings[at]}}, nil
}

// CreateWorkspace decides a new workspace.
func (t *Tenant) CreateWorkspace(w Workspace) ([]Event, error) {
	switch {
	case !ValidID(w.ID):
		return nil, Errorf(CodeInvalidArgument, ReasonRequestInvalid, "%q is not a workspace id", w.ID)
	case t.hasWorkspace(w.ID):
		return nil, Errorf(CodeAlreadyExists, ReasonWorkspaceExists, "workspace %q exists", w.ID).With("workspace", w.ID)
	case len(t.workspaces) >= maxWorkspaces:
		return nil, tooMany("workspaces", maxWorkspaces)
	}
	return []Event{&WorkspaceSet{Workspace: w}}, nil
}

// RenameWorkspace decides a new display name; nothing when it has it.
func (t *Tenant) RenameWorkspace(id, displayName string) ([]Event, error) {
	at, found := place(t.workspaces, id, workspaceID)
	switch {
	case !found && id != DefaultWorkspace:
		return nil, noWorkspace(id)
	case !found:
		return []Event{&WorkspaceSet{Workspace: Workspace{ID: id, DisplayName: displayName}}}, nil
	case t.workspaces[at].DisplayName == displayName:
		return nil, nil
	}
	w := t.workspaces[at]
	w.DisplayName = displayName
	return []Event{&WorkspaceSet{Workspace: w}}, nil
}

// DeleteWorkspace decides the end of an empty workspace; nothing when there is none.
func (t *Tenant) DeleteWorkspace(id string) ([]Event, error) {
	if id == DefaultWorkspace {
		return nil, Errorf(CodeFailedPrecondition, ReasonWorkspaceNotEmpty, "the default workspace stays")
	}
	if _, found := place(t.workspaces, id, workspaceID); !found {
		return nil, nil
	}
	if slices.ContainsFunc(t.kbs, func(e KBEntry) bool { return WorkspaceOr(e.Workspace) == id }) {
		return nil, Errorf(CodeFailedPrecondition, ReasonWorkspaceNotEmpty, "workspace %q has knowledge bases", id).With("workspace", id)
	}
	return []Event{&WorkspaceRemoved{ID: id}}, nil
}

// ImportAccess decides the workspaces and role bindings of an archive that somebody who
// has giver brings in: beside what there is, and in the place of what is there under the
// same id or of the same subject in the same place.
func (t *Tenant) ImportAccess(giver []Grant, workspaces []Workspace, bindings []Binding) ([]Event, error) {
	next := &Tenant{id: t.id, workspaces: slices.Clone(t.workspaces), bindings: slices.Clone(t.bindings)}
	var events []Event
	take := func(decided []Event, err error) error {
		for _, e := range decided {
			next.applyAccess(e)
		}
		events = append(events, decided...)
		return err
	}
	for _, w := range workspaces {
		decide := func() ([]Event, error) { return next.CreateWorkspace(w) }
		if next.hasWorkspace(w.ID) {
			decide = func() ([]Event, error) { return next.RenameWorkspace(w.ID, w.DisplayName) }
			if _, there := place(next.workspaces, w.ID, workspaceID); !there && w.DisplayName == "" {
				continue // the default one, as it is
			}
		}
		if err := take(decide()); err != nil {
			return nil, err
		}
	}
	for _, b := range bindings {
		if err := take(next.Bind(giver, b)); err != nil {
			return nil, err
		}
	}
	return events, nil
}

// applyAccess folds an event of the tenant's access; false when it is none.
func (t *Tenant) applyAccess(e Event) bool {
	switch e := e.(type) {
	case *KeyCreated:
		t.keys = put(t.keys, e.Key, keyID)
	case *KeyRevoked:
		t.keys = remove(t.keys, e.ID, keyID)
	case *RoleBound:
		at, found := slices.BinarySearchFunc(t.bindings, e.Binding, compareBindings)
		if !found {
			t.bindings = slices.Insert(t.bindings, at, e.Binding)
		}
		t.bindings[at] = e.Binding
	case *RoleUnbound:
		if at, found := slices.BinarySearchFunc(t.bindings, e.Binding, compareBindings); found {
			t.bindings = slices.Delete(t.bindings, at, at+1)
		}
	case *WorkspaceSet:
		t.workspaces = put(t.workspaces, e.Workspace, workspaceID)
	case *WorkspaceRemoved:
		t.workspaces = remove(t.workspaces, e.ID, workspaceID)
		// Whoever makes one of the same name anew gives its roles anew.
		t.bindings = slices.DeleteFunc(t.bindings, func(b Binding) bool { return b.Grant.Workspace == e.ID })
	default:
		return false
	}
	return true
}

func put[T any](all []T, e T, idOf func(T) string) []T {
	at, found := place(all, idOf(e), idOf)
	if found {
		all[at] = e
		return all
	}
	return slices.Insert(all, at, e)
}

func remove[T any](all []T, id string, idOf func(T) string) []T {
	if at, found := place(all, id, idOf); found {
		return slices.Delete(all, at, at+1)
	}
	return all
}
