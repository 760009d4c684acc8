package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sort"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"granary.dev/granary/actors/kb"
)

// Exit codes of the command.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// usageError is a command line that cannot be run.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

// ExitCode makes Execute answer 2.
func (e *usageError) ExitCode() int { return ExitUsage }

func usagef(format string, args ...any) error {
	return &usageError{msg: fmt.Sprintf(format, args...)}
}

// exactArgs wants one argument for each name.
func exactArgs(names ...string) cobra.PositionalArgs { return argRange(len(names), names) }

// minArgs wants at least one argument for each name; the last may repeat.
func minArgs(names ...string) cobra.PositionalArgs { return argRange(-1, names) }

func argRange(most int, names []string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usagef("%s is missing", names[len(args)])
		}
		if most >= 0 && len(args) > most {
			return usagef("unexpected argument %q", args[most])
		}
		return nil
	}
}

// failure is an error as a user reads it: REASON: message, and notes that help
// to mend it, one a line.
type failure struct {
	reason  string
	message string
	notes   []string
	cause   error
}

func (f *failure) Error() string {
	if f.reason == "" {
		return f.message
	}
	return f.reason + ": " + f.message
}

func (f *failure) Unwrap() error { return f.cause }

// Execute runs root and answers the exit code. An error is printed to root's
// error stream.
func Execute(ctx context.Context, root *cobra.Command) int {
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	w := root.ErrOrStderr()
	var usage *usageError
	if errors.As(err, &usage) {
		_, _ = fmt.Fprintf(w, "granary: %s\nsee '%s --help'\n", usage.msg, cmd.CommandPath())
		return ExitUsage
	}
	printFailure(w, "granary: ", err)
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return ExitFailed
}

// printFailure writes err and its notes.
func printFailure(w io.Writer, prefix string, err error) {
	_, _ = fmt.Fprintf(w, "%s%s\n", prefix, sanitize(err.Error()))
	var f *failure
	if errors.As(err, &f) {
		for _, note := range f.notes {
			_, _ = fmt.Fprintf(w, "  %s\n", sanitize(note))
		}
	}
}

// details are the parts of an RPC error that Granary uses.
type details struct {
	reason     string
	metadata   map[string]string
	fields     []*errdetails.BadRequest_FieldViolation
	quotas     []*errdetails.QuotaFailure_Violation
	retryAfter time.Duration
	retry      bool // the server named a time to try again
}

// detailsOf decodes what it knows of err's details and skips the rest.
func detailsOf(err *connect.Error) details {
	var d details
	for _, raw := range err.Details() {
		msg, decodeErr := connectproto.UnmarshalErrorDetail(raw)
		if decodeErr != nil {
			continue
		}
		switch m := msg.(type) {
		case *errdetails.ErrorInfo:
			d.reason, d.metadata = m.GetReason(), m.GetMetadata()
		case *errdetails.BadRequest:
			d.fields = append(d.fields, m.GetFieldViolations()...)
		case *errdetails.QuotaFailure:
			d.quotas = append(d.quotas, m.GetViolations()...)
		case *errdetails.RetryInfo:
			d.retry, d.retryAfter = true, max(0, m.GetRetryDelay().AsDuration())
		}
	}
	return d
}

// notes says the details in lines.
func (d details) notes() []string {
	var lines []string
	for _, f := range d.fields {
		lines = append(lines, f.GetField()+": "+f.GetDescription())
	}
	for _, q := range d.quotas {
		lines = append(lines, "quota "+q.GetSubject()+": "+q.GetDescription())
	}
	keys := make([]string, 0, len(d.metadata))
	for k := range d.metadata {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		lines = append(lines, k+" = "+d.metadata[k])
	}
	if d.retry {
		lines = append(lines, "try again in "+d.retryAfter.Round(time.Millisecond).String())
	}
	return lines
}

// explain turns an error of a call into what a user can act on.
func (s *session) explain(ctx context.Context, err error) error {
	var f *failure
	var usage *usageError
	var rpc *connect.Error
	switch {
	case err == nil, errors.As(err, &f), errors.As(err, &usage):
		return err
	case ctx.Err() != nil:
		return &failure{message: "interrupted", cause: err}
	case !errors.As(err, &rpc):
		return err
	case isDialError(err):
		return &failure{message: s.unreachable(), notes: []string{dialCause(err)}, cause: err}
	}
	d := detailsOf(rpc)
	f = &failure{reason: d.reason, message: rpc.Message(), notes: d.notes(), cause: err}
	if f.reason == "" {
		f.reason = strings.ToUpper(rpc.Code().String())
	}
	if f.message == "" {
		f.message = "the server gave no reason"
	}
	switch {
	case rpc.Code() == connect.CodeUnauthenticated:
		f.notes = append(f.notes, s.tokenNote)
	case rpc.Code() == connect.CodeDeadlineExceeded && !rpc.IsRemote():
		f.reason, f.message = kb.ReasonDeadline, fmt.Sprintf("no answer within %s", s.timeout)
		f.notes = append(f.notes, "a longer wait: --timeout")
	}
	return f
}

func (s *session) unreachable() string {
	return fmt.Sprintf("cannot reach %s: is `granary serve --dev` running?", s.server)
}

// isDialError reports whether no connection was made, so that the server
// cannot have seen the request.
func isDialError(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &dns)
}

// dialCause is the innermost reason a connection was not made.
func dialCause(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err.Error()
	}
	return err.Error()
}
