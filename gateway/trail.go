package gateway

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/journal/trail"
	"granary.dev/granary/actors/kb"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// Trail reads and proves audits; [trail.Desk] is one.
type Trail interface {
	Accesses(ctx context.Context, q journal.AccessQuery) ([]journal.Access, error)
	// Checkpoint gives the last one, with refresh after making one if anything changed;
	// ok is false when there is none.
	Checkpoint(ctx context.Context, tenant string, refresh bool) (c journal.Checkpoint, ok bool, err error)
	// Export gives the lines of an export; without data, events carry hashes only.
	Export(ctx context.Context, tenant string, data bool, emit func(line []byte) error) error
	// Verify tells progress how many rows it has seen, now and then.
	Verify(ctx context.Context, tenant string, progress func(items int64) error) (*trail.Report, error)
	// PublicKeys are the keys that checkpoints are verified with, in PEM.
	PublicKeys() (string, error)
}

const (
	exportBytes = 256 << 10 // of one message
	exportEvery = time.Second
)

// trails has what AuditService and AuditAdminService have in common.
type trails struct{ *Gateway }

func (s trails) trail() (Trail, error) {
	if s.cfg.Trail == nil {
		return nil, kb.Errorf(kb.CodeUnimplemented, kb.ReasonUnknownOperation, "This server keeps no audit.")
	}
	return s.cfg.Trail, nil
}

// accessPlace is a place in a list of accesses.
type accessPlace struct {
	T int64
	S string
	N int64
}

func (s trails) list(ctx context.Context, tenant string, f *v1.AuditFilter, size int32, token string) (*v1.ListAuditEventsResponse, error) {
	t, err := s.trail()
	if err != nil {
		return nil, err
	}
	q := journal.AccessQuery{Tenant: tenant, Principal: f.GetPrincipal(), Method: f.GetMethod(), Limit: pageLimit(size)}
	if f.GetFrom() != nil {
		q.From = f.GetFrom().AsTime()
	}
	if f.GetTo() != nil {
		q.To = f.GetTo().AsTime()
	}
	list := []string{"audit", tenant, q.Principal, q.Method}
	at, err := parsePosition(token, list...)
	if err != nil {
		return nil, err
	}
	if at != "" {
		var p accessPlace
		raw, err := base64.RawURLEncoding.DecodeString(at)
		if err != nil || json.Unmarshal(raw, &p) != nil || p.S == "" {
			return nil, invalid(kb.ReasonPageTokenInvalid, "page_token", "The page token is not one of this list.")
		}
		q.After = journal.AccessPosition{Time: time.UnixMicro(p.T), Stream: p.S, Seq: p.N}
	}
	rows, err := t.Accesses(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &v1.ListAuditEventsResponse{}
	for i := range rows {
		out.Events = append(out.Events, encodeAccess(&rows[i]))
	}
	if len(rows) == q.Limit {
		last := rows[len(rows)-1]
		raw, err := json.Marshal(accessPlace{last.Time.UnixMicro(), last.Stream, last.Seq})
		if err != nil {
			return nil, err
		}
		out.NextPageToken = position(base64.RawURLEncoding.EncodeToString(raw), list...)
	}
	return out, nil
}

func encodeAccess(a *journal.Access) *v1.AuditEvent {
	return &v1.AuditEvent{Time: timestamppb.New(a.Time), Phase: a.Phase, Principal: a.Principal, Credential: a.Credential, KeyId: a.KeyID,
		Method: a.Method, Resource: a.Resource, RemoteAddress: a.Remote, RequestId: a.RequestID, Code: a.Code, Reason: a.Reason,
		Duration: durationpb.New(a.Duration), Count: a.Count, Stream: a.Stream, Sequence: a.Seq}
}

// export sends whole lines, gathered into messages.
func (s trails) export(ctx context.Context, tenant string, data bool, send func(*v1.ExportAuditResponse) error) error {
	t, err := s.trail()
	if err != nil {
		return err
	}
	connectionOf(ctx).streaming()
	var lines []byte
	sent := time.Now()
	flush := func() error {
		out := &v1.ExportAuditResponse{Lines: lines}
		lines, sent = nil, time.Now()
		return connectionOf(ctx).send(func() error { return send(out) })
	}
	err = t.Export(ctx, tenant, data, func(line []byte) error {
		lines = append(lines, line...)
		if len(lines) >= exportBytes || time.Since(sent) >= exportEvery {
			return flush()
		}
		return nil
	})
	if err == nil && len(lines) > 0 {
		err = flush()
	}
	return err
}

func (s trails) checkpoint(ctx context.Context, tenant string, refresh bool) (*v1.GetCheckpointResponse, error) {
	t, err := s.trail()
	if err != nil {
		return nil, err
	}
	c, ok, err := t.Checkpoint(ctx, tenant, refresh)
	switch {
	case errors.Is(err, journal.ErrChain):
		return nil, kb.Errorf(kb.CodeFailedPrecondition, kb.ReasonAuditBroken, "The audit contradicts its last checkpoint and is not signed; verify it.")
	case err != nil:
		return nil, err
	case !ok:
		return nil, kb.Errorf(kb.CodeNotFound, kb.ReasonCheckpointNotFound, "There is no checkpoint yet.")
	}
	keys, err := t.PublicKeys()
	if err != nil {
		return nil, err
	}
	return &v1.GetCheckpointResponse{Number: c.Number, Body: c.Body, KeyId: c.KeyID, Signature: c.Signature, Hash: trail.HashOf(c), PublicKeys: keys}, nil
}

func (s trails) verify(ctx context.Context, tenant string, send func(*v1.VerifyAuditResponse) error) error {
	t, err := s.trail()
	if err != nil {
		return err
	}
	connectionOf(ctx).streaming()
	put := func(out *v1.VerifyAuditResponse) error {
		return connectionOf(ctx).send(func() error { return send(out) })
	}
	sent := time.Now()
	r, err := t.Verify(ctx, tenant, func(items int64) error {
		if time.Since(sent) < exportEvery {
			return nil
		}
		sent = time.Now()
		return put(&v1.VerifyAuditResponse{Items: items})
	})
	if err != nil {
		return err
	}
	return put(&v1.VerifyAuditResponse{Items: r.Events + r.Accesses + r.Checkpoints, Report: encodeReport(r)})
}

func encodeReport(r *trail.Report) *v1.AuditReport {
	out := &v1.AuditReport{MoreProblems: r.More, Journals: r.Journals, Events: r.Events, UnchainedEvents: r.Unchained, Streams: r.Streams,
		Accesses: r.Accesses, Checkpoints: r.Checkpoints, Uncovered: r.Uncovered, LastCheckpoint: r.Last, LastCheckpointHash: r.LastHash}
	if r.Last > 0 {
		out.LastCheckpointTime = timestamppb.New(r.LastTime)
	}
	for _, p := range r.Problems {
		out.Problems = append(out.Problems, &v1.AuditProblem{Chain: p.Chain, Sequence: p.Seq, What: p.What})
	}
	for _, e := range r.Erased {
		out.Erasures = append(out.Erasures, &v1.AuditErasure{Chain: e.Chain, Sequence: e.Seq})
	}
	return out
}

// ownTrail serves granary.v1.AuditService.
type ownTrail struct{ trails }

// own is the caller's tenant, if all of the trail under its name is its own.
func (s ownTrail) own(ctx context.Context) (string, error) {
	p := callOf(ctx).principal
	if !p.since.IsZero() {
		return "", kb.Errorf(kb.CodeFailedPrecondition, kb.ReasonAuditShared,
			"A former tenant had this name: its trail and yours are one chain, which operators may export and verify.")
	}
	return p.Tenant, nil
}

// ListAuditEvents implements the service. What a former tenant of the name did is
// not shown.
func (s ownTrail) ListAuditEvents(ctx context.Context, req *v1.ListAuditEventsRequest) (*v1.ListAuditEventsResponse, error) {
	p, f := callOf(ctx).principal, req.GetFilter()
	if f == nil {
		f = &v1.AuditFilter{}
	}
	if !p.since.IsZero() && (f.GetFrom() == nil || f.GetFrom().AsTime().Before(p.since)) {
		f.From = timestamppb.New(p.since)
	}
	return s.list(ctx, p.Tenant, f, req.GetPageSize(), req.GetPageToken())
}

// ExportAudit implements the service.
func (s ownTrail) ExportAudit(ctx context.Context, _ *v1.ExportAuditRequest, stream granaryv1connect.AuditServiceExportAuditServerStream) error {
	tenant, err := s.own(ctx)
	if err != nil {
		return err
	}
	return s.export(ctx, tenant, true, stream.Send)
}

// GetCheckpoint implements the service.
func (s ownTrail) GetCheckpoint(ctx context.Context, req *v1.GetCheckpointRequest) (*v1.GetCheckpointResponse, error) {
	tenant, err := s.own(ctx)
	if err != nil {
		return nil, err
	}
	return s.checkpoint(ctx, tenant, req.GetRefresh())
}

// VerifyAudit implements the service.
func (s ownTrail) VerifyAudit(ctx context.Context, _ *v1.VerifyAuditRequest, stream granaryv1connect.AuditServiceVerifyAuditServerStream) error {
	tenant, err := s.own(ctx)
	if err != nil {
		return err
	}
	return s.verify(ctx, tenant, stream.Send)
}

// anyTrail serves granary.v1.AuditAdminService, to operators.
type anyTrail struct{ trails }

func tenantOf(name string) string { return strings.TrimPrefix(name, tenantsPrefix) }

// ListTenantAuditEvents implements the service.
func (s anyTrail) ListTenantAuditEvents(ctx context.Context, req *v1.ListTenantAuditEventsRequest) (*v1.ListAuditEventsResponse, error) {
	return s.list(ctx, tenantOf(req.GetTenant()), req.GetFilter(), req.GetPageSize(), req.GetPageToken())
}

// ExportTenantAudit implements the service.
func (s anyTrail) ExportTenantAudit(ctx context.Context, req *v1.ExportTenantAuditRequest, stream granaryv1connect.AuditAdminServiceExportTenantAuditServerStream) error {
	return s.export(ctx, tenantOf(req.GetTenant()), false, stream.Send)
}

// GetTenantCheckpoint implements the service.
func (s anyTrail) GetTenantCheckpoint(ctx context.Context, req *v1.GetTenantCheckpointRequest) (*v1.GetCheckpointResponse, error) {
	return s.checkpoint(ctx, tenantOf(req.GetTenant()), req.GetRefresh())
}

// VerifyTenantAudit implements the service.
func (s anyTrail) VerifyTenantAudit(ctx context.Context, req *v1.VerifyTenantAuditRequest, stream granaryv1connect.AuditAdminServiceVerifyTenantAuditServerStream) error {
	return s.verify(ctx, tenantOf(req.GetTenant()), stream.Send)
}
