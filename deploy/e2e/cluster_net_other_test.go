//go:build unix && !linux

package e2e

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
)

func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

const postgresHost = "pg"

// network needs Linux's namespaces.
type network struct{}

type link struct{ from, to string }

var errNoNamespaces = errors.New("network namespaces are Linux's")

func newNetwork(t *testing.T, _ int) *network {
	t.Skip(errNoNamespaces)
	return nil
}

func (*network) address(string) string { return "" }

func (*network) within(string) func(func() error) error {
	return func(func() error) error { return errNoNamespaces }
}

func (*network) dialer(string) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) { return nil, errNoNamespaces }
}

func (*network) cut([]link, bool) error  { return errNoNamespaces }
func (*network) mend([]link, bool) error { return errNoNamespaces }

func (*network) certificates(*testing.T, string) []string { return nil }
