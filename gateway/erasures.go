package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// Receipts reads the proofs of erasures; [journal.ReceiptStore] satisfies it.
type Receipts interface {
	Receipt(ctx context.Context, tenant, name string) (journal.Receipt, error)
	Receipts(ctx context.Context, q journal.ReceiptQuery) ([]journal.ReceiptRow, error)
}

// erasures serves granary.v1.ErasureService and, to operators, ErasureAdminService.
// Receipts never change, so that they are read from the store and not by way of the
// grains that wrote them, which are mostly gone.
type erasures struct{ *Gateway }

// GetErasureReceipt implements the service.
func (s erasures) GetErasureReceipt(ctx context.Context, req *v1.GetErasureReceiptRequest) (*v1.GetErasureReceiptResponse, error) {
	if s.cfg.Receipts == nil {
		return nil, noReceipt()
	}
	r, err := s.cfg.Receipts.Receipt(ctx, callOf(ctx).principal.Tenant, strings.TrimPrefix(req.GetName(), kb.ReceiptPrefix))
	if errors.Is(err, journal.ErrNotFound) {
		return nil, noReceipt()
	}
	if err != nil {
		return nil, err
	}
	out, err := receiptProto(r)
	return &v1.GetErasureReceiptResponse{Receipt: out}, err
}

func noReceipt() *kb.Error {
	return kb.Errorf(kb.CodeNotFound, kb.ReasonReceiptNotFound, "There is no such receipt, or the erasure is still under way.")
}

// ListErasureReceipts implements the service.
func (s erasures) ListErasureReceipts(ctx context.Context, req *v1.ListErasureReceiptsRequest) (*v1.ListErasureReceiptsResponse, error) {
	q := journal.ReceiptQuery{Tenant: callOf(ctx).principal.Tenant}
	if name := req.GetKnowledgeBase(); name != "" {
		id, _, err := parseKnowledgeBase("knowledge_base", name)
		if err != nil {
			return nil, err
		}
		q.KnowledgeBase = id
	}
	list, next, err := s.list(ctx, q, req.GetPageSize(), req.GetPageToken())
	return &v1.ListErasureReceiptsResponse{Receipts: list, NextPageToken: next}, err
}

// ListTenantErasures implements the operators' service.
func (s erasures) ListTenantErasures(ctx context.Context, req *v1.ListTenantErasuresRequest) (*v1.ListTenantErasuresResponse, error) {
	q := journal.ReceiptQuery{Tenant: strings.TrimPrefix(req.GetTenant(), tenantsPrefix), Cluster: true}
	list, next, err := s.list(ctx, q, req.GetPageSize(), req.GetPageToken())
	return &v1.ListTenantErasuresResponse{Receipts: list, NextPageToken: next}, err
}

// list reads a page.
func (s erasures) list(ctx context.Context, q journal.ReceiptQuery, size int32, token string) ([]*v1.ErasureReceipt, string, error) {
	after, err := parsePosition(token, "receipts", q.Tenant, q.KnowledgeBase)
	if err == nil && after != "" && json.Unmarshal([]byte(after), &q.After) != nil {
		err = invalid(kb.ReasonPageTokenInvalid, "page_token", "The page token is not one of this list.")
	}
	if err != nil || s.cfg.Receipts == nil {
		return nil, "", err
	}
	if size == 0 {
		size = defaultPage
	}
	q.Limit = int(size) + 1
	rows, err := s.cfg.Receipts.Receipts(ctx, q)
	if err != nil {
		return nil, "", err
	}
	next := ""
	if len(rows) > int(size) {
		rows = rows[:size]
		last := rows[size-1]
		last.Body = nil
		at, err := json.Marshal(last)
		if err != nil {
			return nil, "", err
		}
		next = position(string(at), "receipts", q.Tenant, q.KnowledgeBase)
	}
	var out []*v1.ErasureReceipt
	for _, row := range rows {
		r, err := receiptProto(row.Receipt)
		if err != nil {
			return nil, "", err
		}
		out = append(out, r)
	}
	return out, next, nil
}

// GetReceiptKey implements the service.
func (s erasures) GetReceiptKey(context.Context, *v1.GetReceiptKeyRequest) (*v1.GetReceiptKeyResponse, error) {
	if s.cfg.ReceiptKey == nil {
		return nil, noReceipt()
	}
	text, err := PublicKeyPEM(s.cfg.ReceiptKey)
	return &v1.GetReceiptKeyResponse{KeyId: kb.SigningKeyID(s.cfg.ReceiptKey), PublicKey: text}, err
}

// PublicKeyPEM writes a public key as clients keep it.
func PublicKeyPEM(key ed25519.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

func receiptProto(row journal.Receipt) (*v1.ErasureReceipt, error) {
	r, err := kb.ReadReceipt(row.Body)
	if err != nil {
		return nil, err
	}
	c := r.Counts
	return &v1.ErasureReceipt{
		Name: r.Name, Target: r.Target, Uid: r.UID, Tenant: r.Tenant, RequestedBy: r.RequestedBy, Reason: r.Reason,
		RequestTime: timestamppb.New(r.RequestTime), CompleteTime: timestamppb.New(r.CompleteTime),
		Counts: &v1.ErasureCounts{KnowledgeBases: c.KnowledgeBases, Documents: c.Documents, Chunks: c.Chunks, Vectors: c.Vectors,
			Blobs: c.Blobs, Events: c.Events, CachedChunks: c.CachedChunks, AccessEntries: c.AccessEntries},
		KeyDestroyed: r.KeyDestroyed, Node: r.Node, Envelope: row.Body,
	}, nil
}
