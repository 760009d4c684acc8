package actors

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// serveAccess carries out what concerns credentials, role bindings and workspaces;
// false when the operation is not of these.
func (g *tenantGrain) serveAccess(c call, m *nodev1.TenantCall) bool {
	switch op := m.GetOperation().(type) {
	case *nodev1.TenantCall_GetAccess:
		g.read(c, func() *nodev1.TenantReply { return g.access(op.GetAccess) })
	case *nodev1.TenantCall_ReportKeyUse:
		g.reportUse(c, op.ReportKeyUse)
	case *nodev1.TenantCall_CreateKey:
		g.createKey(c, m.GetHeader(), op.CreateKey)
	case *nodev1.TenantCall_GetKey:
		g.read(c, func() *nodev1.TenantReply { return g.key(resourceID(op.GetKey.GetName())) })
	case *nodev1.TenantCall_ListKeys:
		g.read(c, func() *nodev1.TenantReply { return g.listKeys(op.ListKeys) })
	case *nodev1.TenantCall_RevokeKey:
		id := resourceID(op.RevokeKey.GetName())
		g.change(c, m.GetHeader(), change{reply: tenantDone, rule: func() ([]kb.Event, error) { return g.tenant.RevokeKey(id), nil }})
	case *nodev1.TenantCall_BindRole, *nodev1.TenantCall_UnbindRole, *nodev1.TenantCall_ListRoles:
		g.serveRoles(c, m)
	case *nodev1.TenantCall_ImportSettings:
		g.importSettings(c, m.GetHeader(), op.ImportSettings)
	default:
		return g.serveWorkspaces(c, m)
	}
	return true
}

// resourceID takes the id out of a resource name.
func resourceID(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// giver is what the caller may give.
func giver(h *nodev1.Header) []kb.Grant {
	if h.GetInternal() {
		return []kb.Grant{{Role: kb.RoleAdmin}}
	}
	return grantsOf(h)
}

// access tells a gateway what a credential is good for.
func (g *tenantGrain) access(q *nodev1.GetAccess) *nodev1.TenantReply {
	out := &nodev1.Access{State: granaryv1.TenantState(g.tenant.State()), UnknownTenant: !g.tenant.Known(), Since: timestamp(g.tenant.Since())}
	if q.GetSubject() != "" {
		out.Grants = grantProtos(g.tenant.GrantsOf(q.GetSubject()))
	}
	if k, ok := g.tenant.Key(q.GetKeyId()); ok && (k.Expires.IsZero() || k.Expires.After(g.deps.Now())) {
		out.Grants = grantProtos(k.Grants)
		out.Key = &nodev1.KeyRecord{Id: k.ID, Mac: k.MAC, Subject: "key:" + k.ID, ExpireTime: timestamp(k.Expires)}
	}
	return &nodev1.TenantReply{Result: &nodev1.TenantReply_Access{Access: out}}
}

func grantProtos(grants []kb.Grant) []*nodev1.Grant {
	out := make([]*nodev1.Grant, len(grants))
	for i, g := range grants {
		out[i] = &nodev1.Grant{Role: string(g.Role), Workspace: g.Workspace, KnowledgeBase: g.KnowledgeBase}
	}
	return out
}

func accessGrants(grants []kb.Grant) []*granaryv1.AccessGrant {
	out := make([]*granaryv1.AccessGrant, len(grants))
	for i, g := range grants {
		out[i] = &granaryv1.AccessGrant{Role: string(g.Role), Workspace: g.Workspace, KnowledgeBase: g.KnowledgeBase}
	}
	return out
}

func grantOf(g *granaryv1.AccessGrant) kb.Grant {
	return kb.Grant{Role: kb.Role(g.GetRole()), Workspace: g.GetWorkspace(), KnowledgeBase: g.GetKnowledgeBase()}
}

// lastUsed is the counter of a key's last use, in seconds since 1970. It is no
// event: it would drown the others.
func lastUsed(id string) string { return "key/" + id }

// reportUse notes when keys were used. A report that is lost costs a minute.
func (g *tenantGrain) reportUse(c call, r *nodev1.ReportKeyUse) {
	var set []journal.Counter
	for _, u := range r.GetUses() {
		at := u.GetTime().GetSeconds()
		if _, ok := g.tenant.Key(u.GetKeyId()); !ok || at <= g.used[u.GetKeyId()] {
			continue
		}
		if g.used == nil {
			g.used = make(map[string]int64)
		}
		g.used[u.GetKeyId()] = at
		set = append(set, journal.Counter{Name: lastUsed(u.GetKeyId()), Value: at})
	}
	if len(set) == 0 {
		g.answer(c, tenantDone())
		return
	}
	w, err := g.count(set)
	if err != nil {
		c.Reply(nil, err)
		return
	}
	w.done = orReply(c, func() { c.Reply(tenantDone(), nil) })
	g.flush(g.owes())
}

// usesOf reads when keys were last used.
func usesOf(counters []journal.Counter) map[string]int64 {
	var used map[string]int64
	for _, c := range counters {
		if id, ok := strings.CutPrefix(c.Name, "key/"); ok {
			if used == nil {
				used = make(map[string]int64)
			}
			used[id] = c.Value
		}
	}
	return used
}

func (g *tenantGrain) createKey(c call, h *nodev1.Header, r *nodev1.CreateKey) {
	q := r.GetRequest()
	k := kb.APIKey{ID: r.GetId(), DisplayName: q.GetDisplayName(), MAC: r.GetMac(), Created: g.deps.Now(), CreatedBy: h.GetPrincipal()}
	for _, a := range q.GetGrants() {
		k.Grants = append(k.Grants, grantOf(a))
	}
	if q.GetExpireTime() != nil {
		k.Expires = q.GetExpireTime().AsTime()
	}
	g.change(c, h, change{reply: func() *nodev1.TenantReply { return g.key(k.ID) }, rule: func() ([]kb.Event, error) {
		return g.tenant.CreateKey(giver(h), k, g.deps.Now())
	}})
}

func (g *tenantGrain) key(id string) *nodev1.TenantReply {
	k, ok := g.tenant.Key(id)
	if !ok {
		return tenantError(kb.Errorf(kb.CodeNotFound, kb.ReasonKeyNotFound, "API key %q does not exist", id).With("api_key", id))
	}
	return &nodev1.TenantReply{Result: &nodev1.TenantReply_Key{Key: g.keyProto(k)}}
}

func (g *tenantGrain) keyProto(k kb.APIKey) *granaryv1.ApiKey {
	out := &granaryv1.ApiKey{Name: "apiKeys/" + k.ID, DisplayName: k.DisplayName, Grants: accessGrants(k.Grants),
		CreateTime: timestamp(k.Created), CreatedBy: k.CreatedBy, ExpireTime: timestamp(k.Expires)}
	if at := g.used[k.ID]; at > 0 {
		out.LastUsedTime = timestamppb.New(time.Unix(at, 0))
	}
	return out
}

func (g *tenantGrain) listKeys(r *granaryv1.ListApiKeysRequest) *nodev1.TenantReply {
	after, ok := pageAfter(r.GetPageToken())
	if !ok {
		return tenantError(pageTokenError())
	}
	page, more := g.tenant.Keys(after, pageSize(r.GetPageSize(), 1000))
	out := &granaryv1.ListApiKeysResponse{}
	for _, k := range page {
		out.ApiKeys = append(out.ApiKeys, g.keyProto(k))
	}
	if more {
		out.NextPageToken = makeNameToken(page[len(page)-1].ID)
	}
	return &nodev1.TenantReply{Result: &nodev1.TenantReply_Keys{Keys: out}}
}

// pageAfter reads the name a page goes on behind.
func pageAfter(token string) (string, bool) {
	if token == "" {
		return "", true
	}
	return nameToken(token)
}

// serveRoles carries out what concerns role bindings.
func (g *tenantGrain) serveRoles(c call, m *nodev1.TenantCall) {
	h := m.GetHeader()
	switch op := m.GetOperation().(type) {
	case *nodev1.TenantCall_BindRole:
		b := kb.Binding{Subject: op.BindRole.GetSubject(), Grant: grantOf(op.BindRole.GetGrant())}
		g.change(c, h, change{reply: tenantDone, rule: func() ([]kb.Event, error) { return g.tenant.Bind(giver(h), b) }})
	case *nodev1.TenantCall_UnbindRole:
		r := op.UnbindRole
		b := kb.Binding{Subject: r.GetSubject(), Grant: kb.Grant{Workspace: r.GetWorkspace(), KnowledgeBase: r.GetKnowledgeBase()}}
		g.change(c, h, change{reply: tenantDone, rule: func() ([]kb.Event, error) { return g.tenant.Unbind(giver(h), b) }})
	case *nodev1.TenantCall_ListRoles:
		g.read(c, func() *nodev1.TenantReply { return g.listRoles(op.ListRoles) })
	}
}

func (g *tenantGrain) listRoles(r *granaryv1.ListRoleBindingsRequest) *nodev1.TenantReply {
	after, ok := pageAfter(r.GetPageToken())
	if !ok {
		return tenantError(pageTokenError())
	}
	page := slices.DeleteFunc(g.tenant.Bindings(r.GetSubject()), func(b kb.Binding) bool { return after != "" && bindingKey(b) <= after })
	out := &granaryv1.ListRoleBindingsResponse{}
	if size := pageSize(r.GetPageSize(), 1000); len(page) > size {
		page = page[:size]
		out.NextPageToken = makeNameToken(bindingKey(page[size-1]))
	}
	for _, b := range page {
		out.Bindings = append(out.Bindings, &granaryv1.RoleBinding{Subject: b.Subject, Grant: accessGrants([]kb.Grant{b.Grant})[0]})
	}
	return &nodev1.TenantReply{Result: &nodev1.TenantReply_Roles{Roles: out}}
}

// bindingKey orders bindings as the tenant does.
func bindingKey(b kb.Binding) string {
	return b.Subject + "\x00" + b.Grant.Workspace + "\x00" + b.Grant.KnowledgeBase
}

// serveWorkspaces carries out what concerns workspaces; false when the operation is
// not of these.
func (g *tenantGrain) serveWorkspaces(c call, m *nodev1.TenantCall) bool {
	h := m.GetHeader()
	switch op := m.GetOperation().(type) {
	case *nodev1.TenantCall_CreateWorkspace:
		w := kb.Workspace{ID: op.CreateWorkspace.GetWorkspaceId(), DisplayName: op.CreateWorkspace.GetDisplayName(), Created: g.deps.Now()}
		g.change(c, h, change{reply: func() *nodev1.TenantReply { return workspaceReply(w) },
			rule: func() ([]kb.Event, error) { return g.tenant.CreateWorkspace(w) }})
	case *nodev1.TenantCall_UpdateWorkspace:
		id, name := resourceID(op.UpdateWorkspace.GetName()), op.UpdateWorkspace.GetDisplayName()
		g.change(c, h, change{reply: func() *nodev1.TenantReply { return workspaceReply(g.workspace(id)) },
			rule: func() ([]kb.Event, error) { return g.tenant.RenameWorkspace(id, name) }})
	case *nodev1.TenantCall_DeleteWorkspace:
		id := resourceID(op.DeleteWorkspace.GetName())
		g.change(c, h, change{reply: tenantDone, rule: func() ([]kb.Event, error) { return g.tenant.DeleteWorkspace(id) }})
	case *nodev1.TenantCall_GetWorkspace:
		g.read(c, func() *nodev1.TenantReply { return g.getWorkspace(giver(h), resourceID(op.GetWorkspace.GetName())) })
	case *nodev1.TenantCall_ListWorkspaces:
		g.read(c, func() *nodev1.TenantReply { return g.listWorkspaces(giver(h), op.ListWorkspaces) })
	default:
		return false
	}
	return true
}

func (g *tenantGrain) workspace(id string) kb.Workspace {
	w, _ := g.tenant.Workspace(id)
	return w
}

func workspaceProto(w kb.Workspace) *granaryv1.Workspace {
	return &granaryv1.Workspace{Name: "workspaces/" + w.ID, DisplayName: w.DisplayName, CreateTime: timestamp(w.Created)}
}

func workspaceReply(w kb.Workspace) *nodev1.TenantReply {
	return &nodev1.TenantReply{Result: &nodev1.TenantReply_Workspace{Workspace: workspaceProto(w)}}
}

func (g *tenantGrain) getWorkspace(grants []kb.Grant, id string) *nodev1.TenantReply {
	w, err := g.tenant.VisibleWorkspace(grants, id)
	if err != nil {
		return tenantError(err)
	}
	return workspaceReply(w)
}

func (g *tenantGrain) listWorkspaces(grants []kb.Grant, r *granaryv1.ListWorkspacesRequest) *nodev1.TenantReply {
	after, ok := pageAfter(r.GetPageToken())
	if !ok {
		return tenantError(pageTokenError())
	}
	page, more := g.tenant.Workspaces(grants, after, pageSize(r.GetPageSize(), 1000))
	out := &granaryv1.ListWorkspacesResponse{}
	for _, w := range page {
		out.Workspaces = append(out.Workspaces, workspaceProto(w))
	}
	if more {
		out.NextPageToken = makeNameToken(page[len(page)-1].ID)
	}
	return &nodev1.TenantReply{Result: &nodev1.TenantReply_Workspaces{Workspaces: out}}
}
