package sealed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"granary.dev/granary/actors/journal"
)

// KMS is a key of a key service. It wraps the master key, not tenants' keys: a node
// speaks to the service when it starts and when the master key is rotated.
type KMS interface {
	Wrap(ctx context.Context, plain Secret, bind []byte) (wrapped []byte, err error)
	Unwrap(ctx context.Context, wrapped, bind []byte) (Secret, error)
}

// kmsBind is what a wrapped master key is bound to.
var kmsBind = []byte("granary master key 1")

// KMSMaster reads the master keys from the store, where the key service's key wraps
// them, and makes the first one. name is kept with it, for operators.
func KMSMaster(ctx context.Context, store journal.KeyStore, kms KMS, name string) (*Master, error) {
	k := &kmsKeys{store: store, kms: kms, name: name}
	if _, err := store.Keys(ctx, journal.MasterKeys); errors.Is(err, journal.ErrNotFound) {
		there, err := Exists(ctx, store)
		if err != nil {
			return nil, err
		}
		if there {
			return nil, fmt.Errorf("%w: the store was encrypted without a key service", ErrMasterKey)
		}
		if err := k.add(ctx); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	m, err := OpenMaster(ctx, k.load)
	if m != nil {
		m.add = func(ctx context.Context) error {
			if err := k.add(ctx); err != nil {
				return err
			}
			return m.Reload(ctx)
		}
	}
	return m, err
}

// kmsKeys is the record of master keys that a key service wraps.
type kmsKeys struct {
	store journal.KeyStore
	kms   KMS
	name  string
}

func (k *kmsKeys) load(ctx context.Context) (Secret, error) {
	rec, err := k.store.Keys(ctx, journal.MasterKeys)
	if err != nil {
		return nil, err
	}
	text, err := k.kms.Unwrap(ctx, rec.Wrapped, kmsBind)
	if err != nil {
		return nil, fmt.Errorf("%w: %s does not unwrap it (it was wrapped by %s): %w", ErrMasterKey, k.name, rec.Master, err)
	}
	return text, nil
}

// add puts a new key before the others.
func (k *kmsKeys) add(ctx context.Context) error {
	for {
		text, err := NewMasterKey()
		if err != nil {
			return err
		}
		now := time.Now()
		next := journal.KeyRecord{Tenant: journal.MasterKeys, Version: 1, Master: k.name, Primary: "master", Created: now, Rotated: now}
		rec, err := k.store.Keys(ctx, journal.MasterKeys)
		switch {
		case err == nil:
			old, err := k.load(ctx)
			if err != nil {
				return err
			}
			text = append(text, old...)
			next.Version = rec.Version + 1
		case !errors.Is(err, journal.ErrNotFound):
			return err
		}
		if next.Wrapped, err = k.kms.Wrap(ctx, text, kmsBind); err != nil {
			return fmt.Errorf("sealed: %s does not wrap the master key: %w", k.name, err)
		}
		err = k.store.PutKeys(ctx, next)
		if next.Version == 1 && errors.Is(err, journal.ErrKeysChanged) {
			return nil // another node was faster: its key is as good
		}
		if !errors.Is(err, journal.ErrKeysChanged) {
			return err
		}
	}
}

// HelperKMS speaks to a key service through a program of its own, so that its
// drivers are no part of this one: PROGRAM wrap|unwrap --uri URI --bind TEXT, from
// standard input to standard output.
type HelperKMS struct {
	Program string
	URI     string
}

// helperTime bounds one call of the helper.
const helperTime = 30 * time.Second

// Wrap implements KMS.
func (h HelperKMS) Wrap(ctx context.Context, plain Secret, bind []byte) ([]byte, error) {
	return h.run(ctx, "wrap", plain, bind)
}

// Unwrap implements KMS.
func (h HelperKMS) Unwrap(ctx context.Context, wrapped, bind []byte) (Secret, error) {
	return h.run(ctx, "unwrap", wrapped, bind)
}

func (h HelperKMS) run(ctx context.Context, what string, in, bind []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, helperTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Program, what, "--uri", h.URI, "--bind", string(bind))
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &said
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", h.Program, what, err, strings.TrimSpace(said.String()))
	}
	return out.Bytes(), nil
}
