package node

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"os"

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
	if n.pepper, err = n.randomSecret(ctx, "api-key-pepper"); err != nil {
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
		key, err = n.randomSecret(ctx, "upload-secret")
	}
	return key, err
}
