//go:build unix

package pgtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrNoServer says that there is no PostgreSQL here and none could be installed.
var ErrNoServer = errors.New("pgtest: no PostgreSQL server found")

// installTimeout bounds an installation, which waits for other uses of apt.
const installTimeout = 10 * time.Minute

// EnvBinaries names a folder with postgres and initdb to use instead of the newest
// installed: to run the tests on another major version.
const EnvBinaries = "GRANARY_TEST_POSTGRES_BIN"

// findBinaries gives the folder of the newest server installed, after
// installing one if need be.
func findBinaries(ctx context.Context) (string, error) {
	if dir := os.Getenv(EnvBinaries); dir != "" {
		return dir, nil
	}
	m := machine{
		glob: "/usr/lib/postgresql/*/bin", clusterConf: "/etc/postgresql-common/createcluster.conf",
		root: os.Geteuid() == 0, say: os.Stderr, run: runCommand,
	}
	return m.binaries(ctx)
}

// machine is what finding and installing needs of the system.
type machine struct {
	glob        string // where Debian puts the versions
	clusterConf string
	root        bool
	say         io.Writer
	run         func(ctx context.Context, name string, args ...string) error
}

func (m machine) binaries(ctx context.Context) (string, error) {
	if dir := m.installed(); dir != "" {
		return dir, nil
	}
	if !m.root {
		return "", fmt.Errorf("%w below %s; install the Debian package postgresql", ErrNoServer, m.glob)
	}
	if err := m.install(ctx); err != nil {
		return "", fmt.Errorf("%w below %s, and it could not be installed: %w", ErrNoServer, m.glob, err)
	}
	if dir := m.installed(); dir != "" {
		return dir, nil
	}
	return "", fmt.Errorf("%w below %s after installing the package", ErrNoServer, m.glob)
}

// installed gives the newest version that has a server, "" when none.
func (m machine) installed() string {
	found, _ := filepath.Glob(m.glob) // the pattern is constant and well-formed
	found = slices.DeleteFunc(found, func(dir string) bool {
		for _, name := range []string{"postgres", "initdb"} {
			if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() {
				return true
			}
		}
		return false
	})
	if len(found) == 0 {
		return ""
	}
	return slices.MaxFunc(found, func(a, b string) int { return cmp.Compare(version(a), version(b)) })
}

// version is the major version in …/15/bin, 0 when there is none.
func version(dir string) float64 {
	v, err := strconv.ParseFloat(filepath.Base(filepath.Dir(dir)), 64)
	if err != nil {
		return 0
	}
	return v
}

// install installs the Debian package. Its common part goes first, so that
// the cluster which the package would make and start can be declined.
func (m machine) install(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	_, err := fmt.Fprintln(m.say, "pgtest: no PostgreSQL here; installing the Debian package postgresql with apt-get, without a cluster")
	if err != nil { // nothing is installed in silence
		return err
	}
	get := func(pkg string) error {
		return m.run(ctx, "apt-get", "-y", "-q", "-o", "DPkg::Lock::Timeout=300",
			"-o", "Dpkg::Options::=--force-confold", "install", "--no-install-recommends", pkg)
	}
	if err := get("postgresql-common"); err != nil {
		if err := m.run(ctx, "apt-get", "-q", "update"); err != nil {
			return err
		}
		if err := get("postgresql-common"); err != nil {
			return err
		}
	}
	if err := declineCluster(m.clusterConf); err != nil {
		return err
	}
	return get("postgresql")
}

// declineCluster sets create_main_cluster = false and keeps the other lines.
func declineCluster(path string) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("pgtest: %w", err)
	}
	lines := slices.DeleteFunc(strings.Split(strings.TrimRight(string(old), "\n"), "\n"), func(line string) bool {
		return strings.HasPrefix(strings.TrimSpace(line), "create_main_cluster")
	})
	lines = append(lines, "create_main_cluster = false", "")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	return nil
}

func runCommand(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
