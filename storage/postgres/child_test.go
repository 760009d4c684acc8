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
// can be stopped. It writes in a transaction, says so, waits for a line and then
// tries to commit.
const childEnv = "GRANARY_TEST_POSTGRES_CHILD"

type childTask struct {
	URL   string
	Fence journal.Fence
	Scope *journal.Scope // where it writes chunks; nil: it appends
}

func (do childTask) write(ctx context.Context, q querier) error {
	if do.Scope == nil {
		s := &Store{append: appendStatements()}
		return s.appendBatch(ctx, q, do.Fence, journal.Batch{Events: testEvents(0, 1, "stale")})
	}
	a := journal.Attempt{Scope: *do.Scope, Document: "d", ID: "stale"}
	rows, err := checkAttempt(do.Fence, a, testChunks(partRows+1, 0))
	if err != nil {
		return err
	}
	return replaceChunks(ctx, q, do.Fence, a, rows)
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
	p, err := openPool(ctx, Config{URL: Secret(do.URL)}, "none", 1, lockTimeout, commitTimeout)
	if err != nil {
		return err.Error()
	}
	c, err := p.conn(ctx)
	if err != nil {
		return err.Error()
	}
	_, err = c.Exec(ctx, "BEGIN")
	err = errors.Join(err, do.write(ctx, c))
	if err != nil {
		return err.Error()
	}
	fmt.Println("has written")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	if _, err := c.Exec(ctx, "COMMIT"); err != nil {
		return "refused"
	}
	return "committed"
}

// stopSlack is what a machine under load may add.
const stopSlack = 3 * time.Second

// stopped is an old owner that was stopped in the middle of a write.
type stopped struct {
	cmd  *exec.Cmd
	in   io.Writer
	said *bufio.Reader
}

func stopWriter(t *testing.T, do childTask) *stopped {
	t.Helper()
	task, err := json.Marshal(do)
	check(t, err)
	p := &stopped{cmd: exec.CommandContext(t.Context(), os.Args[0])}
	p.cmd.Env = append(os.Environ(), childEnv+"="+string(task))
	p.in, err = p.cmd.StdinPipe()
	check(t, err)
	out, err := p.cmd.StdoutPipe()
	check(t, err, p.cmd.Start())
	p.said = bufio.NewReader(out)
	line, err := p.said.ReadString('\n')
	if check(t, err); line != "has written\n" {
		t.Fatalf("child: %s", line)
	}
	check(t, p.cmd.Process.Signal(syscall.SIGSTOP))
	return p
}

// wake lets it go on, and gives how its commit ended.
func (p *stopped) wake(t *testing.T) string {
	t.Helper()
	check(t, p.cmd.Process.Signal(syscall.SIGCONT))
	_, err := io.WriteString(p.in, "\n")
	check(t, err)
	rest, err := io.ReadAll(p.said)
	check(t, err, p.cmd.Wait())
	return strings.TrimSpace(string(rest))
}

func TestE5_StoppedOwnerInATransactionDoesNotBlockTheTakeover(t *testing.T) {
	url := shared.Database(t)
	s := openAt(t, url)
	v := startCluster(t, s, "old", "new")
	for name, claim := range map[string]journal.Claim{"alone": {Node: "new"}, "in a cluster": longPlaced(v, "new")} {
		t.Run(name, func(t *testing.T) {
			id := journal.Identity{Kind: "kb", Tenant: "acme", ID: name}
			f, _, err := s.Acquire(t.Context(), id, journal.Claim{Node: "old#1"})
			check(t, err)
			child := stopWriter(t, childTask{URL: url, Fence: f})
			renewals := make(chan error, 1)
			go func() { renewals <- renewWhile(t.Context(), s, idleTimeout) }()
			start := time.Now()
			next, head, err := s.Acquire(t.Context(), id, claim)
			took := time.Since(start)
			if check(t, err); head != 0 || next.Epoch != f.Epoch+1 {
				t.Fatalf("acquired %+v at head %d", next, head)
			}
			if took < time.Second || took > idleTimeout+stopSlack {
				t.Fatalf("the takeover took %v; the session of the old owner ends after %v", took, idleTimeout)
			}
			t.Logf("took over %v after the old owner was stopped", took)
			check(t, <-renewals, s.Append(t.Context(), next, journal.Batch{Events: testEvents(0, 1, "new")}))
			if got := child.wake(t); got != "refused" {
				t.Fatalf("the old owner, awake again: %s", got)
			}
			list, err := s.Events(t.Context(), id, 0, 10)
			if check(t, err); len(list) != 1 || list[0].Type != "new" {
				t.Fatalf("events are %+v", list)
			}
		})
	}
}

func TestE5_OwnerStoppedWhileItWritesChunksBlocksNobody(t *testing.T) {
	url := shared.Database(t)
	s := openAt(t, url)
	v := startCluster(t, s, "old", "new")
	id := journal.Identity{Kind: "kb", Tenant: "acme", ID: "k"}
	sc := journal.Scope{Tenant: "acme", UID: "u"}
	f, _, err := s.Acquire(t.Context(), id, longPlaced(v, "old"))
	check(t, err)
	child := stopWriter(t, childTask{URL: url, Fence: f, Scope: &sc})
	start := time.Now()
	next, _, err := s.Acquire(t.Context(), id, longPlaced(v, "new"))
	check(t, err, s.Append(t.Context(), next, journal.Batch{Events: testEvents(0, 1, "new")}))
	if took := time.Since(start); took >= lockTimeout {
		t.Fatalf("the takeover and the first write took %v", took)
	}
	list, err := s.AttemptsOf(t.Context(), sc)
	took := time.Since(start)
	if check(t, err); len(list) != 0 || took > idleTimeout+stopSlack {
		t.Fatalf("listed %v after %v", list, took)
	}
	t.Logf("took over at once; the scope was free %v after its writer was stopped", took)
	check(t, s.PutChunks(t.Context(), next, journal.Attempt{Scope: sc, Document: "d", ID: "new"}, testChunks(partRows+1, 0)))
	if got := child.wake(t); got != "refused" {
		t.Fatalf("the old owner, awake again: %s", got)
	}
	list, err = s.AttemptsOf(t.Context(), sc)
	if check(t, err); len(list) != 1 || list[0].ID != "new" {
		t.Fatalf("attempts are %+v", list)
	}
}
