package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/cluster/protocol"
)

// Codes granary_refuse raises, of a class that PostgreSQL does not use.
const (
	codeBlob      = "GR001" // a blob to claim is not there or another grain's
	codeKey       = "GR002" // an idempotency key is already applied
	codeFence     = "GR003" // the fence is not the current one
	codeFinal     = "GR004" // see protocol.ErrFinal, and so on
	codeConflict  = "GR005"
	codeNoLease   = "GR006"
	codeLeaseHeld = "GR007"
	codeNotPlaced = "GR008" // of a grain never seen
)

// SQLSTATEs that are told apart.
const (
	codeForeignKey = "23503"
	codeReadOnly   = "25006" // the primary has become a standby
	codeLockWait   = "55P03" // lock_timeout
	codeTooLong    = "54000" // a key does not fit an index entry
)

// sqlState gives the code of a server's error, "" when err is none.
func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// ours tells errors that already say what they mean.
func ours(err error) bool {
	return slices.ContainsFunc([]error{
		journal.ErrFenced, journal.ErrInDoubt, journal.ErrUnavailable, journal.ErrNotFound, journal.ErrCorrupt,
		journal.ErrNotPlaced, journal.ErrHeld, journal.ErrKeysChanged, ErrInvalid,
	}, func(target error) bool { return errors.Is(err, target) })
}

// refused says whether the server has answered, and so not committed: an
// ERROR rolls back. A FATAL one ends the session, and can come after the
// commit but before its answer.
func refused(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.SeverityUnlocalized != "FATAL" && e.SeverityUnlocalized != "PANIC"
}

// readError says what a failed read means. An error of the caller's own
// context stays what it is.
func readError(ctx context.Context, err error) error {
	switch {
	case err == nil, ours(err):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return serverError(err)
}

// writeError says what a failed write means. It is in doubt unless the server
// refused it or it was never sent.
func writeError(err error) error {
	switch {
	case err == nil, ours(err):
		return err
	case refused(err), pgconn.SafeToRetry(err):
		return serverError(err)
	}
	return fmt.Errorf("%w: %w", journal.ErrInDoubt, err)
}

// refusal gives what a code of our own means.
func refusal(code string) error {
	switch code {
	case codeBlob:
		return fmt.Errorf("%w: blob to claim", journal.ErrNotFound)
	case codeKey:
		return fmt.Errorf("%w: an idempotency key is already applied", journal.ErrFenced)
	case codeFence:
		return journal.ErrFenced
	case codeFinal:
		return protocol.ErrFinal
	case codeConflict:
		return protocol.ErrConflict
	case codeNoLease:
		return protocol.ErrNoLease
	case codeLeaseHeld:
		return protocol.ErrLeaseHeld
	case codeNotPlaced:
		return journal.ErrNotPlaced
	}
	return nil
}

// Rejected reports whether the server turned the address itself down: the user,
// the password or the database in it. To try again does not help.
func Rejected(err error) bool {
	code := sqlState(err)
	return strings.HasPrefix(code, "28") || code == "3D000"
}

func serverError(err error) error {
	code := sqlState(err)
	if why := refusal(code); why != nil {
		return why
	}
	switch {
	case strings.HasPrefix(code, "22"), code == codeTooLong:
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	case code == "XX001", code == "XX002": // a page or an index is damaged
		return fmt.Errorf("%w: %w", journal.ErrCorrupt, err)
	}
	return fmt.Errorf("%w: %w", journal.ErrUnavailable, err)
}

func fenced(f journal.Fence) error {
	return fmt.Errorf("%w: %s epoch %d", journal.ErrFenced, f.Identity, f.Epoch)
}

// maxKey bounds every identifier that becomes part of a key, in bytes: all of
// a key must fit an index entry of PostgreSQL, 2,704 bytes.
const maxKey = 512

// isText says whether PostgreSQL can store s as text.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// asText replaces what PostgreSQL's text cannot hold: for what only people read.
func asText(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
}

// checkText refuses what PostgreSQL's text cannot hold.
func checkText(pairs ...string) error {
	for i := 0; i+1 < len(pairs); i += 2 {
		if !isText(pairs[i+1]) {
			return fmt.Errorf("%w: %s is not valid text", ErrInvalid, pairs[i])
		}
	}
	return nil
}

// checkKeys refuses identifiers that are empty, very long or not text.
func checkKeys(pairs ...string) error {
	for i := 0; i+1 < len(pairs); i += 2 {
		switch name, v := pairs[i], pairs[i+1]; {
		case v == "":
			return fmt.Errorf("%w: %s is empty", ErrInvalid, name)
		case len(v) > maxKey:
			return fmt.Errorf("%w: %s is longer than %d bytes", ErrInvalid, name, maxKey)
		}
	}
	return checkText(pairs...)
}

func checkIdentity(id journal.Identity) error {
	return checkKeys("tenant", id.Tenant, "kind", id.Kind, "id", id.ID)
}

// checkFence refuses what no acquisition can have given.
func checkFence(f journal.Fence) error {
	if err := checkIdentity(f.Identity); err != nil {
		return err
	}
	return checkText("activation", f.Activation)
}

func checkScope(s journal.Scope) error {
	return checkKeys("tenant", s.Tenant, "uid", s.UID)
}

// checkWriter refuses a fence that can say nothing about the scope.
func checkWriter(f journal.Fence, sc journal.Scope) error {
	if err := errors.Join(checkFence(f), checkScope(sc)); err != nil {
		return err
	}
	if f.Identity.Tenant != sc.Tenant {
		return fmt.Errorf("%w: the fence is of another tenant than the scope", ErrInvalid)
	}
	return nil
}
