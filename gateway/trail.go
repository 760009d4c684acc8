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

// Trail reads and proves audits; [trail.Desk] is one. Tenants are scopes, see
// [journal.AuditScope].
type Trail interface {
	Accesses(ctx context.Context, q journal.AccessQuery) ([]journal.Access, error)
	// Checkpoint gives the last one, with refresh after making one if anything changed;
	// ok is false when there is none.
	Checkpoint(ctx context.Context, tenant string, refresh bool) (c journal.Checkpoint, ok bool, err error)
	// Export gives the lines of an export; without data, events carry hashes only.
	Export(ctx context.Context, tenant string, data bool, emit func(line []byte) error) error
	// Verify tells progress how many rows it has seen, now and then.
	Verify(ctx context.Context, tenant string, progress func(items int64) error) (*trail.Report, error)
	// Later tells since when later tenants have had the name of one.
	Later(ctx context.Context, tenant string) ([]time.Time, error)
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

func (s trails) verify(ctx context.Context, tenant string, later []*timestamppb.Timestamp, send func(*v1.VerifyAuditResponse) error) error {
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
	report := encodeReport(r)
	report.LaterLives = later
	return put(&v1.VerifyAuditResponse{Items: r.Events + r.Accesses + r.Checkpoints, Report: report})
}

func encodeReport(r *trail.Report) *v1.AuditReport {
	out := &v1.AuditReport{MoreProblems: r.More, Journals: r.Journals, Events: r.Events, UnchainedEvents: r.Unchained, Streams: r.Streams,
		Accesses: r.Accesses, Checkpoints: r.Checkpoints, Uncovered: r.Uncovered, LastCheckpoint: r.Last, LastCheckpointHash: r.LastHash,
		Retired: r.Retired, FirstCheckpoint: r.First}
	if r.Last > 0 {
		out.LastCheckpointTime, out.FirstCheckpointTime = timestamppb.New(r.LastTime), timestamppb.New(r.FirstTime)
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

// own is the caller's part of the audit.
func (ownTrail) own(ctx context.Context) string {
	p := callOf(ctx).principal
	return journal.AuditScope(p.Tenant, p.since)
}

// ListAuditEvents implements the service.
func (s ownTrail) ListAuditEvents(ctx context.Context, req *v1.ListAuditEventsRequest) (*v1.ListAuditEventsResponse, error) {
	return s.list(ctx, s.own(ctx), req.GetFilter(), req.GetPageSize(), req.GetPageToken())
}

// ExportAudit implements the service.
func (s ownTrail) ExportAudit(ctx context.Context, _ *v1.ExportAuditRequest, stream granaryv1connect.AuditServiceExportAuditServerStream) error {
	return s.export(ctx, s.own(ctx), true, stream.Send)
}

// GetCheckpoint implements the service.
func (s ownTrail) GetCheckpoint(ctx context.Context, req *v1.GetCheckpointRequest) (*v1.GetCheckpointResponse, error) {
	return s.checkpoint(ctx, s.own(ctx), req.GetRefresh())
}

// VerifyAudit implements the service.
func (s ownTrail) VerifyAudit(ctx context.Context, _ *v1.VerifyAuditRequest, stream granaryv1connect.AuditServiceVerifyAuditServerStream) error {
	return s.verify(ctx, s.own(ctx), nil, stream.Send)
}

// anyTrail serves granary.v1.AuditAdminService, to operators.
type anyTrail struct{ trails }

// scopeOf is the part of the audit an operator names.
func scopeOf(name string, life *timestamppb.Timestamp) (string, error) {
	tenant := strings.TrimPrefix(name, tenantsPrefix)
	switch {
	case life == nil:
		return tenant, nil
	case !life.IsValid() || tenant == "":
		return "", invalid(kb.ReasonRequestInvalid, "life", "The life is not one of later_lives of a tenant.")
	}
	return journal.AuditScope(tenant, life.AsTime()), nil
}

// later lists the later tenants of a name.
func (s anyTrail) later(ctx context.Context, scope string) ([]*timestamppb.Timestamp, error) {
	t, err := s.trail()
	if err != nil {
		return nil, err
	}
	tenant, _ := journal.ParseAuditScope(scope)
	if tenant == "" {
		return nil, nil
	}
	list, err := t.Later(ctx, tenant)
	var out []*timestamppb.Timestamp
	for _, since := range list {
		out = append(out, timestamppb.New(since))
	}
	return out, err
}

// ListTenantAuditEvents implements the service.
func (s anyTrail) ListTenantAuditEvents(ctx context.Context, req *v1.ListTenantAuditEventsRequest) (*v1.ListAuditEventsResponse, error) {
	scope, err := scopeOf(req.GetTenant(), req.GetLife())
	if err != nil {
		return nil, err
	}
	out, err := s.list(ctx, scope, req.GetFilter(), req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	out.LaterLives, err = s.later(ctx, scope)
	return out, err
}

// ExportTenantAudit implements the service.
func (s anyTrail) ExportTenantAudit(ctx context.Context, req *v1.ExportTenantAuditRequest, stream granaryv1connect.AuditAdminServiceExportTenantAuditServerStream) error {
	scope, err := scopeOf(req.GetTenant(), req.GetLife())
	if err != nil {
		return err
	}
	return s.export(ctx, scope, false, stream.Send)
}

// GetTenantCheckpoint implements the service.
func (s anyTrail) GetTenantCheckpoint(ctx context.Context, req *v1.GetTenantCheckpointRequest) (*v1.GetCheckpointResponse, error) {
	scope, err := scopeOf(req.GetTenant(), req.GetLife())
	if err != nil {
		return nil, err
	}
	return s.checkpoint(ctx, scope, req.GetRefresh())
}

// VerifyTenantAudit implements the service.
func (s anyTrail) VerifyTenantAudit(ctx context.Context, req *v1.VerifyTenantAuditRequest, stream granaryv1connect.AuditAdminServiceVerifyTenantAuditServerStream) error {
	scope, err := scopeOf(req.GetTenant(), req.GetLife())
	if err != nil {
		return err
	}
	later, err := s.later(ctx, scope)
	if err != nil {
		return err
	}
	return s.verify(ctx, scope, later, stream.Send)
}
