//go:build unix

package pgtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, opts Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), opts)
	SkipWithout(t, err)
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var out string
	if err := conn.QueryRow(t.Context(), sql).Scan(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestServerOverTCPRestartsAndLeavesNothing(t *testing.T) {
	s := start(t, Options{TCP: true, Fsync: true, Settings: []string{"work_mem=5MB"}})
	url := s.URL("postgres")
	if got := query(t, url, "SHOW fsync") + query(t, url, "SHOW work_mem"); got != "on5MB" {
		t.Fatalf("settings are %s", got)
	}
	if err := s.Do(t.Context(), "postgres", "CREATE TABLE kept AS SELECT 'yes' AS answer"); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []Mode{Immediate, Fast} {
		if err := s.Restart(t.Context(), mode); err != nil {
			t.Fatal(err)
		}
		if got := query(t, url, "SELECT answer FROM kept"); got != "yes" {
			t.Fatalf("after a restart: %q", got)
		}
	}
	wrong := strings.Replace(url, s.Password(), "wrong", 1)
	if _, err := pgx.Connect(t.Context(), wrong); err == nil {
		t.Fatal("the server let a stranger in")
	}
	pid, root := s.cmd.Process.Pid, s.root
	for range 2 {
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Fatalf("process %d after the stop: %v", pid, err)
	}
	if _, err := os.Stat(root); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("%s after the stop: %v", root, err)
	}
}

func TestServerWithAHomeFindsItsDataAgain(t *testing.T) {
	home := filepath.Join(openTempDir(t), strings.Repeat("deep", 20), "home") // too long for a socket
	for i, statement := range []string{"CREATE TABLE kept AS SELECT 1 AS answer", "UPDATE kept SET answer = 2", "DROP TABLE kept"} {
		s, err := Start(t.Context(), Options{TCP: true, Home: home})
		SkipWithout(t, err)
		if _, err := Start(t.Context(), Options{TCP: true, Home: home}); err == nil {
			t.Error("two servers over one folder")
		}
		if err := errors.Join(s.Do(t.Context(), "postgres", statement), s.Stop()); err != nil {
			t.Fatalf("start %d: %v", i+1, err)
		}
	}
	info, err := os.Stat(filepath.Join(home, "password"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("password: %v %v", info, err)
	}
}

// openTempDir is a temporary folder that the server's account can enter.
func openTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "granary-pg-home-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestHomeThatTheServerCannotEnterIsSaid(t *testing.T) {
	dir := openTempDir(t)
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := &Server{as: &account{name: "somebody"}}
	if err := s.reachable(dir); err == nil || !strings.Contains(err.Error(), "somebody") || !strings.Contains(err.Error(), dir) {
		t.Fatal(err)
	}
	if err := (&Server{}).reachable(dir); err != nil {
		t.Fatal(err)
	}
}

func TestEachTestGetsACloneOfTheTemplate(t *testing.T) {
	h := New(Options{Migrate: func(ctx context.Context, url string) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, "CREATE TABLE migrated AS SELECT 'once' AS answer")
		return errors.Join(err, conn.Close(ctx))
	}})
	t.Cleanup(func() { // runs last: the databases are dropped while the server is there
		if err := errors.Join(h.Close(), h.Close()); err != nil {
			t.Error(err)
		}
	})
	a, b := h.Database(t), h.Database(t)
	if a == b || query(t, a, "UPDATE migrated SET answer = 'mine' RETURNING answer") != "mine" {
		t.Fatal("no database of its own")
	}
	if got := query(t, b, "SELECT answer FROM migrated"); got != "once" {
		t.Fatalf("the neighbour sees %q", got)
	}
	t.Run("dropped", func(t *testing.T) {
		var name string
		t.Run("inner", func(t *testing.T) { name = query(t, h.Database(t), "SELECT current_database()") })
		n := query(t, h.server.URL("postgres"), "SELECT count(*)::text FROM pg_database WHERE datname = '"+name+"'")
		if n != "0" {
			t.Fatalf("%s is still there", name)
		}
	})
}

func TestMissingServerIsInstalledWithoutACluster(t *testing.T) {
	dir := t.TempDir()
	var said bytes.Buffer
	var ran []string
	m := machine{
		glob: filepath.Join(dir, "pg", "*", "bin"), clusterConf: filepath.Join(dir, "etc", "createcluster.conf"),
		root: true, say: &said,
	}
	m.run = func(_ context.Context, name string, args ...string) error {
		ran = append(ran, name+" "+args[len(args)-1])
		conf, _ := os.ReadFile(m.clusterConf)
		switch args[len(args)-1] {
		case "postgresql-common":
			if len(ran) == 1 {
				return errors.New("package lists are old")
			}
			_ = os.MkdirAll(filepath.Dir(m.clusterConf), 0o755)
			return os.WriteFile(m.clusterConf, []byte("#create_main_cluster = true\ncreate_main_cluster = true\nssl = on\n"), 0o600)
		case "postgresql":
			if !strings.Contains(string(conf), "\ncreate_main_cluster = false\n") ||
				strings.Contains(string(conf), "\ncreate_main_cluster = true") || !strings.Contains(string(conf), "ssl = on") {
				t.Errorf("configuration before the installation: %s", conf)
			}
			fakeServer(t, filepath.Join(dir, "pg", "15", "bin"))
		}
		return nil
	}
	got, err := m.binaries(t.Context())
	if err != nil || got != filepath.Join(dir, "pg", "15", "bin") {
		t.Fatal(got, err)
	}
	want := []string{"apt-get postgresql-common", "apt-get update", "apt-get postgresql-common", "apt-get postgresql"}
	if !slices.Equal(ran, want) {
		t.Fatalf("ran %q", ran)
	}
	if !strings.Contains(said.String(), "installing the Debian package postgresql") {
		t.Fatalf("said %q", said.String())
	}
	fakeServer(t, filepath.Join(dir, "pg", "9.6", "bin")) // older, though later in the alphabet
	if got, _ = m.binaries(t.Context()); got != filepath.Join(dir, "pg", "15", "bin") {
		t.Fatalf("chose %s", got)
	}
}

func TestMissingServerThatCannotBeInstalledIsToldApart(t *testing.T) {
	m := machine{glob: filepath.Join(t.TempDir(), "*"), say: &bytes.Buffer{}}
	if _, err := m.binaries(t.Context()); !errors.Is(err, ErrNoServer) {
		t.Fatal(err)
	}
	m.root = true
	m.run = func(context.Context, string, ...string) error { return errors.New("no network") }
	if _, err := m.binaries(t.Context()); !errors.Is(err, ErrNoServer) || !strings.Contains(err.Error(), "no network") {
		t.Fatal(err)
	}
}

func fakeServer(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgres", "initdb"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
