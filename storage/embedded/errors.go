package embedded

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"granary.dev/granary/actors/journal"
)

// maxKey bounds every identifier that becomes part of a key, in bytes.
const maxKey = 1024

// classify turns a driver's error into one of the journal's. Errors of the
// caller's context stay what they are.
func classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	switch sqliteCode(err) {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: %w", journal.ErrCorrupt, err)
	}
	return fmt.Errorf("%w: %w", journal.ErrUnavailable, err)
}

// sqliteCode gives the primary result code, 0 when err is not SQLite's.
func sqliteCode(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// commitError tells what a failed COMMIT means. SQLite writes the frame that
// makes a transaction durable last, so a disk that ran full before it has
// surely not committed. Any other failure (a failing write or fsync) may have
// left it on the disk, where only a crash would bring it back: the next commit
// that succeeds, such as the holder's re-acquisition, overwrites it in the log
// and so ends the doubt.
func commitError(err error) error {
	if sqliteCode(err) == sqlite3.SQLITE_FULL {
		return fmt.Errorf("%w: %w", journal.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", journal.ErrInDoubt, err)
}

// checkKeys refuses identifiers that not every implementation of the ports can
// store and tell apart: empty ones, invalid UTF-8, NUL, and very long ones.
func checkKeys(pairs ...string) error {
	for i := 0; i+1 < len(pairs); i += 2 {
		name, v := pairs[i], pairs[i+1]
		switch {
		case v == "":
			return fmt.Errorf("embedded: %s is empty", name)
		case len(v) > maxKey:
			return fmt.Errorf("embedded: %s is longer than %d bytes", name, maxKey)
		case !utf8.ValidString(v) || strings.IndexByte(v, 0) >= 0:
			return fmt.Errorf("embedded: %s is not valid text", name)
		}
	}
	return nil
}

func checkIdentity(id journal.Identity) error {
	return checkKeys("tenant", id.Tenant, "kind", id.Kind, "id", id.ID)
}

func checkScope(s journal.Scope) error {
	return checkKeys("tenant", s.Tenant, "uid", s.UID)
}
