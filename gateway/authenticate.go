package gateway

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"connectrpc.com/connect/v2"
	"granary.dev/granary/actors/kb"
	v1 "granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// methodRoles names the role each method needs. A method without a row is refused.
var methodRoles = map[string]string{
	v1.TenantServiceGetTenantProcedure:          RoleViewer,
	v1.TenantServiceUpdateTenantConfigProcedure: RoleAdmin,

	v1.KnowledgeBaseServiceCreateKnowledgeBaseProcedure: RoleEditor,
	v1.KnowledgeBaseServiceGetKnowledgeBaseProcedure:    RoleViewer,
	v1.KnowledgeBaseServiceListKnowledgeBasesProcedure:  RoleViewer,
	v1.KnowledgeBaseServiceUpdateKnowledgeBaseProcedure: RoleEditor,
	v1.KnowledgeBaseServiceDeleteKnowledgeBaseProcedure: RoleAdmin,

	v1.DocumentServiceCreateDocumentProcedure:    RoleEditor,
	v1.DocumentServiceUploadDocumentProcedure:    RoleEditor,
	v1.DocumentServiceAppendUploadProcedure:      RoleEditor,
	v1.DocumentServiceGetDocumentProcedure:       RoleViewer,
	v1.DocumentServiceListDocumentsProcedure:     RoleViewer,
	v1.DocumentServiceDeleteDocumentProcedure:    RoleEditor,
	v1.DocumentServiceCancelDocumentProcedure:    RoleEditor,
	v1.DocumentServiceReprocessDocumentProcedure: RoleEditor,
	v1.DocumentServiceListChunksProcedure:        RoleViewer,
	v1.DocumentServiceGetDocumentTextProcedure:   RoleViewer,

	v1.SearchServiceSearchProcedure:     RoleViewer,
	v1.EventServiceWatchEventsProcedure: RoleViewer,
}

// maxTokenBytes bounds what is hashed and parsed for somebody not known yet.
const maxTokenBytes = 8 << 10

// BearerToken returns the token of an Authorization header: scheme Bearer in any
// case, one token of RFC 6750's characters, at most 8 KiB.
func BearerToken(header string) (string, bool) {
	if len(header) > maxTokenBytes+len("Bearer ") {
		return "", false
	}
	scheme, token, ok := strings.Cut(header, " ")
	token = strings.Trim(token, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", false
	}
	for i := range len(token) {
		c := token[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~+/=", c) >= 0:
		default:
			return "", false
		}
	}
	return token, true
}

// unauthenticated says one thing for every way a credential can be wrong, so
// that trying tokens teaches nothing.
func unauthenticated() *kb.Error {
	return kb.Errorf(kb.CodeUnauthenticated, kb.ReasonUnauthenticated, "A valid bearer token is required.")
}

// authenticate finds the principal, checks the method's role and ends the call
// when the credential expires.
func (g *Gateway) authenticate(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		info, ok := connect.CallInfoForServerContext(ctx)
		if !ok {
			return errors.New("gateway: call without call info")
		}
		p, err := g.principal(ctx, info.RequestHeader().Values("Authorization"))
		if err != nil {
			if kb.Is(err, kb.ReasonUnauthenticated) {
				info.ResponseHeader().Set("WWW-Authenticate", `Bearer realm="granary"`)
			}
			return err
		}
		callOf(ctx).principal = p
		if spec.Schema != nil { // a method this server has
			if err := authorize(p, spec.Procedure); err != nil {
				return err
			}
		}
		if !p.Expires.IsZero() {
			expired := unauthenticated() // one value for the whole life of the context
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadlineCause(ctx, p.Expires, expired)
			defer cancel()
		}
		return causeOf(ctx, next(ctx, spec, stream))
	}
}

func (g *Gateway) principal(ctx context.Context, headers []string) (Principal, error) {
	if len(headers) != 1 {
		return Principal{}, unauthenticated()
	}
	token, ok := BearerToken(headers[0])
	if !ok {
		return Principal{}, unauthenticated()
	}
	p, err := g.cfg.Verifier.Verify(ctx, token)
	switch {
	case err == nil && p.Valid():
		return p, nil
	case err == nil:
		err = errors.New("the verified principal has no fit tenant or subject")
	case ctx.Err() != nil:
		return Principal{}, err
	case isUnavailable(err):
		return Principal{}, err
	}
	g.log.DebugContext(ctx, "credential refused", slog.String("request_id", callOf(ctx).requestID), slog.Any("error", err))
	return Principal{}, unauthenticated()
}

func authorize(p Principal, procedure string) error {
	role, ok := methodRoles[procedure]
	if !ok {
		return errors.New("gateway: no role is set for " + procedure)
	}
	if !p.may(role) {
		return kb.Errorf(kb.CodePermissionDenied, kb.ReasonPermission, "This needs the role %s.", role).
			With("required_role", role)
	}
	return nil
}

func isUnavailable(err error) bool {
	e, ok := errors.AsType[*kb.Error](err)
	return ok && e.Code == kb.CodeUnavailable
}
