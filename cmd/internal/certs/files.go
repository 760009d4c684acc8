package certs

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	caFile     = "ca.pem"
	caKeyFile  = "ca-key.pem"
	gossipFile = "gossip.key"
	// gossipKeyBytes selects AES-256.
	gossipKeyBytes = 32
	secretMode     = fs.FileMode(0o600)
	publicMode     = fs.FileMode(0o644)
)

func certFile(node string) string { return node + ".pem" }
func keyFile(node string) string  { return node + "-key.pem" }

// request is what one run shall make.
type request struct {
	dir   string
	nodes []string
	hosts []string
	until time.Time
	force bool // make everything anew
}

// file is one that is to be written.
type file struct {
	name string
	data []byte
	mode fs.FileMode
}

// make writes the files and gives the names of those that are new. Nothing is
// written when a certificate of a node is there already; an authority and a
// gossip key that are there are used again, so that a cluster can grow. With
// force all are made anew.
func (r request) make() ([]string, error) {
	if !r.force {
		for _, n := range r.nodes {
			for _, name := range []string{certFile(n), keyFile(n)} {
				if there, err := r.exists(name); err != nil || there {
					return nil, errors.Join(err, existsError(there, filepath.Join(r.dir, name)))
				}
			}
		}
	}
	ca, files, err := r.authority()
	if err != nil {
		return nil, err
	}
	for _, n := range r.nodes {
		made, err := ca.node(n, r.hosts, r.until)
		if err != nil {
			return nil, err
		}
		files = append(files, file{certFile(n), made.cert, publicMode}, file{keyFile(n), made.key, secretMode})
	}
	gossip, err := r.gossipKey()
	if err != nil {
		return nil, err
	}
	return r.write(append(files, gossip...))
}

// authority gives the one in the folder, or a new one and its files.
func (r request) authority() (*authority, []file, error) {
	cert, err := r.exists(caFile)
	if err != nil {
		return nil, nil, err
	}
	key, err := r.exists(caKeyFile)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case r.force || !cert && !key:
		ca, err := newAuthority(r.until)
		if err != nil {
			return nil, nil, err
		}
		return ca, []file{{caFile, ca.cert, publicMode}, {caKeyFile, ca.key, secretMode}}, nil
	case cert != key:
		return nil, nil, fmt.Errorf("%s has only one of %s and %s; --force makes all anew", r.dir, caFile, caKeyFile)
	}
	var p pair
	if p.cert, err = os.ReadFile(filepath.Join(r.dir, caFile)); err != nil {
		return nil, nil, err
	}
	if p.key, err = os.ReadFile(filepath.Join(r.dir, caKeyFile)); err != nil {
		return nil, nil, err
	}
	ca, err := parseAuthority(p)
	if err != nil {
		return nil, nil, fmt.Errorf("%s and %s in %s: %w; --force makes all anew", caFile, caKeyFile, r.dir, err)
	}
	if left := time.Until(ca.parsed.NotAfter); left <= 0 {
		return nil, nil, fmt.Errorf("%s has expired; --force makes all anew", filepath.Join(r.dir, caFile))
	}
	return ca, nil, nil
}

// gossipKey gives the file of a new key, or nothing when there is one.
func (r request) gossipKey() ([]file, error) {
	there, err := r.exists(gossipFile)
	if err != nil || there && !r.force {
		return nil, err
	}
	key := make([]byte, gossipKeyBytes)
	_, _ = rand.Read(key) // never fails
	return []file{{gossipFile, []byte(base64.StdEncoding.EncodeToString(key) + "\n"), secretMode}}, nil
}

func (r request) exists(name string) (bool, error) {
	_, err := os.Lstat(filepath.Join(r.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func existsError(there bool, path string) error {
	if !there {
		return nil
	}
	return fmt.Errorf("%s is there already; --force makes all anew, and nodes with old and new files will not trust each other", path)
}

// write puts each file in place whole, a secret one never readable by others.
func (r request) write(files []file) ([]string, error) {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		path := filepath.Join(r.dir, f.name)
		if err := writeFile(path, f); err != nil {
			return nil, err
		}
		names = append(names, path)
	}
	return names, nil
}

func writeFile(path string, f file) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+f.name+"-*") // readable by its owner only
	if err != nil {
		return err
	}
	_, err = tmp.Write(f.data)
	err = errors.Join(err, tmp.Chmod(f.mode), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
