package node

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/auth"
)

func (c *Completed) checkAuth() error {
	var errs []error
	if c.Auth.KeyFile == "" && !c.sharedKey() && len(c.Auth.Issuers) == 0 {
		errs = append(errs, configErrorf("auth: nobody could call this server; name a key_file or issuers, or use --dev"))
	}
	if len(c.Auth.OldKeyFiles) > 0 && c.Auth.KeyFile == "" {
		errs = append(errs, configErrorf("auth.old_key_files: there is no key_file they could be older than"))
	}
	if err := auth.CheckIssuers(c.Auth.Issuers); err != nil {
		errs = append(errs, configErrorf("auth.issuers: %w", err))
	}
	return errors.Join(errs...)
}

var (
	_ gateway.Verifier         = (*auth.Tokens)(nil)
	_ gateway.OperatorVerifier = (*auth.Tokens)(nil)
)

// openAuthority finds out whose tokens are good, and makes the key of upload tokens.
func (n *Node) openAuthority(ctx context.Context) error {
	key, err := n.openSigningKey(ctx)
	if err != nil {
		return err
	}
	if n.tokens, err = auth.NewTokens(auth.Config{Local: n.auth, Issuers: n.cfg.Auth.Issuers, Logger: n.log}); err != nil {
		return err
	}
	n.push("issuers", func(context.Context) error {
		n.tokens.Close()
		return nil
	})
	if err := n.tokens.Warm(ctx); err != nil {
		return err
	}
	// What the MACs of API keys are made with outlives every signing key.
	if n.pepper, err = n.ownSecret(ctx, "api-key-pepper"); err != nil {
		return err
	}
	// All nodes that share the signing key share the key of upload tokens.
	n.uploads, err = hkdf.Key(sha256.New, key, nil, "granary upload tokens 1", 32)
	return err
}

// openSigningKey reads the signing key from its file, or from the store: all
// development servers on one database know each other's tokens. A server that
// leaves tokens to issuers has none; it gives a secret for the rest.
func (n *Node) openSigningKey(ctx context.Context) (key []byte, err error) {
	switch {
	case n.cfg.sharedKey():
		if key, err = n.secret(ctx, "dev-signing-key", auth.NewKeyPEM); err == nil {
			n.auth, err = auth.FromPEM(key)
		}
	case n.cfg.Auth.KeyFile != "":
		if n.auth, err = auth.Open(n.cfg.Auth.KeyFile, n.cfg.Auth.OldKeyFiles...); err == nil {
			key, err = os.ReadFile(n.cfg.Auth.KeyFile)
		}
	default:
		key, err = n.ownSecret(ctx, "upload-secret")
	}
	return key, err
}

// secretBytes is the length of the secrets a server makes for itself.
const secretBytes = 32

// ownSecret reads a secret that servers made for themselves once: in the store when
// they share one, else in a file of the data folder that only its owner may read.
func (n *Node) ownSecret(ctx context.Context, name string) ([]byte, error) {
	made := func() ([]byte, error) {
		out := make([]byte, secretBytes)
		_, err := rand.Read(out)
		return out, err
	}
	if n.cfg.shared() {
		return n.secret(ctx, name, made)
	}
	path := filepath.Join(n.cfg.Data, name)
	out, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if out, err = made(); err == nil {
			err = writeDurable(path, out)
		}
	}
	if err == nil && len(out) != secretBytes {
		err = fmt.Errorf("%s has %d bytes, not %d", path, len(out), secretBytes)
	}
	return out, err
}
