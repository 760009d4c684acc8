//go:build unix

package postgres

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

// childEnv makes the test binary the old owner: a process of its own, which
// can be stopped. It holds the fence's row inside a transaction in which it
// has written, says so, waits for a line and then tries to commit.
const childEnv = "GRANARY_TEST_POSTGRES_CHILD"

type childTask struct {
	URL   string
	Fence journal.Fence
}

func childMain() bool {
	task := os.Getenv(childEnv)
	if task == "" {
		return false
	}
	fmt.Println(childRun(task))
	return true
}

func childRun(task string) string {
	ctx := context.Background()
	var do childTask
	if err := json.Unmarshal([]byte(task), &do); err != nil {
		return err.Error()
	}
	p, err := openPool(ctx, Config{URL: Secret(do.URL)}, 1, lockTimeout, commitTimeout)
	if err != nil {
		return err.Error()
	}
	c, err := p.conn(ctx)
	if err != nil {
		return err.Error()
	}
	s := &Store{append: appendStatements()}
	_, err = c.Exec(ctx, "BEGIN")
	err = errors.Join(err, s.appendBatch(ctx, c, do.Fence, journal.Batch{Events: testEvents(0, 1, "stale")}))
	if err != nil {
		return err.Error()
	}
	fmt.Println("holds the row")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	if _, err := c.Exec(ctx, "COMMIT"); err != nil {
		return "refused"
	}
	return "committed"
}

func TestE5_StoppedOwnerInATransactionDoesNotBlockTheTakeover(t *testing.T) {
	url := shared.Database(t)
	s := openAt(t, url)
	id := journal.Identity{Kind: "kb", Tenant: "acme", ID: "k"}
	f, _, err := s.Acquire(t.Context(), id, journal.Claim{Node: "old"})
	check(t, err)
	task, err := json.Marshal(childTask{url, f})
	check(t, err)
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+string(task))
	in, err := child.StdinPipe()
	check(t, err)
	out, err := child.StdoutPipe()
	check(t, err, child.Start())
	said := bufio.NewReader(out)
	line, err := said.ReadString('\n')
	if check(t, err); line != "holds the row\n" {
		t.Fatalf("child: %s", line)
	}
	check(t, child.Process.Signal(syscall.SIGSTOP))
	start := time.Now()
	next, head, err := s.Acquire(t.Context(), id, journal.Claim{Node: "new"})
	took := time.Since(start)
	check(t, err, child.Process.Signal(syscall.SIGCONT))
	if head != 0 || next.Epoch != f.Epoch+1 {
		t.Fatalf("acquired %+v at head %d", next, head)
	}
	if took < time.Second || took > idleTimeout+time.Second {
		t.Fatalf("the takeover took %v; the session of the old owner ends after %v", took, idleTimeout)
	}
	t.Logf("took over %v after the old owner was stopped", took)
	check(t, s.Append(t.Context(), next, journal.Batch{Events: testEvents(0, 1, "new")}))
	_, err = io.WriteString(in, "\n")
	check(t, err)
	rest, err := io.ReadAll(said)
	check(t, err, child.Wait())
	if got := strings.TrimSpace(string(rest)); got != "refused" {
		t.Fatalf("the old owner, awake again: %s", got)
	}
	list, err := s.Events(t.Context(), id, 0, 10)
	if check(t, err); len(list) != 1 || list[0].Type != "new" {
		t.Fatalf("events are %+v", list)
	}
}
