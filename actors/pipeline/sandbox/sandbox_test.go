package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/parse"
)

// The test binary is its own worker: with "parse-worker" it is the real one,
// with "hostile-worker" one whose parser misbehaves as the name of the file says.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "parse-worker":
			exitWith(WorkerMain(context.Background(), os.Stdin, os.Stdout))
		case "hostile-worker":
			exitWith(workerMain(context.Background(), os.Stdin, os.Stdout, func(hello) (parseFunc, func() error) {
				jobs := 0
				return func(_ context.Context, in parse.Input) (*pipeline.Parsed, error) {
					jobs++
					return misbehave(in, jobs)
				}, func() error { return nil }
			}))
		case "deaf-worker":
			os.Exit(0)
		case "orphan-maker":
			orphanMaker()
		}
	}
	goleak.VerifyTestMain(m)
}

func exitWith(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

var sink [][]byte

// misbehave is the parser of the hostile worker.
func misbehave(in parse.Input, jobs int) (*pipeline.Parsed, error) {
	switch in.Name {
	case "heap":
		for {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			sink = append(sink, b)
		}
	case "spin":
		for {
			runtime.Gosched()
		}
	case "sleep":
		select {}
	case "exit":
		os.Exit(3)
	case "exit-if-used":
		if jobs > 1 {
			os.Exit(3)
		}
	case "panic":
		go func() { panic("a bug in a goroutine") }()
		select {}
	case "garbage":
		_, _ = os.Stdout.WriteString(strings.Repeat("garbage", 1000))
		select {}
	case "huge":
		_, _ = os.Stdout.Write([]byte{0xFF, 0xFF, 0xFF, 0xFF})
		select {}
	case "bad-blocks":
		return &pipeline.Parsed{Text: "short", Blocks: []pipeline.Block{{Start: 0, End: 500}}}, nil
	case "noise":
		fmt.Fprintln(os.Stderr, strings.Repeat("noise ", 100_000))
	case "env":
		return result(strings.Join(os.Environ(), " ")), nil
	case "mmap":
		return result(tryMapping(2 << 30)), nil
	case "net":
		_, err := net.Dial("tcp", "127.0.0.1:1")
		return result(fmt.Sprint(err)), nil
	case "exec":
		return result(fmt.Sprint(exec.Command("/bin/true").Run())), nil
	}
	data := make([]byte, in.Size)
	if _, err := in.Data.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return result(strconv.Itoa(os.Getpid()) + " " + strconv.Itoa(jobs) + " " + string(data)), nil
}

func result(text string) *pipeline.Parsed {
	return &pipeline.Parsed{Text: text, Blocks: []pipeline.Block{{End: len(text)}}}
}

// newPool makes a pool of workers of this binary, closed with the test.
func newPool(t testing.TB, worker string, c Config) *Pool {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c.Command = []string{exe, worker}
	p, err := NewPool(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func ask(t testing.TB, p *Pool, name, data string) (*pipeline.Parsed, error) {
	return p.Parse(t.Context(), Request{Name: name, Data: strings.NewReader(data), Size: int64(len(data))})
}

func wantText(t *testing.T, p *Pool, name, data string) string {
	t.Helper()
	out, err := ask(t, p, name, data)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return out.Text
}

func wantReason(t *testing.T, err error, reason string) {
	t.Helper()
	if e, ok := errors.AsType[*pipeline.Error](err); !ok || e.Stage != "parse" || e.Reason != reason {
		t.Fatalf("got %v, want %s", err, reason)
	}
}

func TestWorkerParsesLikeTheLibrary(t *testing.T) {
	p := newPool(t, "parse-worker", Config{})
	src := "# Title\n\nSome *text*.\n\n- a\n- b\n"
	want, err := parse.Parse(t.Context(), parse.FromBytes("a.md", "", []byte(src)))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, r := range []Request{
		{Name: "a.md", Data: strings.NewReader(src), Size: int64(len(src))},
		{Name: "a.md", Path: path, Size: int64(len(src))},
	} {
		got, err := p.Parse(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
			t.Errorf("got %#v\nwant %#v", got, want)
		}
	}
	_, err = ask(t, p, "a.json", "{")
	wantReason(t, err, parse.ReasonMalformed)
	if got := wantText(t, p, "empty.txt", ""); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestSourceFailuresAreNotTheWorkersFault(t *testing.T) {
	p := newPool(t, "parse-worker", Config{})
	_, err := p.Parse(t.Context(), Request{Name: "a.txt", Data: strings.NewReader("short"), Size: 100})
	if !errors.Is(err, io.ErrUnexpectedEOF) || pipeline.ReasonOf(err) != "INTERNAL" {
		t.Errorf("short source: %v", err)
	}
	_, err = p.Parse(t.Context(), Request{Name: "a.txt", Path: "/does/not/exist", Size: 1})
	if err == nil || pipeline.ReasonOf(err) != "INTERNAL" {
		t.Errorf("missing file: %v", err)
	}
	_, err = p.Parse(t.Context(), Request{Name: "a.txt", Data: strings.NewReader(""), Size: 1 << 40})
	wantReason(t, err, parse.ReasonTooLarge)
}

func TestMemoryBombIsKilledAndReported(t *testing.T) {
	p := newPool(t, "hostile-worker", Config{MemoryBytes: 128 << 20})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 2 {
		_, err := ask(t, p, "heap", "")
		wantReason(t, err, parse.ReasonOutOfMemory)
	}
	runtime.ReadMemStats(&after)
	if after.Sys > before.Sys+32<<20 {
		t.Errorf("the server grew from %d to %d bytes", before.Sys, after.Sys)
	}
	wantText(t, p, "ok", "")
}

func TestKernelRefusesMemoryBeyondTheLimit(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("RLIMIT_DATA binds mappings on Linux")
	}
	p := newPool(t, "hostile-worker", Config{MemoryBytes: 256 << 20})
	if got := wantText(t, p, "mmap", ""); !strings.Contains(got, "cannot allocate memory") {
		t.Errorf("a mapping of 2 GiB: %s", got)
	}
}

func TestMemoryIsStoppedByTheWatchdogAlone(t *testing.T) {
	c := Config{MemoryBytes: 100}
	if v := judge(usage{private: 101}, usage{}, c); v != verdictMemory {
		t.Errorf("got %v", v)
	}
}

func TestEndlessLoopIsTIMEOUT(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("CPU time is measured on Linux")
	}
	p := newPool(t, "hostile-worker", Config{CPUTime: 200 * time.Millisecond, WallTime: time.Minute})
	_, err := ask(t, p, "spin", "")
	wantReason(t, err, parse.ReasonTimeout)
	if e, _ := errors.AsType[*pipeline.Error](err); e.Retryable {
		t.Error("used-up processor time is no reason to try again")
	}
}

func TestHangingJobIsTIMEOUT(t *testing.T) {
	p := newPool(t, "hostile-worker", Config{WallTime: 100 * time.Millisecond})
	_, err := ask(t, p, "sleep", "")
	wantReason(t, err, parse.ReasonTimeout)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	q := newPool(t, "hostile-worker", Config{})
	_, err = q.Parse(ctx, Request{Name: "sleep", Data: strings.NewReader("")})
	wantReason(t, err, parse.ReasonTimeout)
}

func TestCancelledJobReturnsItsContextsError(t *testing.T) {
	p := newPool(t, "hostile-worker", Config{})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := p.Parse(ctx, Request{Name: "sleep", Data: strings.NewReader("")}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCrashAndGarbageFailTheJobOnly(t *testing.T) {
	p := newPool(t, "hostile-worker", Config{Size: 1})
	for _, name := range []string{"exit", "panic", "garbage", "huge", "bad-blocks"} {
		_, err := ask(t, p, name, "")
		wantReason(t, err, parse.ReasonCrashed)
		if got := wantText(t, p, "ok", "data"); !strings.HasSuffix(got, " data") {
			t.Errorf("after %s: %q", name, got)
		}
		// Once more on the worker that has just served: it is retried on a fresh
		// one, and fails there too.
		_, err = ask(t, p, name, "")
		wantReason(t, err, parse.ReasonCrashed)
	}
	q := newPool(t, "deaf-worker", Config{})
	_, err := ask(t, q, "ok", "")
	if err == nil {
		t.Error("a worker that ends at once has answered")
	}
}

func TestCrashOfAUsedWorkerIsRetriedOnAFreshOne(t *testing.T) {
	p := newPool(t, "hostile-worker", Config{Size: 1})
	first := wantText(t, p, "ok", "")
	second := wantText(t, p, "exit-if-used", "")
	if strings.Fields(first)[0] == strings.Fields(second)[0] {
		t.Error("the same worker has answered")
	}
}

func TestParallelJobsAreUnaffectedByADyingOne(t *testing.T) {
	p := newPool(t, "hostile-worker", Config{Size: 4, MemoryBytes: 96 << 20, WallTime: 20 * time.Second})
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			name := []string{"ok", "exit", "ok", "heap", "ok", "garbage", "ok", "ok"}[i%8]
			data := strings.Repeat("x", 1000*i)
			out, err := ask(t, p, name, data)
			if name != "ok" {
				if err == nil {
					t.Errorf("%s has answered", name)
				}
			} else if err != nil || !strings.HasSuffix(out.Text, " "+data) && data != "" {
				t.Errorf("job %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}
