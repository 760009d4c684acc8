//go:build unix

package e2e

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// `make chaos` sets these; the tests' own run is the short form.
var (
	chaosFaults = flag.Int("chaos.faults", 0, "faults of the long form, the cuts included; 0: the short form")
	chaosSeed   = flag.Uint64("chaos.seed", 0, "seed of the faults and the load; 0: from the clock")
	chaosLogs   = flag.String("chaos.logs", "", "folder in which the nodes' logs are kept also after a test that passed")
	chaosPerRun = flag.Int("chaos.round", 40, "faults between two checks of everything")
)

func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := *chaosSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("replay with: go test ./deploy/e2e -run '%s$' -count=1 -chaos.seed=%d -chaos.faults=%d", t.Name(), seed, *chaosFaults)
	return seed
}

// faultsOf shares the faults of the long form between the tests that do some.
func faultsOf(short int, part float64) int {
	if *chaosFaults == 0 {
		return short
	}
	return max(1, int(float64(*chaosFaults)*part))
}

// chaos is one run of load and faults with everything that is counted.
type chaos struct {
	t       *testing.T
	cluster *cluster
	nemesis *nemesis
	owners  *ownership
	leaks   *leaks
	tenants []tenant
	random  *rand.Rand

	found   findings
	ops     map[string]int // by action and outcome
	whys    map[string]int
	states  map[string]int // of documents at the ends of rounds
	settled []time.Duration
	streams int
	served  []time.Duration // from the end of the faults to the first write of each knowledge base
}

const (
	chaosTenants = 3
	chaosKBs     = 2 // of each tenant, a round
	chaosClients = 3 // of each knowledge base
	settleTime   = 60 * time.Second
)

func newChaos(t *testing.T, c *cluster, n *nemesis) *chaos {
	ch := &chaos{t: t, cluster: c, nemesis: n, leaks: &leaks{}, random: rand.New(rand.NewPCG(c.seed, 99)),
		ops: make(map[string]int), whys: make(map[string]int), states: make(map[string]int)}
	ch.tenants = c.tenants(t, chaosTenants)
	ch.owners = c.watchOwners(t)
	return ch
}

// run does the faults in rounds: load and faults, healing, and the checks of
// everything that happened, on knowledge bases of the round's own.
func (ch *chaos) run(faults int) {
	for round := 1; faults > 0 && !ch.t.Failed(); round++ {
		n := min(faults, *chaosPerRun)
		faults -= n
		ch.round(round, n)
	}
	ch.owners.end()
	for _, v := range ch.owners.violated {
		ch.t.Errorf("two owners: %s", v)
	}
	for _, l := range ch.leaks.found {
		ch.t.Errorf("leak: %s", l)
	}
	ch.report()
	if ch.t.Failed() {
		ch.t.Logf("faults:\n%s", strings.Join(ch.nemesis.log, "\n"))
	}
}

func (ch *chaos) round(number, faults int) {
	ctx := ch.t.Context()
	l := newLoad(fmt.Sprintf("r%d", number), 120*time.Millisecond)
	bases, workers := ch.workers(ctx, l)
	followers, unfollow := ch.follow(ctx, l, bases, workers)
	stop, drained := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(drained)
		var wg sync.WaitGroup
		for _, w := range workers {
			wg.Go(func() { w.run(ctx, stop) })
		}
		wg.Wait()
	}()
	ch.nemesis.harm(ctx, faults-1, ch.random.Uint64())
	if err := ch.nemesis.killAll(); err != nil {
		ch.t.Errorf("round %d: %v", number, err)
	}
	calm := l.history.now()
	if err := ch.cluster.heal(ctx); err != nil {
		ch.t.Errorf("round %d: not healed %v after the last fault: %v", number, backTime, err)
	}
	ch.awaitService(ctx, l, bases, calm)
	close(stop)
	<-drained
	ch.settle(ctx, l, bases, workers, calm)
	found := ch.cluster.checkAll(ctx, l, bases, followers)
	unfollow()
	for i, w := range append(found.wrong, l.broken...) {
		if i < 10 {
			ch.t.Errorf("round %d: %s", number, w)
		}
	}
	ch.count(l, found)
	for _, w := range workers {
		w.client.close()
	}
}

// workers makes the round's knowledge bases, of equal names for all tenants, and their clients.
func (ch *chaos) workers(ctx context.Context, l *load) (bases []*shared, workers []*worker) {
	for _, tn := range ch.tenants {
		for k := range chaosKBs {
			s := &shared{base: base{tn.name, fmt.Sprintf("%s-kb-%d", l.round, k+1)}}
			for n := range chaosClients {
				w := &worker{load: l, client: ch.cluster.client(tn, ch.tenants, ch.leaks), shared: s, number: len(workers),
					random: rand.New(rand.NewPCG(ch.random.Uint64(), 1))}
				if n == 0 {
					ch.create(ctx, w)
				}
				workers = append(workers, w)
			}
			bases = append(bases, s)
		}
	}
	return bases, workers
}

// follow starts a follower of each knowledge base; end them with the returned function.
func (ch *chaos) follow(ctx context.Context, l *load, bases []*shared, workers []*worker) (map[base]*follower, func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	out := make(map[base]*follower)
	for i, s := range bases {
		f := &follower{base: s.base, client: workers[i*chaosClients].client, begun: l}
		out[s.base] = f
		wg.Go(func() { f.run(ctx) })
	}
	return out, func() {
		cancel()
		wg.Wait()
		for _, f := range out {
			ch.streams += f.streams
		}
	}
}

// create makes a worker's knowledge base, in calm.
func (ch *chaos) create(ctx context.Context, w *worker) {
	ch.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, opTime)
	defer cancel()
	res := &granaryv1.CreateKnowledgeBaseResponse{}
	t := w.until(ctx, "KnowledgeBaseService/CreateKnowledgeBase", "create-"+w.shared.base.tenant+"-"+w.shared.base.kb,
		&granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: w.shared.base.kb}, res)
	if t.verdict() != verdictOK {
		ch.t.Fatalf("create %s: %v %s", w.shared.base, t.err, t.answer)
	}
	k := res.GetKnowledgeBase()
	w.shared.uid, w.shared.revision, w.shared.config = k.GetUid(), k.GetRevision(), 1
	w.shared.begin = kbState{revision: k.GetRevision(), config: 1}
}

// until repeats a keyed request at one node after another until it is answered.
func (w *worker) until(ctx context.Context, method, id string, req, res proto.Message) (t try) {
	for {
		w.node = (w.node + 1) % len(w.client.http)
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		t = w.client.send(one, w.node, method, id, true, req, res)
		cancel()
		if v := t.verdict(); ctx.Err() != nil || v != verdictAgain && v != verdictUnknown {
			return t
		}
		sleep(ctx, 50*time.Millisecond)
	}
}

// awaitService waits until each knowledge base has acknowledged a write after the faults (I14).
func (ch *chaos) awaitService(ctx context.Context, l *load, bases []*shared, calm int64) {
	for _, s := range bases {
		d, ok := l.firstWrite(ctx, s.base, calm)
		if !ok {
			ch.t.Errorf("%s has acknowledged nothing for %v after the last fault", s.base, settleTime)
			continue
		}
		ch.served = append(ch.served, d)
	}
}

// settle waits until every document has ended, and reads everything from every node.
func (ch *chaos) settle(ctx context.Context, l *load, bases []*shared, workers []*worker, calm int64) {
	for i, s := range bases {
		w := workers[i*chaosClients]
		var open []string
		var states map[string]int
		for {
			open, states = ch.unended(ctx, w)
			open = append(open, ch.owners.owes(s.base)...)
			if len(open) == 0 || time.Duration(l.history.now()-calm) > settleTime {
				break
			}
			sleep(ctx, 100*time.Millisecond)
		}
		ch.settled = append(ch.settled, time.Duration(l.history.now()-calm))
		if len(open) > 0 {
			ch.t.Errorf("%s: stranded %v after the last fault: %s", s.base, settleTime, strings.Join(open, "; "))
		}
		for state, n := range states {
			ch.states[state] += n
			if state != "READY" && state != "QUARANTINED" {
				ch.t.Errorf("%s: %d documents ended as %s", s.base, n, state)
			}
		}
		for range ch.cluster.members { // the next node each time
			w.perform(ctx, w.newOp(actRead))
			w.perform(ctx, w.newOp(actList))
			w.perform(ctx, w.newOp(actSearch))
		}
	}
}

// unended lists the documents of a knowledge base that are still worked on, and
// how the others ended.
func (ch *chaos) unended(ctx context.Context, w *worker) (open []string, states map[string]int) {
	o := w.newOp(actList)
	method, req, _ := w.request(o)
	res := &granaryv1.ListDocumentsResponse{}
	ctx, cancel := context.WithTimeout(ctx, opTime)
	defer cancel()
	if t := w.until(ctx, method, o.id, req, res); t.verdict() != verdictOK {
		return []string{fmt.Sprintf("%v %s", t.err, t.answer)}, nil
	}
	states = make(map[string]int)
	for _, d := range res.GetDocuments() {
		if !ended(d) {
			open = append(open, fmt.Sprintf("%s %s attempt %d %v", d.GetName(), d.GetState(), d.GetAttempts(), d.GetError()))
			continue
		}
		states[outcome(d)]++
	}
	return open, states
}

func (ch *chaos) count(l *load, f findings) {
	ch.found.add(f)
	fates := map[fate]string{fateOK: "ok", fateRefused: "refused", fateUnknown: "unknown"}
	for _, ops := range l.history.byBase() {
		for _, o := range ops {
			ch.ops[string(o.action)+" "+fates[o.fate]]++
		}
	}
	for why, n := range l.whys {
		ch.whys[why] += n
	}
}

// report prints what was done and the bound that no failure in so many tries gives.
func (ch *chaos) report() {
	table := func(m map[string]int) string {
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(m)) {
			parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
		}
		return strings.Join(parts, ", ")
	}
	var b strings.Builder
	f := ch.found
	fmt.Fprintf(&b, "\nfaults           %s; %d orderly stops cut calls off\n", ch.nemesis, ch.cluster.cutOff)
	fmt.Fprintf(&b, "operations       %s\n", table(ch.ops))
	fmt.Fprintf(&b, "tries            %s\n", table(ch.whys))
	fmt.Fprintf(&b, "histories        %d with %d operations checked for linearizability\n", f.histories, f.operations)
	fmt.Fprintf(&b, "writes           %d acknowledged; %d without an answer, of which %d had been applied\n", f.acked, f.unknown, f.landed)
	fmt.Fprintf(&b, "searches         %d compared with the journal at their revision\n", f.searches)
	fmt.Fprintf(&b, "events           %d streamed over %d streams, gapless and as in the journals\n", f.streamed, ch.streams)
	fmt.Fprintf(&b, "owners           %d acquisitions seen in %d looks\n", ch.owners.changes, ch.owners.looks)
	fmt.Fprintf(&b, "documents        %s\n", table(ch.states))
	fmt.Fprintf(&b, "after the faults %s\n", quantiles("first write of each knowledge base", ch.served))
	fmt.Fprintf(&b, "                 %s\n", quantiles("all documents ended", ch.settled))
	if !ch.t.Failed() {
		fmt.Fprintf(&b, "lost 0 (< %.2g of acknowledged writes at 95 %%), applied twice 0 (< %.2g of writes), two owners 0 (< %.2g of acquisitions), "+
			"bytes of other tenants 0 (in %d answers, %d bytes)\n", bound(f.acked), bound(f.acked+f.landed), bound(ch.owners.changes),
			ch.leaks.answers.Load(), ch.leaks.bytes.Load())
	}
	ch.t.Log(b.String())
}

// bound is the rule of three: 0 of n seen means less than 3/n at 95 %.
func bound(n int) float64 { return 3 / float64(max(n, 1)) }

// quantiles prints the spread of some durations.
func quantiles(name string, d []time.Duration) string {
	if len(d) == 0 {
		return name + ": none"
	}
	d = slices.Sorted(slices.Values(d))
	at := func(q float64) time.Duration {
		return d[min(len(d)-1, int(q*float64(len(d))))].Round(time.Millisecond)
	}
	return fmt.Sprintf("%s: p50 %v, p99 %v, max %v (n = %d)", name, at(.5), at(.99), at(1), len(d))
}

// A2, A4, E5, H3; I1–I10, I13, I14: whatever happens to processes and store,
// nothing acknowledged is lost or done twice, no answer is older than the one
// before, and all work ends.
func TestClusterUnderProcessFaultsLosesNothing_A4_E5(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	nodes, lanes, freeze := 4, 2, 12*time.Second
	if *chaosFaults > 0 {
		nodes, lanes, freeze = 5, 3, 30*time.Second
	}
	c := newCluster(t, clusterOptions{nodes: nodes, seed: seedOf(t)})
	newChaos(t, c, newNemesis(c, lanes, c.processFaults(freeze))).run(faultsOf(30, .6))
}
