package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// Bounds of what hostile files may cost. The workers' cap is the default of
// parse.memory_bytes; what goes beyond is touched between two measurements. The
// server's own share is program and model, some 150 MiB, and the index of those
// files that have text: 1 KiB a vector, three times that while segments merge.
const (
	workerCap   = 512 << 20
	workerSlack = 64 << 20
	serverCap   = 600 << 20
)

// hostileConfig shortens the time limits, so that a file that uses them up ends
// within the test's.
const (
	hostileConfig = "parse:\n  workers: 2\n  cpu_time: 20s\n  wall_time: 40s\n"
	parseWorkers  = 2
)

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "granary.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// hostileSet is everything thrown at the server.
func hostileSet(t *testing.T, short bool) []hostile {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	cuts, bait := 4, 100_000
	if short {
		cuts, bait = 1, 20_000
	}
	all := slices.Concat(damaged(r, cuts), bombs(), deep(), wrongTypes(), evilPDFs(), baits(bait))
	if !short {
		all = append(all, longLines()...)
	}
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// add sends one file, as UploadDocument does for the command line.
func (c clients) add(ctx context.Context, kb, name string, data []byte) (*granaryv1.Document, error) {
	stream, err := c.docs.UploadDocument(ctx)
	if err != nil {
		return nil, err
	}
	spec := &granaryv1.DocumentSpec{KnowledgeBase: kb, DisplayName: name, OnDuplicate: granaryv1.OnDuplicate_ON_DUPLICATE_FAIL}
	err = stream.Send(&granaryv1.UploadDocumentRequest{Part: &granaryv1.UploadDocumentRequest_Spec{Spec: spec}})
	for err == nil && len(data) > 0 {
		n := min(len(data), 1<<20)
		err = stream.Send(&granaryv1.UploadDocumentRequest{Part: &granaryv1.UploadDocumentRequest_Data{Data: data[:n]}})
		data = data[n:]
	}
	res, err := stream.CloseAndReceive() // its error says why sending failed
	return res.GetDocument(), err
}

// goodWord is a word that only one document has.
func goodWord(kind, when string) string { return "quern" + when + kind }

// addGood adds a good document of every type and gives their names by word.
func addGood(t *testing.T, c clients, when string) map[string]string {
	t.Helper()
	names := make(map[string]string)
	for _, kind := range kinds {
		word := goodWord(kind, when)
		d, err := c.add(t.Context(), "hostile", when+"."+kind, goodFile(kind, "The mill keeps its "+word+" beside the river where barges load."))
		if err != nil {
			t.Fatalf("%s: %v", word, err)
		}
		names[word] = d.GetName()
	}
	return names
}

// checkGood wants every good document READY in its first version and found by its word.
func checkGood(t *testing.T, c clients, names map[string]string) {
	t.Helper()
	docs := c.documents(t, "hostile")
	for word, name := range names {
		d := docs[name]
		if outcome(d) != ready || d.GetVersion() != 1 || d.GetAttempts() != 1 {
			t.Errorf("%s is %s, version %d after %d attempts", word, outcome(d), d.GetVersion(), d.GetAttempts())
		}
		checkChunks(t, c, d)
		mode := granaryv1.SearchMode_SEARCH_MODE_KEYWORD
		res, err := c.search.Search(t.Context(), &granaryv1.SearchRequest{KnowledgeBase: "hostile", Query: word, Retrieval: &granaryv1.RetrievalConfig{Mode: &mode}})
		if err != nil || len(res.GetHits()) != 1 || res.GetHits()[0].GetDocument() != name {
			t.Errorf("search %s: %v, not %s alone but %s", word, err, name, describe(res))
		}
	}
}

// Hostile input (A2, C2, C4, D6): whatever is uploaded ends, with a stable reason if it is refused;
// memory stays bounded; the server goes on answering; no other document suffers.
func TestHostileFilesHarmNobody(t *testing.T) {
	s := start(t, t.TempDir(), freeAddr(t), "--config", writeConfig(t, hostileConfig))
	t.Cleanup(func() {
		if s.cmd.ProcessState == nil { // a check gave up
			s.kill()
		}
	})
	c := s.clients()
	if _, err := c.kbs.CreateKnowledgeBase(t.Context(), &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: "hostile"}); err != nil {
		t.Fatal(err)
	}
	before := addGood(t, c, "before")
	c.awaitAll(t, "hostile", time.Minute)
	checkGood(t, c, before)
	set := hostileSet(t, testing.Short())

	m := s.meter()
	p := s.probe(before)
	sent := sendAll(t, c, set)
	after := addGood(t, c, "after")
	docs := c.awaitAll(t, "hostile", 150*time.Second)
	p.end(t)
	m.end()
	t.Logf("%d hostile files; %v", len(set), m)
	if m.peak > serverCap || m.worker > workerCap+workerSlack || m.workers > parseWorkers*(workerCap+workerSlack) {
		t.Errorf("memory is not bounded: %v", m)
	}
	for name, h := range sent {
		checkOutcome(t, h, docs[name])
	}
	checkGood(t, c, before)
	checkGood(t, c, after)
	s.stop()
	m.checkGone(t)
}

// sendAll uploads a set from a few clients and gives it by document name.
func sendAll(t *testing.T, c clients, set []hostile) map[string]hostile {
	t.Helper()
	var mu sync.Mutex
	sent := make(map[string]hostile, len(set))
	work := make(chan hostile)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for h := range work {
				d, err := c.add(t.Context(), "hostile", h.name, h.data)
				if err != nil {
					t.Errorf("%q was not taken: %v", h.name, err)
					continue
				}
				mu.Lock()
				sent[d.GetName()] = h
				mu.Unlock()
			}
		})
	}
	for _, h := range set {
		work <- h
	}
	close(work)
	workers.Wait()
	return sent
}

func checkOutcome(t *testing.T, h hostile, d *granaryv1.Document) {
	t.Helper()
	got := outcome(d)
	took := d.GetUpdateTime().AsTime().Sub(d.GetCreateTime().AsTime()).Round(time.Millisecond)
	if os.Getenv("GRANARY_E2E_VERBOSE") != "" {
		t.Logf("%-24q %-18s %s %v", h.name, got, d.GetError().GetMessage(), took)
	}
	if !slices.Contains(h.want, got) || d.GetAttempts() != 1 {
		t.Errorf("%q ended as %s (%v) after %d attempts, want one of %v", h.name, got, d.GetError(), d.GetAttempts(), h.want)
	}
	if d.GetState() == granaryv1.DocumentState_DOCUMENT_STATE_FAILED && (d.GetError().GetMessage() == "" || d.GetError().GetStage() != "parse") {
		t.Errorf("%q failed with an unclear error: %v", h.name, d.GetError())
	}
	if d.GetDisplayName() != h.name && strings.ToValidUTF8(h.name, "") == h.name {
		t.Errorf("%q is called %q", h.name, d.GetDisplayName())
	}
}

// prober asks a busy server the same small things all the time.
type prober struct {
	cancel context.CancelFunc
	done   chan struct{}
	took   []time.Duration
	faults []string
}

// probe asks for readiness and searches for the words, each ten times a second.
func (s *server) probe(words map[string]string) *prober {
	ctx, cancel := context.WithCancel(context.Background())
	p := &prober{cancel: cancel, done: make(chan struct{})}
	c := s.clients()
	go func() {
		defer close(p.done)
		for ctx.Err() == nil {
			for word, name := range words {
				p.one(ctx, "ready", func() error { return s.readyNow(ctx) })
				p.one(ctx, "search "+word, func() error {
					res, err := c.search.Search(ctx, &granaryv1.SearchRequest{KnowledgeBase: "hostile", Query: word})
					if err == nil && !slices.ContainsFunc(res.GetHits(), func(h *granaryv1.Hit) bool { return h.GetDocument() == name }) {
						err = fmt.Errorf("not %s but %s", name, describe(res))
					}
					return err
				})
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond): // the pace of the probe
				}
			}
		}
	}()
	return p
}

// describe is an answer in short, for the message of a failed test.
func describe(res *granaryv1.SearchResponse) string {
	var b strings.Builder
	fmt.Fprintf(&b, "revision %d %s:", res.GetRevision(), res.GetFallbackUsed())
	for _, h := range res.GetHits() {
		fmt.Fprintf(&b, " %s %s %.3f %v;", h.GetDisplayName(), h.GetDocument(), h.GetScore(), h.GetParts())
	}
	return b.String()
}

func (s *server) readyNow(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+"/ready", nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return nil
}

func (p *prober) one(ctx context.Context, what string, ask func() error) {
	begin := time.Now()
	err := ask()
	if ctx.Err() != nil {
		return
	}
	p.took = append(p.took, time.Since(begin))
	if err != nil {
		p.faults = append(p.faults, what+": "+err.Error())
	}
}

// end stops the probe and wants every answer right, and within a second. The
// slowest one of a hundred is left out: the machine may be busy otherwise.
func (p *prober) end(t *testing.T) {
	t.Helper()
	p.cancel()
	<-p.done
	slices.Sort(p.took)
	n := len(p.took)
	if n == 0 {
		t.Fatal("nothing was asked")
	}
	t.Logf("%d probes: p50 %v, p99 %v, max %v", n, p.took[n/2], p.took[n*99/100], p.took[n-1])
	if p.took[n*99/100] > time.Second {
		t.Errorf("the server was slow to answer: p99 %v, max %v", p.took[n*99/100], p.took[n-1])
	}
	for _, f := range p.faults {
		t.Error(f)
	}
}
