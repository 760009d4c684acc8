package sim

import (
	"flag"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seedFlag    = flag.Uint64("sim.seed", 0, "play this one schedule")
	countFlag   = flag.Uint64("sim.n", 0, "how many schedules to play, 0 for the usual number")
	fromFlag    = flag.Uint64("sim.from", 1, "the first of their seeds")
	workersFlag = flag.Int("sim.workers", 1, "how many schedules to play at the same time, 0 for one per core")
	traceFlag   = flag.Bool("sim.trace", false, "print the steps of -sim.seed")
)

const (
	usualSchedules = 10_000
	shortSchedules = 1_000
	raceSchedules  = 300
)

func TestEveryScheduleKeepsTheInvariants_A3_E5(t *testing.T) {
	if *seedFlag != 0 {
		replay(t, *seedFlag)
		return
	}
	n := uint64(usualSchedules)
	switch {
	case *countFlag > 0:
		n = *countFlag
	case raceEnabled:
		n = raceSchedules
	case testing.Short():
		n = shortSchedules
	}
	began := time.Now()
	total, bad := play(*fromFlag, n, max(1, *workersFlag))
	took := time.Since(began)
	t.Logf("%d schedules in %v, %.0f per second", n, took.Round(time.Millisecond), float64(n)/took.Seconds())
	t.Logf("%+v", total)
	if n >= raceSchedules {
		mustHaveHappened(t, total)
	}
	for i, r := range bad {
		if i == 0 {
			t.Logf("the end of seed %d:\n%s", r.Seed, strings.Join(lastSteps(r.Seed, 80), "\n"))
		}
		t.Errorf("seed %d at %v: %s\nreplay: go test ./cluster/protocol/sim -run Schedule -v -sim.trace -sim.seed=%d", r.Seed, r.At, r.Violation, r.Seed)
	}
}

func replay(t *testing.T, seed uint64) {
	var trace func(string)
	if *traceFlag {
		trace = func(line string) { t.Log(line) }
	}
	r := NewBench().Run(seed, Rules{}, trace)
	t.Logf("ended at %v: %+v", r.At, r.Stats)
	if r.Violation != "" {
		t.Errorf("seed %d: %s", seed, r.Violation)
	}
}

// lastSteps gives the end of a schedule's trace.
func lastSteps(seed uint64, n int) []string {
	var lines []string
	NewBench().Run(seed, Rules{}, func(line string) { lines = append(lines, line) })
	return lines[max(0, len(lines)-n):]
}

// A failing seed is worth something only if it fails again, whatever ran before
// it on the same bench and whether or not somebody looks.
func TestAScheduleReplaysExactly(t *testing.T) {
	used := NewBench()
	for seed := uint64(1); seed <= 40; seed++ {
		var first, second []string
		a := used.Run(seed, Rules{}, func(l string) { first = append(first, l) })
		b := NewBench().Run(seed, Rules{}, func(l string) { second = append(second, l) })
		if a != b || !slices.Equal(first, second) || len(first) == 0 {
			t.Fatalf("seed %d: two traces of %d and %d lines differ", seed, len(first), len(second))
		}
		if c := used.Run(seed, Rules{}, nil); c != a {
			t.Fatalf("seed %d without trace: %+v, with trace %+v", seed, c, a)
		}
	}
}

// A simulation that exercises nothing finds nothing.
func mustHaveHappened(t *testing.T, s Stats) {
	t.Helper()
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if v.Field(i).Int() == 0 {
			t.Errorf("no schedule had any of %s", v.Type().Field(i).Name)
		}
	}
}

// play runs n schedules and gives the sum of what they did and the first
// failures.
func play(from, n uint64, workers int) (Stats, []Result) {
	if workers == 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	var next atomic.Uint64
	var mu sync.Mutex
	var wg sync.WaitGroup
	var total Stats
	var bad []Result
	for range workers {
		wg.Go(func() {
			bench := NewBench()
			var sum Stats
			for i := next.Add(1) - 1; i < n; i = next.Add(1) - 1 {
				r := bench.Run(from+i, Rules{}, nil)
				sum.Add(r.Stats)
				if r.Violation != "" {
					mu.Lock()
					if bad = append(bad, r); len(bad) >= 10 {
						next.Store(n)
					}
					mu.Unlock()
				}
			}
			mu.Lock()
			total.Add(sum)
			mu.Unlock()
		})
	}
	wg.Wait()
	return total, bad
}

// TestMain lets garbage grow: a schedule leaves little alive, and collecting it
// at the usual 4 MB costs as much as the schedules.
func TestMain(m *testing.M) {
	debug.SetGCPercent(2000)
	os.Exit(m.Run())
}
