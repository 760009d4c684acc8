// Package nodetest runs whole nodes in one test process: the real store,
// parsers, embedder, grains and gateway, reached over loopback as a client would.
package nodetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"granary.dev/granary/actors/pipeline/sandbox"
	"granary.dev/granary/cmd/internal/node"
)

// Main runs a package's tests, then what must end after them, and fails if they
// left a goroutine. The test binary is also the parse worker that the nodes
// start, as the granary binary is for a server.
func Main(m *testing.M, after ...func() error) {
	if len(os.Args) > 1 && os.Args[1] == "parse-worker" {
		if err := sandbox.WorkerMain(context.Background(), os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	var errs []error
	for _, end := range after {
		errs = append(errs, end())
	}
	if code == 0 {
		errs = append(errs, goleak.Find())
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, "after the tests:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// Server is a running node with clients of its API.
type Server struct {
	*Clients            // of the tenant dev
	Operator   *Clients // with the operator's token: Cluster only
	Data       string
	URL        string
	StopWithin time.Duration // longest time an orderly stop may take; 0 = 20 s

	t    testing.TB
	node *node.Node
	cfg  node.Config
	logs *logbook
}

// Start runs a development node in a folder of the test, until the test ends.
func Start(t testing.TB, edit ...func(*node.Config)) *Server {
	t.Helper()
	s := newServer(t, edit...)
	s.start()
	t.Cleanup(s.Stop)
	return s
}

// newServer makes a node that does not run yet.
func newServer(t testing.TB, edit ...func(*node.Config)) *Server {
	t.Helper()
	s := &Server{t: t, Data: t.TempDir(), logs: &logbook{t: t}}
	s.cfg = node.Config{Dev: true, Tier: "unlimited", Data: s.Data, Listen: "127.0.0.1:0", LogLevel: "debug"}
	s.cfg.Metrics.Listen = "127.0.0.1:0"
	s.cfg.Fetch.AllowNetworks = []string{"127.0.0.0/8"}
	for _, e := range edit {
		e(&s.cfg)
	}
	return s
}

func (s *Server) start() {
	s.t.Helper()
	if err := s.tryStart(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// tryStart starts the node, which may be refused.
func (s *Server) tryStart(ctx context.Context) error {
	cfg, err := s.cfg.Complete()
	if err != nil {
		return err
	}
	if s.node, err = node.Start(ctx, cfg, s.logs); err != nil {
		s.node = nil
		return err
	}
	if err := s.node.Welcome(logDiscard{}); err != nil {
		return err
	}
	if r := s.cfg.Cluster.Roles; len(r) > 0 && !slices.Contains(r, "gateway") {
		return nil // nobody to connect to
	}
	s.URL = s.node.URL()
	if s.Clients, err = s.clients("dev-token"); err != nil {
		return err
	}
	s.Operator, err = s.clients("dev-operator-token")
	return err
}

// clients makes clients with a token that the node has written.
func (s *Server) clients(file string) (*Clients, error) {
	token, err := os.ReadFile(filepath.Join(s.Data, file))
	if err != nil {
		return nil, err
	}
	return Dial(s.t, s.URL, strings.TrimSpace(string(token))), nil
}

// stopTime bounds an orderly stop: a busy machine may take a minute for one.
const stopTime = time.Minute

// Stop ends the node in the orderly way, as SIGTERM does.
func (s *Server) Stop() {
	if s.node == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if err := s.node.Stop(ctx); err != nil {
		s.t.Errorf("stop: %v", err)
	}
}

// Restart stops the node and starts another on the same data.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.start()
}

// Logged tells whether the node has logged a line with all of these texts.
func (s *Server) Logged(texts ...string) bool { return s.logs.has(texts) }
