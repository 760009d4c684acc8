package audit

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/embedded"
)

// child records from 8 callers until it is killed, and says what was acknowledged.
// Its store takes part of the batches.
func child(dir string) int {
	s, err := embedded.Open(context.Background(), embedded.Config{Dir: filepath.Join(dir, "data")})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	l, err := Open(Config{Dir: filepath.Join(dir, "audit"), Node: "n", Store: fickle{s}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	first, _ := strconv.Atoi(os.Getenv("GRANARY_AUDIT_FIRST"))
	var out sync.Mutex
	for w := range 8 {
		go func() {
			for i := first + w; ; i += 8 {
				if err := l.Record(call("acme", i)); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				out.Lock()
				fmt.Println(i)
				out.Unlock()
			}
		}()
	}
	select {}
}

// fickle takes one batch in two.
type fickle struct{ *embedded.Store }

func (f fickle) PutAccesses(ctx context.Context, list []journal.Access) error {
	if rand.N(2) == 0 {
		return journal.ErrUnavailable
	}
	return f.Store.PutAccesses(ctx, list)
}

func TestI1_KillBetweenTheLocalWriteAndTheStoreLosesAndDoublesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir, acked, first := t.TempDir(), make(map[string]bool), 0
	for range 6 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "GRANARY_AUDIT_CHILD="+dir, fmt.Sprint("GRANARY_AUDIT_FIRST=", first))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		check(t, err, cmd.Start())
		kill := 200 + rand.N(2000)
		last := first
		for lines, n := bufio.NewScanner(out), 0; lines.Scan(); n++ {
			acked[lines.Text()] = true
			i, err := strconv.Atoi(lines.Text())
			check(t, err)
			last = max(last, i)
			if n == kill {
				check(t, cmd.Process.Kill())
			}
		}
		_ = cmd.Wait() // it was killed
		first = last + 1000
	}
	s, err := embedded.Open(t.Context(), embedded.Config{Dir: filepath.Join(dir, "data")})
	check(t, err)
	defer func() { check(t, s.Close()) }()
	l := openLog(t, filepath.Join(dir, "audit"), s)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	check(t, l.Close(ctx))
	got := stored(t, s, "acme")
	for id := range acked {
		if got[id] != 1 {
			t.Fatalf("record %s was acknowledged and is there %d times", id, got[id])
		}
	}
	for id, n := range got {
		if n != 1 {
			t.Fatalf("record %s is there %d times", id, n)
		}
	}
	t.Logf("%d acknowledged, %d stored", len(acked), len(got))
}
