package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/sealed"
)

// EncryptionConfig says what wraps the tenants' keys. One of the settings, or the
// environment variable GRANARY_MASTER_KEY, which holds what the file would.
type EncryptionConfig struct {
	// MasterKeyFile holds master keys, one of 32 bytes a line in base64: the first
	// wraps, all unwrap. It is read again when a key is missing. Default, for a node
	// that is alone: Data/master-key, made at the first start.
	MasterKeyFile string `yaml:"master_key_file"`
	// KMSURI names a key of a key service that wraps the master key, which is kept in
	// the store: aws-kms://…, gcp-kms://…, hcvault://…
	KMSURI string `yaml:"kms_uri"`
	// KMSHelper is the program that speaks to key services. Default granary-kms,
	// beside this program or in PATH.
	KMSHelper string `yaml:"kms_helper"`
}

// masterKeyEnv may hold the master keys.
const masterKeyEnv = "GRANARY_MASTER_KEY"

// ownMasterKey is the file of a node that is alone and was given no key.
func (c *Completed) ownMasterKey() string { return filepath.Join(c.Data, "master-key") }

func (c *Completed) checkEncryption() error {
	e := c.Encryption
	c.masterKeys = sealed.Secret(os.Getenv(masterKeyEnv))
	given := 0
	for _, set := range []bool{e.MasterKeyFile != "", e.KMSURI != "", len(c.masterKeys) > 0} {
		if set {
			given++
		}
	}
	switch {
	case given > 1:
		return configErrorf("encryption: master_key_file, kms_uri and %s exclude each other", masterKeyEnv)
	case given == 0 && c.shared() && !c.Dev:
		return configErrorf("encryption: nodes that share a database share a master key: set encryption.master_key_file, "+
			"encryption.kms_uri or %s (%q makes a key)", masterKeyEnv, "granary master-key new")
	}
	return nil
}

// seal puts encryption before the store. The node refuses to start with a master key
// that is not the store's.
func (n *Node) seal(ctx context.Context, inner sealed.Inner) (*sealed.Store, error) {
	var out *sealed.Store
	err := n.whenReached(ctx, func() error {
		master, err := n.masterKey(ctx, inner)
		if err != nil {
			return fmt.Errorf("encryption: %w", err)
		}
		out, err = sealed.Open(ctx, inner, sealed.Config{Master: master, Logger: n.log, Lone: !n.cfg.shared(), Idle: n.cfg.Memory.TrimAfter})
		if err != nil {
			return fmt.Errorf("encryption: %w", err)
		}
		return nil
	})
	return out, err
}

// masterKey finds what wraps the tenants' keys.
func (n *Node) masterKey(ctx context.Context, store journal.KeyStore) (*sealed.Master, error) {
	e := n.cfg.Encryption
	switch {
	case len(n.cfg.masterKeys) > 0:
		return sealed.FixedMaster(n.cfg.masterKeys)
	case e.KMSURI != "":
		return sealed.KMSMaster(ctx, store, sealed.HelperKMS{Program: kmsHelper(e.KMSHelper), URI: e.KMSURI}, e.KMSURI)
	case e.MasterKeyFile != "":
		return sealed.OpenMaster(ctx, masterKeyFile(e.MasterKeyFile))
	case n.cfg.shared(): // with Dev: all development servers on one database share one
		text, err := n.secret(ctx, "dev-master-key", func() ([]byte, error) { return sealed.NewMasterKey() })
		if err != nil {
			return nil, err
		}
		return sealed.FixedMaster(text)
	}
	path := n.cfg.ownMasterKey()
	if err := n.makeMasterKey(ctx, store, path); err != nil {
		return nil, err
	}
	return sealed.OpenMaster(ctx, masterKeyFile(path))
}

func masterKeyFile(path string) func(context.Context) (sealed.Secret, error) {
	return func(context.Context) (sealed.Secret, error) {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: there is no file %s", sealed.ErrMasterKey, path)
		}
		return text, err
	}
}

// makeMasterKey makes the file of a new store. A store that has keys already needs the
// one they were made under.
func (n *Node) makeMasterKey(ctx context.Context, store journal.KeyStore, path string) error {
	switch _, err := os.Stat(path); {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	there, err := sealed.Exists(ctx, store)
	if err != nil {
		return err
	}
	if there {
		return fmt.Errorf("%w: what is stored here was encrypted, and there is no file %s", sealed.ErrMasterKey, path)
	}
	text, err := sealed.NewMasterKey()
	if err != nil {
		return err
	}
	if err := writeDurable(path, text); err != nil {
		return fmt.Errorf("write the master key: %w", err)
	}
	n.log.Warn("a master key was made: without it nothing that is stored can be read. Back it up apart from the data, or better keep it elsewhere "+
		"(encryption.master_key_file, GRANARY_MASTER_KEY or encryption.kms_uri)", "file", path)
	return nil
}

// writeDurable writes a new file that only its owner may read, and makes sure that
// it is there before anything depends on it.
func writeDurable(path string, data []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a folder durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// kmsHelper finds the program that speaks to key services.
func kmsHelper(set string) string {
	if set != "" {
		return set
	}
	if own, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(own), "granary-kms")
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	return "granary-kms"
}

// EncryptionStats counts how encryption failed since the start.
func (n *Node) EncryptionStats() sealed.Stats { return n.sealed.Stats() }
