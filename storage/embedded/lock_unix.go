//go:build unix

package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"granary.dev/granary/actors/journal"
)

// lockFolder takes DIR/LOCK for this process and writes its pid there for
// operators. The kernel lets go of the lock when the holder dies, however it
// dies; what the file says is never trusted. The file itself is never removed:
// removing it would let two processes lock two different files of that name.
func lockFolder(dir string) (*os.File, error) {
	path := filepath.Join(dir, "LOCK")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("embedded: open lock file: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		held := errors.Is(err, syscall.EWOULDBLOCK)
		holder := readHolder(f)
		_ = f.Close()
		if held {
			return nil, fmt.Errorf("%w: %s is held by process %s; stop it or choose another folder",
				journal.ErrLocked, dir, holder)
		}
		return nil, fmt.Errorf("embedded: lock %s: %w", path, err)
	}
	if err := writeHolder(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("embedded: write lock file: %w", err)
	}
	return f, nil
}

func readHolder(f *os.File) string {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
	pid := strings.TrimSpace(string(b))
	if _, numErr := strconv.Atoi(pid); err != nil || numErr != nil {
		return "(unknown)"
	}
	return pid
}

func writeHolder(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}
