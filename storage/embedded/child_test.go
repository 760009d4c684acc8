//go:build unix

package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"granary.dev/granary/actors/journal"
)

// The tests below run this test binary again as another process: one that is
// killed, and one that may not write beyond a file size.
const (
	childEnv = "GRANARY_EMBEDDED_TEST_CHILD"
	childDir = "GRANARY_EMBEDDED_TEST_DIR"
)

// childMain runs the part of the child process; false in the test process.
func childMain() bool {
	role := os.Getenv(childEnv)
	if role == "" {
		return false
	}
	run := map[string]func(string) error{"append": childAppend, "limit": childLimit}[role]
	if err := run(os.Getenv(childDir)); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	return true
}

func child(t *testing.T, role, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+role, childDir+"="+dir)
	cmd.Stderr = t.Output()
	return cmd
}

const killGrains = 8

func killGrain(i int) journal.Identity {
	return journal.Identity{Kind: "kb", Tenant: "acme", ID: "k" + strconv.Itoa(i)}
}

// childAppend appends to several grains at once and says each acknowledged
// sequence number, one line each, until it is killed.
func childAppend(dir string) error {
	ctx := context.Background()
	s, err := Open(ctx, Config{Dir: dir})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := make([]error, killGrains)
	for i := range killGrains {
		wg.Go(func() {
			f, head, err := s.Acquire(ctx, killGrain(i), journal.Claim{Node: "child"})
			for err == nil {
				head++
				err = s.Append(ctx, f, journal.Batch{Head: head - 1, Events: []journal.Event{{
					Seq: head, Type: "t", Data: fmt.Appendf(nil, "%s %d %s", f.Activation, head, strings.Repeat("x", int(head%3000))),
				}}})
				if err == nil {
					mu.Lock()
					_, err = fmt.Printf("%d %d\n", i, head)
					mu.Unlock()
				}
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func TestI4_AcknowledgedEventsSurviveKill9(t *testing.T) {
	dir := t.TempDir()
	acked := make([]int64, killGrains)
	for round := range 12 {
		cmd := child(t, "append", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Kill it in the middle of its work, and read what it had said until then.
		killAfter := 150 + 37*round
		lines := bufio.NewScanner(out)
		n := 0
		for ; lines.Scan(); n++ {
			var i int
			var seq int64
			if _, err := fmt.Sscanf(lines.Text(), "%d %d", &i, &seq); err != nil {
				break // the last line may be cut
			}
			acked[i] = max(acked[i], seq)
			if n == killAfter {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		err = cmd.Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("round %d: the child ended by itself after %d lines: %v", round, n, err)
		}
		verifyAfterKill(t, dir, round, acked)
	}
	t.Logf("acknowledged at the end: %v", acked)
}

func verifyAfterKill(t *testing.T, dir string, round int, acked []int64) {
	t.Helper()
	s, err := Open(t.Context(), Config{Dir: dir}) // the dead holder's lock is gone
	if err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	for i, want := range acked {
		o, err := s.Owner(t.Context(), killGrain(i))
		if err != nil && want > 0 {
			t.Fatalf("round %d: %v", round, err)
		}
		list, err := s.Events(t.Context(), killGrain(i), 0, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		if o.Head < want || int64(len(list)) != o.Head {
			t.Fatalf("round %d, grain %d: %d acknowledged, head %d, %d events", round, i, want, o.Head, len(list))
		}
		for j, e := range list {
			if _, rest, ok := strings.Cut(string(e.Data), " "); e.Seq != int64(j)+1 || !ok ||
				rest != fmt.Sprintf("%d %s", e.Seq, strings.Repeat("x", int(e.Seq%3000))) {
				t.Fatalf("round %d, grain %d: event %d is torn", round, i, e.Seq)
			}
		}
	}
}

// childLimit lets the disk fail for real: beyond a limit the kernel refuses to
// let this process's files grow. It holds the store to its errors.
func childLimit(dir string) error {
	signal.Ignore(syscall.SIGXFSZ)
	ctx := context.Background()
	s, err := Open(ctx, Config{Dir: dir})
	if err != nil {
		return err
	}
	f, _, err := s.Acquire(ctx, killGrain(0), journal.Claim{Node: "child"})
	if err != nil {
		return err
	}
	fill := func(head int64) error {
		return s.Append(ctx, f, journal.Batch{Head: head, Events: []journal.Event{{
			Seq: head + 1, Type: "t", Data: make([]byte, 100<<10),
		}}})
	}
	var free syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &free); err != nil {
		return err
	}
	log, err := os.Stat(filepath.Join(dir, "granary.db-wal")) // what the migrations took of it
	if err != nil {
		return err
	}
	full := syscall.Rlimit{Cur: uint64(log.Size()) + 400<<10, Max: free.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
		return err
	}
	head, err := childFailing(ctx, s, fill)
	if err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &free); err != nil {
		return err
	}
	if err := fill(head); err != nil { // the connection was opened again
		return fmt.Errorf("append after the disk had room again: %w", err)
	}
	if _, err := childBlob(ctx, s); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(dir, "tmp", "*"))
	if err != nil || len(left) != 0 {
		return fmt.Errorf("temporary files remain: %v %w", left, err)
	}
	return s.Close()
}

// childFailing writes until the disk refuses and tells how many were acknowledged.
func childFailing(ctx context.Context, s *Store, fill func(int64) error) (int64, error) {
	head := int64(0)
	err := fill(head)
	for ; err == nil; err = fill(head) {
		head++
	}
	if !errors.Is(err, journal.ErrInDoubt) {
		return 0, fmt.Errorf("a commit the disk refused answered %w", err)
	}
	if err := fill(head); !errors.Is(err, journal.ErrInDoubt) && !errors.Is(err, journal.ErrUnavailable) {
		return 0, fmt.Errorf("a commit on a full disk answered %w", err)
	}
	list, err := s.Events(ctx, killGrain(0), 0, 1000) // reads go on
	if err != nil || head == 0 || int64(len(list)) != head {
		return 0, fmt.Errorf("%d of %d events readable: %w", len(list), head, err)
	}
	if _, err := childBlob(ctx, s); !errors.Is(err, journal.ErrUnavailable) {
		return 0, fmt.Errorf("a blob on a full disk answered %w", err)
	}
	return head, nil
}

func childBlob(ctx context.Context, s *Store) (journal.BlobInfo, error) {
	w, err := s.CreateBlob(ctx, "acme")
	if err != nil {
		return journal.BlobInfo{}, err
	}
	defer w.Abort()
	// Larger than what childLimit leaves, whatever the log already has.
	if _, err := w.Write(make([]byte, 16<<20)); err != nil {
		return journal.BlobInfo{}, err
	}
	return w.Commit(ctx)
}

func TestI4_FailingDiskIsAnsweredHonestlyAndReadsGoOn(t *testing.T) {
	if err := child(t, "limit", t.TempDir()).Run(); err != nil {
		t.Fatal(err)
	}
}
