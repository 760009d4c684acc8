package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// Auditor makes records of calls durable; [granary.dev/granary/gateway/audit.Log] is one.
type Auditor interface {
	// Ready tells whether a record could be written now.
	Ready() error
	// Record returns when the record is durable, or with why it is not.
	Record(a journal.Access) error
}

// Kinds of credentials, as the audit has them.
const (
	credentialToken    = "token"
	credentialAPIKey   = "api_key"
	credentialOperator = "operator"
)

// audited records each call before its answer leaves, refusals too (I1): a call of one
// answer before that answer, a stream when it is opened and when it ends. It stands
// outside of encodeErrors, so that it records what the client is told.
func (g *Gateway) audited(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		callOf(ctx).remote = g.remote(ctx)
		if g.cfg.Audit == nil {
			return next(ctx, spec, stream)
		}
		s := &auditedStream{ServerStream: stream, g: g, ctx: ctx, spec: spec, start: g.now()}
		if err := g.cfg.Audit.Ready(); err != nil {
			return s.refuse(err, false)
		}
		return s.end(next(ctx, spec, s))
	}
}

// auditedStream is one call. Receive and Send may run concurrently in a stream; what
// they share is written before the first Receive returns.
type auditedStream struct {
	connect.ServerStream
	g     *Gateway
	ctx   context.Context
	spec  connect.Spec
	start time.Time

	received bool
	tenant   string // whose part of the audit an operator's request is about
	resource string
	recorded bool // the end of the call is
	refused  bool // because it could not be recorded
}

// Receive implements connect.ServerStream.
func (s *auditedStream) Receive(msg any) error {
	if err := s.ServerStream.Receive(msg); err != nil || s.received {
		return err
	}
	s.received = true
	s.tenant, s.resource = s.g.subjects[s.spec.Procedure].of(msg)
	if callOf(s.ctx).operator.Subject != "" { // before the call, which may end the tenant
		s.tenant = s.g.scopeNow(s.ctx, s.tenant)
	}
	if s.spec.StreamType == connect.StreamTypeUnary {
		return nil
	}
	if err := s.record(journal.PhaseOpen, nil); err != nil {
		return s.refuse(err, false)
	}
	return nil
}

// Send implements connect.ServerStream.
func (s *auditedStream) Send(msg any) error {
	if single := s.spec.StreamType == connect.StreamTypeUnary || s.spec.StreamType == connect.StreamTypeClient; single && !s.recorded {
		if err := s.record(s.last(), nil); err != nil {
			return s.refuse(err, s.changes())
		}
		s.recorded = true
	}
	return s.ServerStream.Send(msg)
}

// end records how the call ended, unless that was done with its answer.
func (s *auditedStream) end(err error) error {
	if s.recorded || s.refused {
		return err
	}
	if failed := s.record(s.last(), err); failed != nil {
		return s.refuse(failed, err != nil && s.changes())
	}
	return err
}

// last is the phase of the record that ends the call.
func (s *auditedStream) last() string {
	if s.spec.StreamType == connect.StreamTypeUnary {
		return journal.PhaseCall
	}
	return journal.PhaseEnd
}

func (s *auditedStream) changes() bool {
	return s.spec.IdempotencyLevel != connect.IdempotencyNoSideEffects
}

func (s *auditedStream) record(phase string, err error) error {
	c := callOf(s.ctx)
	a := journal.Access{Time: s.start, Phase: phase, Tenant: journal.AuditScope(c.principal.Tenant, c.principal.since), Principal: c.principal.Subject,
		Method: "unknown", Resource: s.resource, Remote: c.remote, RequestID: c.requestID, Code: "ok",
		Duration: s.g.now().Sub(s.start), Count: 1}
	switch {
	case c.operator.Subject != "":
		a.Tenant, a.Principal, a.Credential = s.tenant, c.operator.Subject, credentialOperator
	case c.principal.KeyID != "":
		a.Credential, a.KeyID = credentialAPIKey, c.principal.KeyID
	case c.principal.Subject != "":
		a.Credential = credentialToken
	}
	if s.spec.Schema != nil { // a method this server has: others' names are strangers' words
		a.Method = strings.TrimPrefix(s.spec.Procedure, "/")
	}
	switch {
	case connecthttp.IsNotModifiedError(err):
		a.Code = "not_modified"
	case err != nil:
		a.Code = connect.CodeOf(err).String()
		if e, ok := errors.AsType[*kb.Error](err); ok {
			a.Reason = e.Reason
		}
		if connect.CodeOf(err) == connect.CodeInvalidArgument {
			a.Resource = "" // what is not valid may be anything
		}
	}
	return s.g.cfg.Audit.Record(a)
}

// scopeNow is the part of the audit of who has a tenant's name now: what operators do to
// it, it sees. When the tenant cannot be asked it is the first one's.
func (g *Gateway) scopeNow(ctx context.Context, tenant string) string {
	if !ValidTenant(tenant) {
		return tenant
	}
	t, err := g.standing(context.WithoutCancel(ctx), callerID{tenant: tenant, subject: operatorSubject})
	if err != nil || t.access.GetSince() == nil {
		return tenant
	}
	return journal.AuditScope(tenant, t.access.GetSince().AsTime())
}

// refuse is the answer of a call that could not be recorded. doubt: it may have been
// carried out.
func (s *auditedStream) refuse(err error, doubt bool) error {
	s.refused = true
	s.g.log.DebugContext(s.ctx, "a call is refused, since its audit cannot be written", slog.String("method", s.spec.Procedure),
		slog.String("request_id", callOf(s.ctx).requestID), slog.Any("error", err))
	e := kb.Errorf(kb.CodeUnavailable, kb.ReasonAuditUnavailable, "The audit cannot be written at the moment, and nothing is done without it.")
	if doubt {
		e = kb.Errorf(kb.CodeUnavailable, kb.ReasonAuditUnavailable,
			"The request may have been carried out, but the audit of it could not be written; repeat it with the same idempotency key.").
			With("outcome", "unknown")
	}
	e = e.After(time.Second)
	if info, ok := connect.CallInfoForServerContext(s.ctx); ok {
		setErrorHeaders(info, e)
	}
	return wireError(e, callOf(s.ctx))
}

// maxHops bounds how many proxies are looked through.
const maxHops = 32

// remote is the address of the client: the peer's, or, when that is a trusted proxy,
// the last one in X-Forwarded-For that is not. What a client wrote there itself stands
// left of that and is never looked at.
func (g *Gateway) remote(ctx context.Context) string {
	info, ok := connect.CallInfoForServerContext(ctx)
	if !ok {
		return ""
	}
	peer, ok := hostOf(info.PeerAddr)
	if !ok || len(g.cfg.TrustedProxies) == 0 || !g.trusts(peer) {
		return textOf(peer, ok)
	}
	hops := strings.Split(strings.Join(info.RequestHeader().Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= max(0, len(hops)-maxHops); i-- {
		hop, ok := hostOf(strings.TrimSpace(hops[i]))
		if !ok {
			break // the proxy before said nothing of use
		}
		if peer = hop; !g.trusts(hop) {
			break
		}
	}
	return peer.String()
}

func (g *Gateway) trusts(a netip.Addr) bool {
	for _, p := range g.cfg.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// hostOf reads an address with or without a port.
func hostOf(s string) (netip.Addr, bool) {
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return a.Unmap().WithZone(""), err == nil
}

func textOf(a netip.Addr, ok bool) string {
	if !ok {
		return ""
	}
	return a.String()
}
