package node

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"

	"granary.dev/granary/gateway/auth"
)

// openReceiptKey reads the key that signs receipts of erasures. It is of its own, so
// that receipts go on being good when the keys of tokens change: in the file that is
// configured, else sealed in the store.
func (n *Node) openReceiptKey(ctx context.Context) error {
	if path := n.cfg.Receipts.KeyFile; path != "" {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			if text, err = auth.NewKeyPEM(); err == nil {
				err = writeDurable(path, text)
			}
		}
		if err != nil {
			return configErrorf("receipts.key_file: %w", err)
		}
		n.receipts, err = parseReceiptKey(text)
		return err
	}
	text, err := n.ownSecret(ctx, "receipt-signing-key", "receipt-key", auth.NewKeyPEM)
	if err == nil {
		n.receipts, err = parseReceiptKey(text)
	}
	return err
}

func parseReceiptKey(text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, configErrorf("receipts.key_file: there is no PEM block")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, configErrorf("receipts.key_file: it is no PKCS #8 key")
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, configErrorf("receipts.key_file: it is not an Ed25519 key")
	}
	return key, nil
}

// receiptPublicKey is what receipts are checked with.
func (n *Node) receiptPublicKey() ed25519.PublicKey {
	public, _ := n.receipts.Public().(ed25519.PublicKey)
	return public
}
