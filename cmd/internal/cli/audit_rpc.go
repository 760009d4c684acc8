package cli

import (
	"context"
	"errors"
	"io"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// checkpoint makes and gives the last checkpoint.
func (s *session) checkpoint(ctx context.Context, of auditScope) (*granaryv1.GetCheckpointResponse, error) {
	if of.given {
		return call(ctx, s, s.audits.GetTenantCheckpoint, &granaryv1.GetTenantCheckpointRequest{Tenant: of.tenant, Life: of.life, Refresh: true})
	}
	return call(ctx, s, s.audit.GetCheckpoint, &granaryv1.GetCheckpointRequest{Refresh: true})
}

// received is a stream of the server, read message by message.
type received[M any] struct {
	receive func() (*M, error)
	last    *M
	failed  error
}

// next reads a message; false at the end, and when reading failed.
func (r *received[M]) next() bool {
	r.last, r.failed = r.receive()
	return r.failed == nil
}

func (r *received[M]) message() *M { return r.last }

func (r *received[M]) err() error {
	if errors.Is(r.failed, io.EOF) {
		return nil
	}
	return r.failed
}

// exportAudit opens an export.
func (s *session) exportAudit(ctx context.Context, of auditScope) (*received[granaryv1.ExportAuditResponse], error) {
	if of.given {
		stream, err := s.audits.ExportTenantAudit(ctx, &granaryv1.ExportTenantAuditRequest{Tenant: of.tenant, Life: of.life})
		if err != nil {
			return nil, err
		}
		return &received[granaryv1.ExportAuditResponse]{receive: stream.Receive}, nil
	}
	stream, err := s.audit.ExportAudit(ctx, &granaryv1.ExportAuditRequest{})
	if err != nil {
		return nil, err
	}
	return &received[granaryv1.ExportAuditResponse]{receive: stream.Receive}, nil
}

// verifyAudit has the server verify, and gives its report.
func (s *session) verifyAudit(ctx context.Context, of auditScope, progress func(items int64)) (*granaryv1.AuditReport, error) {
	r := &received[granaryv1.VerifyAuditResponse]{}
	if of.given {
		stream, err := s.audits.VerifyTenantAudit(ctx, &granaryv1.VerifyTenantAuditRequest{Tenant: of.tenant, Life: of.life})
		if err != nil {
			return nil, err
		}
		r.receive = stream.Receive
	} else {
		stream, err := s.audit.VerifyAudit(ctx, &granaryv1.VerifyAuditRequest{})
		if err != nil {
			return nil, err
		}
		r.receive = stream.Receive
	}
	for r.next() {
		if report := r.message().GetReport(); report != nil {
			return report, nil
		}
		progress(r.message().GetItems())
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return nil, &failure{message: "the server ended the verification without a report"}
}
