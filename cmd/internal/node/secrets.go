package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"granary.dev/granary/storage/postgres"
	"granary.dev/granary/storage/sealed"
)

// Secrets that servers make for themselves are sealed in the store. Not so, and why:
// what --dev makes (a signing key and tokens, which are for people to read, and of
// servers that share a database the master key itself), and what is configured, which
// is not ours to keep (signing keys, certificates, gossip keys, the master key).

// secretBytes is the length of secrets that are random bytes.
const secretBytes = 32

// randomSecret is ownSecret of random bytes.
func (n *Node) randomSecret(ctx context.Context, name string) ([]byte, error) {
	out, err := n.ownSecret(ctx, name, name, func() ([]byte, error) {
		out := make([]byte, secretBytes)
		_, err := rand.Read(out)
		return out, err
	})
	if err == nil && len(out) != secretBytes {
		err = fmt.Errorf("the secret %s has %d bytes, not %d", name, len(out), secretBytes)
	}
	return out, err
}

// ownSecret reads a secret that servers made for themselves once. Before secrets were
// sealed a node that was alone had it in a file of its data folder, and nodes that
// share a store had it there.
func (n *Node) ownSecret(ctx context.Context, name, file string, made func() ([]byte, error)) (out []byte, err error) {
	var former sealed.Former = plainFile{filepath.Join(n.cfg.Data, file)}
	if n.cfg.shared() {
		former = plainRow{n.database, name}
	}
	err = n.whenReached(ctx, func() error {
		out, err = n.sealed.Secret(ctx, name, former, made)
		return err
	})
	return out, err
}

// plainRow is a secret of servers that share a database, from before it was sealed.
type plainRow struct {
	store *postgres.Store
	name  string
}

// Take implements sealed.Former. The row stays, empty: a server of before finds that it
// has no secret, instead of making one that the others do not share.
func (r plainRow) Take(ctx context.Context) ([]byte, error) {
	return r.store.Secret(ctx, r.name, func() ([]byte, error) { return nil, nil })
}

// Wipe implements sealed.Former.
func (r plainRow) Wipe(ctx context.Context, old []byte) error {
	return r.store.EmptySecret(ctx, r.name, old)
}

// plainFile is a secret in a data folder, which one process uses at a time.
type plainFile struct{ path string }

// Take implements sealed.Former.
func (f plainFile) Take(context.Context) ([]byte, error) {
	out, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && len(bytes.Trim(out, "\x00")) == 0 { // Wipe did not come to its end
		return nil, os.Remove(f.path)
	}
	return out, err
}

// Wipe implements sealed.Former. The bytes are overwritten first, which is as much as a
// program can do; disks and file systems may keep copies.
func (f plainFile) Wipe(_ context.Context, old []byte) error {
	file, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	there := make([]byte, len(old))
	n, err := file.ReadAt(there, 0)
	if err != nil || !bytes.Equal(there[:n], old) {
		return errors.Join(err, file.Close())
	}
	_, err = file.WriteAt(make([]byte, len(old)), 0)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Remove(f.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(f.path))
}
