package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/embedded"
)

// onSmallDisk runs a test anew in a process that sees a file system of so many bytes at
// the folder it is given. It is skipped where nobody may make one.
func onSmallDisk(t *testing.T, bytes int64, test func(dir string)) {
	t.Helper()
	if dir := os.Getenv("GRANARY_AUDIT_DISK"); dir != "" {
		if err := syscall.Mount("none", dir, "tmpfs", 0, fmt.Sprint("size=", bytes)); err != nil {
			t.Skip("cannot be mounted: ", err)
		}
		test(dir)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "GRANARY_AUDIT_DISK="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	var ended *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &ended):
		t.Skip("no namespaces here: ", err)
	case err != nil:
		t.Fatalf("%v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skip(string(out))
	}
}

// big is a record of some eight thousand bytes.
func big(n int) journal.Access {
	a := call("acme", n)
	for _, f := range []*string{&a.Principal, &a.KeyID, &a.Method, &a.Resource, &a.Remote, &a.Code, &a.Reason} {
		*f = strings.Repeat("x", maxFieldBytes)
	}
	return a
}

func TestI1_FullDiskRefusesCallsBeforeTheirWorkAndTakesTheRecordsOfThoseUnderWay(t *testing.T) {
	onSmallDisk(t, 3*segmentBytes-8192, func(dir string) { // two segments, and not a third
		inner, err := embedded.Open(t.Context(), embedded.Config{Dir: filepath.Join(t.TempDir(), "data")})
		check(t, err)
		defer inner.Close()
		s := &store{Store: inner, tried: make(chan struct{}, 1)}
		s.away.Store(true)
		l := openLog(t, dir, s)
		n := 0
		for l.Ready() == nil {
			check(t, l.Record(big(n))) // nobody who was let in is refused
			if n++; n > 10*segmentBytes/8000 {
				t.Fatal("the disk never is full")
			}
		}
		if err := l.Ready(); !strings.Contains(err.Error(), "no room") || l.failed.Load() {
			t.Fatal(err)
		}
		for range reserveBytes / 2 / 8000 {
			check(t, l.Record(big(n)))
			n++
		}
		s.away.Store(false) // segments go to the store: there is room again
		for late := time.Now().Add(20 * time.Second); l.Ready() != nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(late) {
				t.Fatal(l.Ready())
			}
		}
		check(t, l.Record(big(n)))
		check(t, l.Close(context.Background()))
		wantOnce(t, stored(t, inner, "acme"), n+1)
		if st := l.Stats(); st.Refused != 0 || st.Lost != 0 {
			t.Fatalf("%+v", st)
		}
	})
}

func TestI1_BrimFullDiskFailsCallsAndGoesOnWhenThereIsRoom(t *testing.T) {
	onSmallDisk(t, 2*segmentBytes-8192, func(dir string) { // one segment, and not a second
		inner, err := embedded.Open(t.Context(), embedded.Config{Dir: filepath.Join(t.TempDir(), "data")})
		check(t, err)
		defer inner.Close()
		s := &store{Store: inner, tried: make(chan struct{}, 1)}
		s.away.Store(true)
		l := openLog(t, dir, s)
		n := 0
		for ; err == nil; n++ { // whatever Ready says
			err = l.Record(big(n))
		}
		if !errors.Is(err, ErrUnavailable) || n*8000 < segmentBytes-2*9000 || n*7000 > segmentBytes {
			t.Fatalf("record %d: %v", n, err)
		}
		s.away.Store(false)
		for late := time.Now().Add(20 * time.Second); l.Ready() != nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(late) {
				t.Fatal(l.Ready())
			}
		}
		check(t, l.Record(call("acme", n)))
		check(t, l.Close(context.Background()))
		got := stored(t, inner, "acme")
		wantOnce(t, got, n-1)
		if got[fmt.Sprint(n)] != 1 {
			t.Fatal("the record behind is not there")
		}
	})
}
