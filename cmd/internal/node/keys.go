package node

import (
	"context"
	"errors"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway"
	"granary.dev/granary/storage/sealed"
)

// keys are the keys of tenants as operators see them.
type keys struct{ store *sealed.Store }

var _ gateway.Keys = keys{}

// List implements gateway.Keys.
func (k keys) List(ctx context.Context, after string, limit int) ([]gateway.TenantKeys, string, error) {
	list, err := k.store.List(ctx, after, limit)
	if err != nil || len(list) == 0 {
		return nil, "", err
	}
	out := make([]gateway.TenantKeys, len(list))
	for i, r := range list {
		out[i] = tenantKeys(r)
	}
	return out, list[len(list)-1].Tenant, nil
}

func tenantKeys(r sealed.KeyInfo) gateway.TenantKeys {
	out := gateway.TenantKeys{Tenant: r.Tenant, Version: r.Version, KeyID: r.Primary, MasterID: r.Master, Created: r.Created,
		Rotated: r.Rotated, Destroyed: r.Destroyed}
	if r.Tenant == journal.StoreKeys {
		out.Tenant = ""
	}
	return out
}

// Rotate implements gateway.Keys.
func (k keys) Rotate(ctx context.Context, tenant string) (gateway.TenantKeys, error) {
	r, err := k.store.Rotate(ctx, tenant)
	return tenantKeys(r), keysError(err)
}

// rewrapTime is how long one call wraps keys, or writes values anew: within the deadline of calls.
const rewrapTime = 5 * time.Second

// RotateMaster implements gateway.Keys.
func (k keys) RotateMaster(ctx context.Context) (string, int, bool, error) {
	done, err := k.store.RotateMaster(ctx, rewrapTime)
	return done.Master, done.Wrapped, done.Complete, keysError(err)
}

// Reencrypt implements gateway.Keys.
func (k keys) Reencrypt(ctx context.Context, tenant, from string) (gateway.Reencryption, error) {
	r, err := k.store.Reencrypt(ctx, tenant, from, rewrapTime)
	return gateway.Reencryption{Seen: r.Seen, Sealed: r.Sealed, Broken: r.Broken, Stage: r.Stage, Next: r.Next, Destroyed: r.Dropped,
		Complete: r.Complete, NotBefore: r.NotBefore}, keysError(err)
}

func keysError(err error) error {
	switch {
	case errors.Is(err, sealed.ErrPosition):
		return kb.Errorf(kb.CodeInvalidArgument, kb.ReasonPageTokenInvalid, "The page token is none of a re-encryption.")
	case errors.Is(err, sealed.ErrUnknownTenant):
		return kb.Errorf(kb.CodeNotFound, kb.ReasonKeysNotFound, "The tenant has no keys: it never stored anything, or they are destroyed.")
	case errors.Is(err, sealed.ErrMasterKey):
		return kb.Errorf(kb.CodeFailedPrecondition, kb.ReasonMasterKeyMissing, "This node does not have the master key that some keys are wrapped by.")
	}
	return err
}
