//go:build unix

package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// startTimeout bounds initdb and each start; recovery after an immediate stop
// is part of a start.
const startTimeout = 60 * time.Second

// Mode says how a server stops.
type Mode syscall.Signal

// The modes of pg_ctl: Fast ends sessions and writes a checkpoint, Immediate
// is a crash that the next start recovers from.
const (
	Fast      = Mode(syscall.SIGINT)
	Immediate = Mode(syscall.SIGQUIT)
)

// Server is a private PostgreSQL. Its methods are not for concurrent use.
type Server struct {
	bin      string // folder of the binaries
	root     string // everything of the server is below it
	password string
	port     int
	tcp      bool
	opts     Options
	as       *account
	cmd      *exec.Cmd
	log      *serverLog
}

// Start makes and starts a server: a fresh cluster in a temporary folder.
// Stop it when done.
func Start(ctx context.Context, opts Options) (*Server, error) {
	bin, err := findBinaries(ctx)
	if err != nil {
		return nil, err
	}
	as, err := serverAccount()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, password: rand.Text(), port: 5432, tcp: opts.TCP, opts: opts, as: as}
	if err := s.settle(ctx); err != nil {
		return nil, err
	}
	if err := s.run(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Server) data() string { return filepath.Join(s.root, "data") }

// settle gives the server a folder with a cluster, and a port.
func (s *Server) settle(ctx context.Context) (err error) {
	if s.tcp {
		if s.port, err = freePort(ctx); err != nil {
			return err
		}
	}
	if s.opts.Home != "" {
		return s.moveIn(ctx)
	}
	if s.root, err = os.MkdirTemp(s.opts.Dir, "granary-pg-"); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	if err := s.create(ctx); err != nil {
		return errors.Join(err, os.RemoveAll(s.root))
	}
	return nil
}

// create runs initdb. The password file is gone before anything listens.
func (s *Server) create(ctx context.Context) error {
	pw := filepath.Join(s.root, "pw")
	if err := os.WriteFile(pw, []byte(s.password), 0o600); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	if s.as != nil {
		if err := errors.Join(os.Chown(s.root, s.as.uid, s.as.gid), os.Chown(pw, s.as.uid, s.as.gid)); err != nil {
			return fmt.Errorf("pgtest: give the folder to %s: %w", s.as.name, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "initdb"), "-D", s.data(), "-U", "granary",
		"--pwfile", pw, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	cmd.Dir, cmd.Env = s.root, environment()
	cmd.SysProcAttr = s.as.attr()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pgtest: initdb: %w: %s", err, out)
	}
	return os.Remove(pw)
}

// run starts the server and waits until it says that it takes connections.
func (s *Server) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s.log = newServerLog()
	// The server outlives the context of its start.
	s.cmd = exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(s.bin, "postgres"), s.arguments()...)
	s.cmd.Dir, s.cmd.Env = s.root, environment()
	s.cmd.SysProcAttr = s.as.attr()
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.WaitDelay = 10 * time.Second
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return fmt.Errorf("pgtest: start server: %w", err)
	}
	ended := make(chan struct{})
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait() // how it ended is in its log
		close(ended)
	}(s.cmd)
	s.log.ended = ended
	select {
	case <-s.log.ready:
		return nil
	case <-ended:
		return fmt.Errorf("pgtest: the server ended at its start: %s", s.log.tail())
	case <-ctx.Done():
		return fmt.Errorf("pgtest: the server did not start: %w: %s", ctx.Err(), s.log.tail())
	}
}

func (s *Server) arguments() []string {
	onOff := map[bool]string{false: "off", true: "on"}
	socket, listen := s.root, ""
	if s.tcp {
		socket, listen = "", "127.0.0.1" // the path of a socket may not be long
	}
	args := []string{"-D", s.data(), "-k", socket, "-p", strconv.Itoa(s.port)}
	settings := []string{
		"listen_addresses=" + listen, "fsync=" + onOff[s.opts.Fsync], "full_page_writes=" + onOff[s.opts.Fsync],
		"max_connections=200", "shared_buffers=64MB", "logging_collector=off", "log_destination=stderr",
		"autovacuum_naptime=5s", "max_wal_size=512MB", "timezone=UTC",
	}
	for _, set := range append(settings, s.opts.Settings...) {
		args = append(args, "-c", set)
	}
	return args
}

// URL is the address of a database of this server, with user and password.
func (s *Server) URL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("granary", s.password), Path: "/" + database}
	q := url.Values{"sslmode": {"disable"}}
	if s.tcp {
		u.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port))
	} else {
		q.Set("host", s.root)
		q.Set("port", strconv.Itoa(s.port))
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// Password is the secret in its addresses, for tests that look for leaks.
func (s *Server) Password() string { return s.password }

// Restart stops the server in this mode and starts it over the same data at
// the same address.
func (s *Server) Restart(ctx context.Context, mode Mode) error {
	if err := s.end(mode); err != nil {
		return err
	}
	return s.run(ctx)
}

// Pause ends the server and keeps its data; Resume starts it again.
func (s *Server) Pause() error { return s.end(Fast) }

// Resume starts a paused server at the same address.
func (s *Server) Resume(ctx context.Context) error { return s.run(ctx) }

// Stop ends the server, by its process id, and removes its folder unless it is
// Options.Home. Idempotent.
func (s *Server) Stop() error {
	err := s.end(Fast)
	if s.opts.Home != "" {
		return err
	}
	return errors.Join(err, os.RemoveAll(s.root))
}

// end waits for the server's end and kills it if it does not come.
func (s *Server) end(mode Mode) error {
	if s.cmd == nil {
		return nil
	}
	process := s.cmd.Process
	s.cmd = nil
	_ = process.Signal(syscall.Signal(mode)) // it may have ended by itself
	patience := time.NewTimer(startTimeout)
	defer patience.Stop()
	select {
	case <-s.log.ended:
		return nil
	case <-patience.C:
	}
	_ = process.Kill()
	<-s.log.ended
	return fmt.Errorf("pgtest: the server had to be killed: %s", s.log.tail())
}

// freePort asks the kernel for a port of the loopback interface.
func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("pgtest: free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}
