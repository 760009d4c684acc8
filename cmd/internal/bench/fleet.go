package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/gateway"
	"granary.dev/granary/gateway/auth"
	"granary.dev/granary/storage/pgtest"
	"granary.dev/granary/storage/postgres"
)

// fleet is a private PostgreSQL and some processes of the real program, all on
// loopback addresses.
type fleet struct {
	binary, dir string
	pg          *pgtest.Server
	store       *postgres.Store // to look at the view
	tables      *protocol.Tables
	members     []*member
	authority   *auth.Authority
}

// member is one node's place; its name, addresses and data outlive its processes.
type member struct {
	name, api, gossip string
	args              []string
	log               *os.File
	cap               *cpuCap // nil: not capped
	cmd               *exec.Cmd
	ended             chan struct{}
}

const (
	startTime  = 60 * time.Second // for a node to be ready, and for a view to settle
	pollEvery  = 20 * time.Millisecond
	certainEnd = 10 * time.Second // for a killed process to be gone
)

func newFleet(ctx context.Context, binary string) (f *fleet, err error) {
	f = &fleet{binary: binary, tables: protocol.NewTables(protocol.DefaultTableConfig(), 2)}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if f.dir, err = os.MkdirTemp("", "granary-bench-"); err != nil {
		return f, err
	}
	f.pg, err = pgtest.Start(ctx, pgtest.Options{TCP: true, Fsync: true})
	return f, err
}

// add starts one more node and waits until it is ready.
func (f *fleet) add(ctx context.Context) (*member, error) {
	m := &member{name: fmt.Sprintf("n%d", len(f.members)+1)}
	data := filepath.Join(f.dir, m.name)
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	var ports [3]string
	for i := range ports {
		var err error
		if ports[i], err = freeAddress(ctx); err != nil {
			return nil, err
		}
	}
	m.api, m.gossip = ports[0], ports[1]
	join := m.gossip
	if len(f.members) > 0 {
		join = f.members[0].gossip
	}
	m.args = []string{"serve", "--dev", "--tier", "unlimited", "--data", data, "--node", m.name, "--store", f.pg.URL("postgres"), "--log-level", "warn", "--metrics", "127.0.0.1:0",
		"--listen", m.api, "--gossip", m.gossip, "--actors", ports[2], "--join", join}
	var err error
	if m.log, err = os.Create(filepath.Join(f.dir, m.name+".log")); err != nil {
		return nil, err
	}
	f.members = append(f.members, m)
	if err := f.start(ctx, m); err != nil {
		return nil, err
	}
	if f.store == nil {
		return m, f.look(ctx)
	}
	return m, nil
}

// look opens the store that the first node has made.
func (f *fleet) look(ctx context.Context) error {
	var err error
	f.store, err = postgres.Open(ctx, postgres.Config{URL: postgres.Secret(f.pg.URL("postgres")), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	key, err := f.store.Secret(ctx, "dev-signing-key", auth.NewKeyPEM)
	if err != nil {
		return err
	}
	f.authority, err = auth.FromPEM(key)
	return err
}

// freeAddress gives a loopback address whose port the kernel does not hand out
// by itself, so that it is still free when a node comes back.
func freeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	for range 200 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000))
		l, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			continue
		}
		u, err := lc.ListenPacket(ctx, "udp", addr)
		_ = l.Close()
		if err == nil {
			_ = u.Close()
			return addr, nil
		}
	}
	return "", errors.New("no free port")
}

// start runs the program as this member, and waits until it is ready.
func (f *fleet) start(ctx context.Context, m *member) error {
	cmd := exec.Command(f.binary, m.args...) //nolint:noctx // it outlives the call and is ended by kill
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = m.log, m.log, childAttributes()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	m.cmd, m.ended = cmd, ended
	go func() {
		_ = cmd.Wait() // it is killed in the end
		close(ended)
	}()
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return f.await(ctx, m.name+" to be ready", func() (bool, error) {
		select {
		case <-ended:
			return false, fmt.Errorf("%s ended instead of being ready, see %s", m.name, m.log.Name())
		default:
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.api+"/ready", nil)
		if err != nil {
			return false, err
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			return false, nil //nolint:nilerr // not yet
		}
		return res.StatusCode == http.StatusOK, res.Body.Close()
	})
}

// settle waits until exactly the running members are live and nothing moves.
func (f *fleet) settle(ctx context.Context) (protocol.View, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	want := 0
	for _, m := range f.members {
		if m.cmd != nil {
			want++
		}
	}
	var v protocol.View
	err := f.await(ctx, fmt.Sprintf("%d live members", want), func() (done bool, err error) {
		if v, err = f.store.View(ctx); err != nil {
			return false, err
		}
		live := 0
		for _, m := range v.Members {
			if m.State == protocol.Live {
				live++
			}
		}
		return live == want && !v.Moving(), nil
	})
	return v, err
}

// await polls other processes.
func (f *fleet) await(ctx context.Context, what string, ok func() (bool, error)) error {
	for {
		done, err := ok()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		case <-time.After(pollEvery):
		}
	}
}

// kill ends a member's process the hard way.
func (m *member) kill() error {
	if m.cmd == nil {
		return nil
	}
	if err := m.cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-m.ended:
	case <-time.After(certainEnd):
		return fmt.Errorf("%s does not end", m.name)
	}
	m.cmd = nil
	return nil
}

// token is a credential of a tenant.
func (f *fleet) token(tenant string) (string, error) {
	t, err := f.authority.Issue(auth.Grant{Tenant: tenant, Subject: "bench", Roles: []string{gateway.RoleAdmin}})
	return t.Reveal(), err
}

// close ends everything and removes it.
func (f *fleet) close() error {
	var errs []error
	for _, m := range f.members {
		errs = append(errs, m.kill(), m.log.Close())
		if m.cap != nil {
			errs = append(errs, m.cap.remove())
		}
	}
	if f.store != nil {
		errs = append(errs, f.store.Close())
	}
	if f.pg != nil {
		errs = append(errs, f.pg.Stop())
	}
	if f.dir != "" {
		errs = append(errs, os.RemoveAll(f.dir))
	}
	return errors.Join(errs...)
}
