package gateway

import (
	"cmp"
	"context"
	"encoding/base64"
	"log/slog"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	tenantsPrefix = "tenants/"
	nodesPrefix   = "nodes/"

	defaultPage = 50
)

// operations serves granary.v1.ClusterService, to operators.
type operations struct{ *Gateway }

// cluster gives the port, or says that there is no cluster.
func (s operations) cluster() (Cluster, error) {
	if s.cfg.Cluster == nil {
		return nil, kb.Errorf(kb.CodeFailedPrecondition, kb.ReasonClusterSingleNode,
			"This server is no member of a cluster.")
	}
	return s.cfg.Cluster, nil
}

// record writes who changed what into the log, before it is tried.
func (s operations) record(ctx context.Context, attrs ...slog.Attr) {
	c := callOf(ctx)
	method := ""
	if info, ok := connect.CallInfoForServerContext(ctx); ok {
		method = strings.TrimPrefix(info.Spec.Procedure, "/")
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "an operator changes the cluster", append([]slog.Attr{
		slog.String("method", method), slog.String("operator", c.operator.Subject), slog.String("request_id", c.requestID),
	}, attrs...)...)
}

// ListNodes implements the service.
func (s operations) ListNodes(ctx context.Context, req *v1.ListNodesRequest) (*v1.ListNodesResponse, error) {
	after, err := parsePosition(req.GetPageToken(), "nodes")
	if err != nil {
		return nil, err
	}
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	// A name may stand twice for a moment: the life that ended and the next one.
	key := func(n ClusterNode) string { return n.Name + "#" + n.Boot }
	nodes = slices.DeleteFunc(slices.Clone(nodes), func(n ClusterNode) bool { return key(n) <= after })
	slices.SortFunc(nodes, func(a, b ClusterNode) int { return cmp.Compare(key(a), key(b)) })
	out := &v1.ListNodesResponse{}
	if limit := pageLimit(req.GetPageSize()); len(nodes) > limit {
		nodes = nodes[:limit]
		out.NextPageToken = position(key(nodes[limit-1]), "nodes")
	}
	for _, n := range nodes {
		out.Nodes = append(out.Nodes, encodeNode(n))
	}
	return out, nil
}

// GetView implements the service.
func (s operations) GetView(ctx context.Context, _ *v1.GetViewRequest) (*v1.GetViewResponse, error) {
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	view, err := c.View(ctx)
	if err != nil {
		return nil, err
	}
	return &v1.GetViewResponse{View: encodeView(view)}, nil
}

// GetPlacement implements the service.
func (s operations) GetPlacement(ctx context.Context, req *v1.GetPlacementRequest) (*v1.GetPlacementResponse, error) {
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	tenant := strings.TrimPrefix(req.GetTenant(), tenantsPrefix)
	id := strings.TrimPrefix(req.GetKnowledgeBase(), knowledgeBasesPrefix)
	p, err := c.Placement(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	out := encodePlacement(p)
	out.Tenant = tenantsPrefix + tenant
	if id != "" {
		out.KnowledgeBase = knowledgeBasesPrefix + id
	}
	return &v1.GetPlacementResponse{Placement: out}, nil
}

// ListActivations implements the service.
func (s operations) ListActivations(ctx context.Context, req *v1.ListActivationsRequest) (*v1.ListActivationsResponse, error) {
	q := ActivationQuery{
		Node:   strings.TrimPrefix(req.GetNode(), nodesPrefix),
		Tenant: strings.TrimPrefix(req.GetTenant(), tenantsPrefix),
		Limit:  pageLimit(req.GetPageSize()),
	}
	var err error
	if q.After, err = parsePosition(req.GetPageToken(), "activations", q.Node, q.Tenant); err != nil {
		return nil, err
	}
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	page, err := c.Activations(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &v1.ListActivationsResponse{NextPageToken: position(page.Next, "activations", q.Node, q.Tenant)}
	for _, a := range page.Items {
		out.Activations = append(out.Activations, encodeActivation(a))
	}
	for _, n := range page.Unreachable {
		out.UnreachableNodes = append(out.UnreachableNodes, nodesPrefix+n)
	}
	return out, nil
}

// GetClusterHealth implements the service.
func (s operations) GetClusterHealth(ctx context.Context, _ *v1.GetClusterHealthRequest) (*v1.GetClusterHealthResponse, error) {
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	health, err := c.Health(ctx)
	if err != nil {
		return nil, err
	}
	return &v1.GetClusterHealthResponse{Health: encodeHealth(health)}, nil
}

// DrainNode implements the service.
func (s operations) DrainNode(ctx context.Context, req *v1.DrainNodeRequest) (*v1.DrainNodeResponse, error) {
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	node := strings.TrimPrefix(req.GetName(), nodesPrefix)
	s.record(ctx, slog.String("node", node))
	if err := c.Drain(ctx, node); err != nil {
		return nil, err
	}
	return &v1.DrainNodeResponse{}, nil
}

// RelocateTenant implements the service.
func (s operations) RelocateTenant(ctx context.Context, req *v1.RelocateTenantRequest) (*v1.RelocateTenantResponse, error) {
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	tenant := strings.TrimPrefix(req.GetTenant(), tenantsPrefix)
	node := strings.TrimPrefix(req.GetNode(), nodesPrefix)
	s.record(ctx, slog.String("relocated_tenant", tenant), slog.String("node", node))
	if err := c.Relocate(ctx, tenant, node); err != nil {
		return nil, err
	}
	return &v1.RelocateTenantResponse{}, nil
}

// Rebalance implements the service.
func (s operations) Rebalance(ctx context.Context, req *v1.RebalanceRequest) (*v1.RebalanceResponse, error) {
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	if !req.GetDryRun() {
		s.record(ctx)
	}
	moves, err := c.Rebalance(ctx, req.GetDryRun())
	if err != nil {
		return nil, err
	}
	out := &v1.RebalanceResponse{}
	for _, m := range moves {
		out.Moves = append(out.Moves, encodeMove(m))
	}
	return out, nil
}

// ListDeadLetters implements the service.
func (s operations) ListDeadLetters(ctx context.Context, req *v1.ListDeadLettersRequest) (*v1.ListDeadLettersResponse, error) {
	after, err := parsePosition(req.GetPageToken(), "dead-letters")
	if err != nil {
		return nil, err
	}
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	items, next, err := c.DeadLetters(ctx, after, pageLimit(req.GetPageSize()))
	if err != nil {
		return nil, err
	}
	out := &v1.ListDeadLettersResponse{NextPageToken: position(next, "dead-letters")}
	for _, d := range items {
		out.DeadLetters = append(out.DeadLetters, encodeDeadLetter(d))
	}
	return out, nil
}

// RetryDeadLetter implements the service.
func (s operations) RetryDeadLetter(ctx context.Context, req *v1.RetryDeadLetterRequest) (*v1.RetryDeadLetterResponse, error) {
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	owner, err := documentOwner("document", req.GetDocument())
	if err != nil {
		return nil, err
	}
	_, document, _ := strings.Cut(req.GetDocument(), documentsInfix)
	tenant := strings.TrimPrefix(req.GetTenant(), tenantsPrefix)
	s.record(ctx, slog.String("retried_tenant", tenant), slog.String("document", req.GetDocument()))
	if err := c.DeadLetter(ctx, tenant, owner, document); err != nil {
		return nil, err
	}
	h, err := operatorHeader(ctx, tenant, "")
	if err != nil {
		return nil, err
	}
	_, err = s.askWith(ctx, owner, &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ReprocessDocument{
		ReprocessDocument: &v1.ReprocessDocumentRequest{Name: req.GetDocument()}}}, h)
	if err != nil {
		return nil, err
	}
	return &v1.RetryDeadLetterResponse{}, nil
}

func pageLimit(asked int32) int {
	if asked <= 0 {
		return defaultPage
	}
	return int(asked)
}

// position is a page token: where a list goes on, and which list. It is "" at the end.
func position(after string, list ...string) string {
	if after == "" {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Join(append(list, after), "\x00")))
}

// parsePosition reads a page token of the same list.
func parsePosition(token string, list ...string) (string, error) {
	if token == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	after, ok := strings.CutPrefix(string(raw), strings.Join(list, "\x00")+"\x00")
	if err != nil || !ok || after == "" {
		return "", invalid(kb.ReasonPageTokenInvalid, "page_token", "The page token is not one of this list.")
	}
	return after, nil
}
