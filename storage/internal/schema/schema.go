// Package schema knows the migrations of a store: what each is called and what is in
// it, so that a database tells which of them it has, whatever their order, and that
// none of them was changed after it had run there.
package schema

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

// ErrChanged says that a migration which a database has is another than the one of the
// same number that this binary knows.
var ErrChanged = errors.New("schema: a migration was changed after the database had run it")

// Migration is one file.
type Migration struct {
	Version int64
	Name    string // of the file
	Sum     string // SHA-256 of the file, in hex
}

// Migrations are those a binary knows, by version.
type Migrations []Migration

// Read reads the files that a provider has found.
func Read(files fs.FS, p *goose.Provider) (Migrations, error) {
	var out Migrations
	for _, s := range p.ListSources() {
		data, err := fs.ReadFile(files, s.Path)
		if err != nil {
			return nil, fmt.Errorf("schema: %w", err)
		}
		sum := sha256.Sum256(data)
		out = append(out, Migration{Version: s.Version, Name: s.Path, Sum: hex.EncodeToString(sum[:])})
	}
	return out, nil
}

// Target is the highest version.
func (m Migrations) Target() int64 {
	if len(m) == 0 {
		return 0
	}
	return m[len(m)-1].Version
}

// Lacking gives those of which ran says that a database does not have them.
func (m Migrations) Lacking(ran func(version int64) bool) (out Migrations) {
	for _, x := range m {
		if !ran(x.Version) {
			out = append(out, x)
		}
	}
	return out
}

// Check compares with what a database has noted, by version: ErrChanged. What it has
// run before it noted anything is taken as it is.
func (m Migrations) Check(noted map[int64]Migration) error {
	for _, x := range m {
		if n, ok := noted[x.Version]; ok && n.Sum != x.Sum {
			return fmt.Errorf("%w: number %d was %s (SHA-256 %.12s…), this binary has %s (%.12s…)", ErrChanged, x.Version, n.Name, n.Sum, x.Name, x.Sum)
		}
	}
	return nil
}
