package gateway

import (
	"context"
	"slices"
	"strings"

	"granary.dev/granary/gateway/archive"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// accessPage is how many of a tenant's workspaces, bindings or keys are asked for at a time.
const accessPage = 1000

// exportAccess reads who may do what in the caller's tenant. Roles are read before
// workspaces, and those of workspaces that are gone by then are left out.
func (s archives) exportAccess(ctx context.Context) (archive.Access, error) {
	var a archive.Access
	roles := &v1.ListRoleBindingsRequest{PageSize: accessPage}
	err := s.pages(ctx, func() *nodev1.TenantCall {
		return &nodev1.TenantCall{Operation: &nodev1.TenantCall_ListRoles{ListRoles: roles}}
	}, func(r *nodev1.TenantReply) string {
		for _, b := range r.GetRoles().GetBindings() {
			a.Bindings = append(a.Bindings, archive.Binding{Subject: b.GetSubject(), Grant: archiveGrant(b.GetGrant())})
		}
		roles.PageToken = r.GetRoles().GetNextPageToken()
		return roles.PageToken
	})
	if err != nil {
		return a, err
	}
	workspaces, there := &v1.ListWorkspacesRequest{PageSize: accessPage}, map[string]bool{"": true}
	err = s.pages(ctx, func() *nodev1.TenantCall {
		return &nodev1.TenantCall{Operation: &nodev1.TenantCall_ListWorkspaces{ListWorkspaces: workspaces}}
	}, func(r *nodev1.TenantReply) string {
		for _, w := range r.GetWorkspaces().GetWorkspaces() {
			line := archive.Workspace{ID: strings.TrimPrefix(w.GetName(), workspacesPrefix), DisplayName: w.GetDisplayName()}
			if w.GetCreateTime() != nil {
				line.CreateTime = w.GetCreateTime().AsTime()
			}
			there[line.ID] = true
			a.Workspaces = append(a.Workspaces, line)
		}
		workspaces.PageToken = r.GetWorkspaces().GetNextPageToken()
		return workspaces.PageToken
	})
	if err != nil {
		return a, err
	}
	a.Bindings = slices.DeleteFunc(a.Bindings, func(b archive.Binding) bool { return !there[b.Workspace] })
	keys := &v1.ListApiKeysRequest{PageSize: accessPage}
	return a, s.pages(ctx, func() *nodev1.TenantCall {
		return &nodev1.TenantCall{Operation: &nodev1.TenantCall_ListKeys{ListKeys: keys}}
	}, func(r *nodev1.TenantReply) string {
		for _, k := range r.GetKeys().GetApiKeys() {
			a.Keys = append(a.Keys, archiveKey(k))
		}
		keys.PageToken = r.GetKeys().GetNextPageToken()
		return keys.PageToken
	})
}

// pages asks for page after page, until take gives no token of a next one.
func (s archives) pages(ctx context.Context, ask func() *nodev1.TenantCall, take func(*nodev1.TenantReply) string) error {
	for {
		reply, err := s.askTenant(ctx, ask(), "")
		if err != nil {
			return err
		}
		if take(reply) == "" {
			return nil
		}
	}
}

const workspacesPrefix = "workspaces/"

func archiveGrant(g *v1.AccessGrant) archive.Grant {
	return archive.Grant{Role: g.GetRole(), Workspace: g.GetWorkspace(), KnowledgeBase: g.GetKnowledgeBase()}
}

// archiveKey says that there is a key. Its MAC is no use to anybody.
func archiveKey(k *v1.ApiKey) archive.Key {
	out := archive.Key{ID: strings.TrimPrefix(k.GetName(), apiKeysPrefix), DisplayName: k.GetDisplayName(), CreatedBy: k.GetCreatedBy(),
		CreateTime: k.GetCreateTime().AsTime()}
	if end := k.GetExpireTime(); end != nil {
		out.ExpireTime = end.AsTime()
	}
	for _, g := range k.GetGrants() {
		out.Grants = append(out.Grants, archiveGrant(g))
	}
	return out
}
