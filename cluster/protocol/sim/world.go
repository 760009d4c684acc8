package sim

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"granary.dev/granary/cluster/protocol"
)

const (
	slots    = 6 // nodes there may be, the spare one included
	maxKeys  = 3
	maxSteps = 200_000

	serveWithin = 10 * time.Second // I14
	workWithin  = 15 * time.Second // I10: the same and the time of an overdue wake-up
	wakeAfter   = 2 * time.Second  // scaled from 20 s, so that schedules stay short
	wakeOverdue = 3 * time.Second  // scaled from 30 s
)

// epoch is where the store's clock starts.
var epoch = time.Unix(1_000_000, 0).UTC()

// tableConfig is small enough that every set of members is computed once.
var tableConfig = protocol.TableConfig{Partitions: 23, Replication: 10, Load: 1.5}

// Bench is what successive runs of one goroutine share: memory and tables.
type Bench struct {
	tables *protocol.Tables
	queue  queue
}

// NewBench makes an empty bench.
func NewBench() *Bench { return &Bench{tables: protocol.NewTables(tableConfig, 1<<slots)} }

// Result tells how a schedule went.
type Result struct {
	Seed      uint64
	Violation string // "" if every invariant held
	At        time.Duration
	Stats     Stats
}

// Stats counts what schedules exercised.
type Stats struct {
	Steps, Writes, LeasedReads, VerifiedReads, Searches    int
	Acquires, Held, Fenced, Doubts, DoubtsApplied, Retries int
	Evictions, Joins, Refused, Drains, Views, Rounds       int
	Crashes, Pauses, Outages, Cuts, Lapses                 int
	Releases, Relocations, Indexed, Woke                   int
}

// Add sums two schedules up.
func (s *Stats) Add(o Stats) {
	s.Steps += o.Steps
	s.Writes += o.Writes
	s.LeasedReads += o.LeasedReads
	s.VerifiedReads += o.VerifiedReads
	s.Searches += o.Searches
	s.Acquires += o.Acquires
	s.Held += o.Held
	s.Fenced += o.Fenced
	s.Doubts += o.Doubts
	s.DoubtsApplied += o.DoubtsApplied
	s.Retries += o.Retries
	s.Evictions += o.Evictions
	s.Joins += o.Joins
	s.Refused += o.Refused
	s.Drains += o.Drains
	s.Views += o.Views
	s.Rounds += o.Rounds
	s.Crashes += o.Crashes
	s.Pauses += o.Pauses
	s.Outages += o.Outages
	s.Cuts += o.Cuts
	s.Lapses += o.Lapses
	s.Releases += o.Releases
	s.Relocations += o.Relocations
	s.Indexed += o.Indexed
	s.Woke += o.Woke
}

// world is one schedule.
type world struct {
	bench *Bench
	rules Rules
	rng   *rand.Rand
	cfg   conditions
	trace func(string)

	now   time.Duration
	queue queue
	seq   uint64

	nodes   []*node
	store   store
	vectors vectors
	links   links
	check   checker
	clients []client
	stats   Stats

	boots, acts int
	healed      bool
	healAt      time.Duration
	done        bool
	violation   string
}

// Run plays the schedule of a seed. trace gets one line per step if it is set.
func (b *Bench) Run(seed uint64, rules Rules, trace func(string)) Result {
	w := b.world(seed, rules, trace)
	w.cfg = w.draw()
	w.start()
	return w.play(seed)
}

// world prepares a schedule whose conditions are still to be set.
func (b *Bench) world(seed uint64, rules Rules, trace func(string)) *world {
	return &world{bench: b, rules: rules, trace: trace, queue: b.queue[:0],
		rng: rand.New(rand.NewPCG(seed, 0x6772616e617279))}
}

func (w *world) play(seed uint64) Result {
	w.run()
	if w.violation == "" {
		w.check.end()
	}
	clear(w.queue)
	w.bench.queue = w.queue[:0]
	return Result{Seed: seed, Violation: w.violation, At: w.now, Stats: w.stats}
}

func (w *world) start() {
	w.check.init(w)
	w.store.init(w)
	w.vectors.w = w
	w.links.w = w
	for i := range slots {
		w.nodes = append(w.nodes, newNode(w, i))
	}
	formed := w.chance(0.8)
	for _, n := range w.nodes[:w.cfg.nodes] {
		n.boot0()
	}
	if formed {
		w.store.form(w.nodes[:w.cfg.nodes])
	}
	for _, n := range w.nodes[:w.cfg.nodes] {
		w.after(w.upTo(300*time.Millisecond), n, n.tick)
	}
	w.clients = make([]client, w.cfg.clients)
	for i := range w.clients {
		c := &w.clients[i]
		c.w, c.id = w, i
		w.after(200*time.Millisecond+w.upTo(500*time.Millisecond), nil, c.next)
	}
	w.after(300*time.Millisecond+w.exp(w.cfg.faultEvery), nil, w.strike)
	w.healAt = w.cfg.length
	w.at(w.healAt, nil, w.heal)
}

func (w *world) run() {
	for len(w.queue) > 0 && !w.done && w.violation == "" {
		e := w.queue.pop()
		w.now = e.at
		if e.n != nil {
			if !e.n.up || e.boot != e.n.boot {
				continue
			}
			if e.n.stoppedUntil > w.now {
				e.at = e.n.stoppedUntil
				w.queue.push(e)
				continue
			}
		}
		w.stats.Steps++
		e.fn()
		if w.healed {
			w.check.served()
		}
		if w.stats.Steps > maxSteps {
			w.fail("the schedule does not end")
		}
	}
}

// at lets fn happen at a time, in the present life of n if it is set.
func (w *world) at(t time.Duration, n *node, fn func()) {
	w.seq++
	e := event{at: max(t, w.now), seq: w.seq, n: n, fn: fn}
	if n != nil {
		e.boot = n.boot
	}
	w.queue.push(e)
}

func (w *world) after(d time.Duration, n *node, fn func()) { w.at(w.now+d, n, fn) }

// storeTime is what the store's clock shows.
func (w *world) storeTime() time.Time { return epoch.Add(w.now) }

func (w *world) fail(format string, args ...any) {
	if w.violation == "" {
		w.violation = fmt.Sprintf(format, args...)
		w.log("VIOLATION %s", w.violation)
	}
}

// log writes to the trace. Callers on the hot way ask tracing first: the
// arguments cost more than the step.
func (w *world) log(format string, args ...any) {
	if w.trace != nil {
		w.trace(fmt.Sprintf("%9.3fs ", w.now.Seconds()) + fmt.Sprintf(format, args...))
	}
}

func (w *world) tracing() bool { return w.trace != nil }

func (w *world) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

func (w *world) exp(mean time.Duration) time.Duration {
	return time.Duration(w.rng.ExpFloat64() * float64(mean))
}

func (w *world) upTo(d time.Duration) time.Duration {
	return time.Duration(w.rng.Float64() * float64(d))
}

func (w *world) between(a, b time.Duration) time.Duration { return a + w.upTo(b-a) }

func (w *world) newBoot() string {
	w.boots++
	return "b" + strconv.Itoa(w.boots)
}

// identity of the k-th knowledge base; each has a tenant of its own.
func identity(k int) protocol.Identity { return identities[k] }

var identities = [maxKeys]protocol.Identity{
	{Kind: "kb", Tenant: "acme", ID: "handbook"},
	{Kind: "kb", Tenant: "birch", ID: "minutes"},
	{Kind: "kb", Tenant: "cedar", ID: "recipes"},
}
