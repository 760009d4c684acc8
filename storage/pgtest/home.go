//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// moveIn makes or finds the cluster of Options.Home:
//
//	HOME/server    the server's own folder, its account's
//	HOME/password  ours
func (s *Server) moveIn(ctx context.Context) error {
	home, err := filepath.Abs(s.opts.Home)
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	s.root = filepath.Join(home, "server")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	if err := s.reachable(home); err != nil {
		return err
	}
	password := filepath.Join(home, "password")
	// Written last: without it the making was interrupted.
	kept, err := os.ReadFile(password)
	switch {
	case err == nil:
		s.password = strings.TrimSpace(string(kept))
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("pgtest: %w", err)
	}
	if err := errors.Join(os.RemoveAll(s.root), os.Mkdir(s.root, 0o700)); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	if err := s.create(ctx); err != nil {
		return errors.Join(err, os.RemoveAll(s.root))
	}
	if err := os.WriteFile(password, []byte(s.password+"\n"), 0o600); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	return nil
}

// reachable tells early, and in plain words, that the server's account cannot
// get to its folder.
func (s *Server) reachable(dir string) error {
	for ; s.as != nil; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("pgtest: %w", err)
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("pgtest: PostgreSQL runs as the user %s here, who may not enter %s; choose another folder", s.as.name, dir)
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	return nil
}
