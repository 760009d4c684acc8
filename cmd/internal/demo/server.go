package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

const (
	startWithin = 30 * time.Second
	stopWithin  = 20 * time.Second
)

// server is the granary process.
type server struct {
	url     string
	logPath string
	cmd     *exec.Cmd
	ended   chan error // its exit, once
}

// startServer runs the binary on a free port of the loopback address and reads
// from its welcome which one it got.
func startServer(ctx context.Context, binary, dir string) (*server, error) {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	logPath := filepath.Join(dir, "server.log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	// Without the end of ctx: the server is always stopped in the orderly way.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), binary, "serve", "--dev", "--data", dir, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
	cmd.Stdout, cmd.Stderr = in, log
	err = cmd.Start()
	_ = in.Close()
	if err != nil {
		_ = out.Close()
		return nil, fmt.Errorf("start %s: %w (build it with `make build`)", binary, err)
	}
	s := &server{cmd: cmd, logPath: logPath, ended: make(chan error, 1)}
	go func() { s.ended <- cmd.Wait() }()
	if s.url, err = s.welcome(ctx, out); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// welcome waits for the line that names the address.
func (s *server) welcome(ctx context.Context, out *os.File) (string, error) {
	found := make(chan string, 1)
	go func() {
		defer func() { _ = out.Close() }()
		in := bufio.NewReader(out)
		line, _ := in.ReadString('\n')
		_, rest, _ := strings.Cut(line, " on ")
		url, _, _ := strings.Cut(rest, " ")
		found <- strings.TrimSpace(url)
		_, _ = io.Copy(io.Discard, in)
	}()
	t := time.NewTimer(startWithin)
	defer t.Stop()
	select {
	case url := <-found:
		if !strings.HasPrefix(url, "http://") {
			return "", fmt.Errorf("the server did not say where it serves; its log is\n%s", s.logTail())
		}
		return url, nil
	case <-t.C:
		return "", fmt.Errorf("the server was not ready within %v; its log is\n%s", startWithin, s.logTail())
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// logTail is the end of the server's log.
func (s *server) logTail() string {
	data, _ := os.ReadFile(s.logPath)
	return string(data[max(0, len(data)-4096):])
}

// stop interrupts the server and waits for its end.
func (s *server) stop() error {
	_ = s.cmd.Process.Signal(os.Interrupt)
	t := time.NewTimer(stopWithin)
	defer t.Stop()
	select {
	case err := <-s.ended:
		if err != nil {
			return fmt.Errorf("the server ended with %w; its log is\n%s", err, s.logTail())
		}
		return nil
	case <-t.C:
		_ = s.cmd.Process.Kill()
		return fmt.Errorf("the server did not stop within %v and was killed: %w", stopWithin, <-s.ended)
	}
}

// client speaks the public API as the development tenant.
type client struct {
	transport *http.Transport
	kbs       granaryv1connect.KnowledgeBaseServiceClient
	docs      granaryv1connect.DocumentServiceClient
	search    granaryv1connect.SearchServiceClient
	events    granaryv1connect.EventServiceClient
}

func dial(url, dir string) (*client, error) {
	token, err := os.ReadFile(filepath.Join(dir, "dev-token"))
	if err != nil {
		return nil, fmt.Errorf("the server's token: %w", err)
	}
	t := &http.Transport{Protocols: new(http.Protocols)}
	t.Protocols.SetUnencryptedHTTP2(true)
	authorize := func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			if info, ok := connect.CallInfoForClientContext(ctx); ok {
				info.RequestHeader().Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
			}
			return next(ctx, spec)
		}
	}
	c := connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: t}, url), authorize)
	return &client{transport: t,
		kbs:    granaryv1connect.NewKnowledgeBaseServiceClient(c),
		docs:   granaryv1connect.NewDocumentServiceClient(c),
		search: granaryv1connect.NewSearchServiceClient(c),
		events: granaryv1connect.NewEventServiceClient(c),
	}, nil
}

func (c *client) close() { c.transport.CloseIdleConnections() }
