package node_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"granary.dev/granary/cmd/internal/node"
	"granary.dev/granary/cmd/internal/nodetest"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// F4, I1: when the disk below the audit takes no record, calls fail, and that is counted
// and shown until it is over.
func TestF4_AuditThatCannotBeWrittenIsCounted_I1(t *testing.T) {
	var dir string
	s := nodetest.Start(t, func(c *node.Config) {
		dir = filepath.Join(c.Data, "audit")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("none", dir, "tmpfs", 0, "size=64m"); err != nil {
			t.Skip("no file system can be mounted here: ", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
	})
	call := func() error {
		_, err := s.Tenants.GetTenant(t.Context(), &granaryv1.GetTenantRequest{})
		return err
	}
	if err := call(); err != nil {
		t.Fatal(err)
	}
	if m := s.Metrics(t); m.Sum("granary_audit_write_failures_total") != 0 || m.Sum("granary_audit_writable") != 1 {
		t.Fatalf("%v failures at the start", m.Sum("granary_audit_write_failures_total"))
	}
	ballast := breakDisk(t, dir)
	var err error
	for range 1000 { // the page that is written to has some room yet
		if err = call(); err != nil {
			break
		}
	}
	if reason(t, err) != "AUDIT_UNAVAILABLE" {
		t.Fatal(err)
	}
	m := s.Metrics(t)
	if m.Sum("granary_audit_write_failures_total") == 0 || m.Sum("granary_audit_writable") != 0 {
		t.Errorf("%v failures, writable %v", m.Sum("granary_audit_write_failures_total"), m.Sum("granary_audit_writable"))
	}
	if m.Sum("granary_api_errors_total", `reason="AUDIT_UNAVAILABLE"`) == 0 {
		t.Error("the refusal is not counted")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	nodetest.Await(t, "the audit is written again", func() bool { return s.Metrics(t).Sum("granary_audit_writable") == 1 && call() == nil })
}

// breakDisk takes the room of the segments away, and all other.
func breakDisk(t *testing.T, dir string) (ballast string) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(dir, "*.audit*"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments: %v, %v", segments, err)
	}
	for _, name := range segments {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		const written = 4096 // these calls need less
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, written, 64<<20)
		if err != nil || f.Close() != nil {
			t.Fatal(err)
		}
	}
	ballast = filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(chunk)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return ballast
}
