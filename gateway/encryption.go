package gateway

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"granary.dev/granary/actors/kb"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// Keys is what operators see and do about the keys everything is stored under. Errors
// are *kb.Error, a context's or journal.ErrUnavailable, with the reasons of
// granary/v1/encryption.proto. No method gives a key.
type Keys interface {
	// List lists up to limit tenants' keys after a position, "" from the start. next
	// is opaque and "" at the end.
	List(ctx context.Context, after string, limit int) (list []TenantKeys, next string, err error)
	Rotate(ctx context.Context, tenant string) (TenantKeys, error)
	// RotateMaster works for some seconds; complete is false while keys are left.
	RotateMaster(ctx context.Context) (master string, wrapped int, complete bool, err error)
	// Reencrypt works for some seconds, from a position that is as opaque as that of List.
	Reencrypt(ctx context.Context, tenant, from string) (Reencryption, error)
}

// Reencryption is what one call has written anew.
type Reencryption struct {
	Seen, Sealed, Broken int64
	Stage, Next          string // "" at the end of a pass
	Destroyed            int    // earlier keys
	Complete             bool
	NotBefore            time.Time // zero: does not matter
}

// TenantKeys is what may be known of a tenant's keys.
type TenantKeys struct {
	Tenant           string // "": the store's own
	Version          int64
	KeyID, MasterID  string
	Created, Rotated time.Time
	Destroyed        bool
}

// encryption serves granary.v1.EncryptionService, to operators.
type encryption struct{ operations }

func (s encryption) keys() (Keys, error) {
	if s.cfg.Keys == nil {
		return nil, kb.Errorf(kb.CodeUnimplemented, kb.ReasonUnknownOperation, "This server does not encrypt.")
	}
	return s.cfg.Keys, nil
}

// ListKeys implements the service.
func (s encryption) ListKeys(ctx context.Context, req *v1.ListKeysRequest) (*v1.ListKeysResponse, error) {
	after, err := parsePosition(req.GetPageToken(), "keys")
	if err != nil {
		return nil, err
	}
	keys, err := s.keys()
	if err != nil {
		return nil, err
	}
	list, next, err := keys.List(ctx, after, pageLimit(req.GetPageSize()))
	if err != nil {
		return nil, err
	}
	out := &v1.ListKeysResponse{NextPageToken: position(next, "keys")}
	for _, k := range list {
		out.Keys = append(out.Keys, encodeKeys(k))
	}
	return out, nil
}

// RotateKey implements the service.
func (s encryption) RotateKey(ctx context.Context, req *v1.RotateKeyRequest) (*v1.RotateKeyResponse, error) {
	keys, err := s.keys()
	if err != nil {
		return nil, err
	}
	tenant := strings.TrimPrefix(req.GetTenant(), tenantsPrefix)
	s.record(ctx, slog.String("rotated_tenant", tenant))
	k, err := keys.Rotate(ctx, tenant)
	if err != nil {
		return nil, err
	}
	return &v1.RotateKeyResponse{Keys: encodeKeys(k)}, nil
}

// RotateMasterKey implements the service.
func (s encryption) RotateMasterKey(ctx context.Context, _ *v1.RotateMasterKeyRequest) (*v1.RotateMasterKeyResponse, error) {
	keys, err := s.keys()
	if err != nil {
		return nil, err
	}
	s.record(ctx)
	master, wrapped, complete, err := keys.RotateMaster(ctx)
	if err != nil {
		return nil, err
	}
	return &v1.RotateMasterKeyResponse{MasterKeyId: master, WrappedCount: int32(wrapped), Complete: complete}, nil
}

// ReencryptTenant implements the service.
func (s encryption) ReencryptTenant(ctx context.Context, req *v1.ReencryptTenantRequest) (*v1.ReencryptTenantResponse, error) {
	from, err := parsePosition(req.GetPageToken(), "reencryption")
	if err != nil {
		return nil, err
	}
	keys, err := s.keys()
	if err != nil {
		return nil, err
	}
	tenant := strings.TrimPrefix(req.GetTenant(), tenantsPrefix)
	s.record(ctx, slog.String("reencrypted_tenant", tenant))
	r, err := keys.Reencrypt(ctx, tenant, from)
	if err != nil {
		return nil, err
	}
	out := &v1.ReencryptTenantResponse{SeenCount: r.Seen, SealedCount: r.Sealed, BrokenCount: r.Broken, Stage: r.Stage,
		NextPageToken: position(r.Next, "reencryption"), DestroyedCount: int32(r.Destroyed), Complete: r.Complete}
	if !r.NotBefore.IsZero() {
		out.NotBefore = timestamppb.New(r.NotBefore)
	}
	return out, nil
}

func encodeKeys(k TenantKeys) *v1.TenantKeys {
	out := &v1.TenantKeys{Version: k.Version, KeyId: k.KeyID, MasterKeyId: k.MasterID, CreateTime: timestamppb.New(k.Created),
		RotateTime: timestamppb.New(k.Rotated), Destroyed: k.Destroyed}
	if k.Tenant != "" {
		out.Tenant = tenantsPrefix + k.Tenant
	}
	return out
}
