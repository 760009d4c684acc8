package node_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/cmd/internal/nodetest"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/storage/pgtest"
)

// lease is how long a silent node of these tests keeps its share.
const lease = 2 * time.Second

// write sets the description of a knowledge base within a time, under a key of
// its own if none is given.
func write(t *testing.T, s *nodetest.Clients, kb, text, key string, within time.Duration) error {
	t.Helper()
	if key == "" {
		key = rand.Text()
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	r, err := s.KBs.UpdateKnowledgeBase(ctx, &granaryv1.UpdateKnowledgeBaseRequest{KnowledgeBase: &granaryv1.KnowledgeBase{Name: kb, Description: text},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"description"}}, RequestId: key})
	if err == nil && r.GetKnowledgeBase().GetDescription() != text {
		return fmt.Errorf("the answer says %q", r.GetKnowledgeBase().GetDescription())
	}
	return err
}

// read gives the description of a knowledge base.
func read(t *testing.T, s *nodetest.Clients, kb string, within time.Duration) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	r, err := s.KBs.GetKnowledgeBase(ctx, &granaryv1.GetKnowledgeBaseRequest{Name: kb})
	return r.GetKnowledgeBase().GetDescription(), err
}

// refused tells whether an error says that nobody could answer now.
func refused(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded:
		return err != nil
	}
	return false
}

// writeUntilAcknowledged repeats a keyed write, as a client does.
func writeUntilAcknowledged(t *testing.T, s *nodetest.Clients, kb, text string) {
	t.Helper()
	key := "until-" + kb + text
	nodetest.Await(t, "a write to "+kb+" is acknowledged", func() bool {
		err := write(t, s, kb, text, key, 10*time.Second)
		if err != nil && !refused(err) {
			t.Fatalf("%s: %v", kb, err)
		}
		return err == nil
	})
}

// crashWithWork starts documents, crashes their node, and gives them, their
// knowledge bases, and what follows the events of one of these.
func crashWithWork(t *testing.T, c *nodetest.Cluster, web *nodetest.Web, m, through *nodetest.Member) (docs, kbs []string, watch func(int64)) {
	t.Helper()
	kbs = c.KBs(m, "dev", "lost", 3)
	web.Hold()
	for _, kb := range kbs {
		through.CreateKB(t, kb)
		if err := write(t, through.Clients, kb, "before", "", 10*time.Second); err != nil {
			t.Fatal(err)
		}
		docs = append(docs, through.AddURL(t, kb, web.URL("page-"+kb)).GetName())
	}
	web.Await(t, len(docs))
	watch = follow(t, through.Clients, kbs[0])
	watch(4) // created, listed, written, a document added
	m.Crash()
	return docs, kbs, watch
}

func TestACrashedNodesWorkGoesOnElsewhereAndNothingIsLost_E5_A4(t *testing.T) {
	web := nodetest.NewWeb(t)
	c := nodetest.StartCluster(t, pg.Database(t), 3, web.Allow)
	n1, n2, n3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	first := n3.ID()
	l := load(c, true, n1, n2)
	docs, kbs, watch := crashWithWork(t, c, web, n3, n1)
	crashed := time.Now()
	for _, kb := range kbs {
		writeUntilAcknowledged(t, n1.Clients, kb, "after")
	}
	took := time.Since(crashed)
	t.Logf("fail-over of %d knowledge bases with a lease of %v: %v", len(kbs), lease, took.Round(time.Millisecond))
	if took > lease+8*time.Second {
		t.Errorf("fail-over took %v", took)
	}
	if !n1.View().Gone(first) {
		t.Error("a node took over from one that is a member")
	}
	zombie(t, n3, kbs)
	web.Await(t, len(docs)) // the runs have begun anew, without a client's call
	web.Release()
	for _, name := range docs {
		types := events(t, n2.Clients, name, "document.indexed")
		if want := []string{"document.added", "document.started", "document.started"}; !slices.Equal(types[:min(3, len(types))], want) {
			t.Errorf("%s: %v", name, types)
		}
	}
	watch(4 + 1 + 4) // what the test did before and after, and the runs
	l.End()
	n3.Store.Mend()
	n3.Actors.Mend()
	nodetest.Await(t, "n3 is back under a new id", func() bool {
		m, ok := n1.View().Named("n3")
		return ok && m.State == protocol.Live && m.NodeID != first
	})
	c.Settle(n1, n2, n3)
	for _, kb := range kbs {
		if got, err := read(t, n3.Clients, kb, 10*time.Second); got != "after" {
			t.Errorf("%s through the node that is back: %q, %v", kb, got, err)
		}
	}
}

// zombie asks a node that was given up and does not know it: it may refuse, or
// give what the new owner has acknowledged, and no write gets through.
func zombie(t *testing.T, m *nodetest.Member, kbs []string) {
	t.Helper()
	var all sync.WaitGroup
	for _, kb := range kbs {
		all.Go(func() {
			got, err := read(t, m.Clients, kb, 700*time.Millisecond)
			if err == nil && got != "after" || err != nil && !refused(err) {
				t.Errorf("I6: %s through a node that was given up: %q, %v", kb, got, err)
			}
			if err := write(t, m.Clients, kb, "zombie", "", 700*time.Millisecond); !refused(err) {
				t.Errorf("I1: a write to %s through a node that was given up: %v", kb, err)
			}
		})
	}
	all.Wait()
}

// Cuts on one cluster, one after the other; each ends when all is well again.
func TestNothingIsStaleOrLostWhateverIsCut_E5(t *testing.T) {
	c := nodetest.StartCluster(t, pg.Database(t), 2)
	t.Run("a node without its store reads until its lease ends", func(t *testing.T) { withoutStore(t, c) })
	t.Run("statements that arrive after the lease change nothing", func(t *testing.T) { lateStatements(t, c) })
	t.Run("nodes that do not reach each other stay members and serve their own", func(t *testing.T) { withoutPeers(t, c) })
	t.Run("a node without its store stops in time", func(t *testing.T) { stopsWithoutStore(t, c) })
}

func withoutStore(t *testing.T, c *nodetest.Cluster) {
	n1, n2 := c.Nodes[0], c.Nodes[1]
	first, kb := n2.ID(), c.KBs(n2, "dev", "cut", 1)[0]
	n1.CreateKB(t, kb)
	writeUntilAcknowledged(t, n1.Clients, kb, "before")
	n2.Settle(t, n2.AddText(t, kb, "a.txt", "herons stand in the water").GetName())
	n2.Store.Cut()
	cut := time.Now()
	reads := 0
	for time.Since(cut) < lease*3/4 { // nine tenths can be relied on
		for _, m := range c.Nodes {
			got, err := read(t, m.Clients, kb, time.Second)
			if err == nil && got != "before" {
				t.Fatalf("I6: read %q", got)
			}
			if err == nil && time.Since(cut) < lease*3/4 {
				reads++
			}
		}
		if reads == 2 {
			break
		}
	}
	if reads < 2 {
		t.Error("leased reads ended with the way to the store")
	}
	if err := write(t, n2.Clients, kb, "during", "during", 500*time.Millisecond); !refused(err) {
		t.Errorf("a write without the store: %v", err)
	}
	writeUntilAcknowledged(t, n1.Clients, kb, "after") // by n1, once n2 is given up
	if !n1.View().Gone(first) {
		t.Error("n1 took over from a member")
	}
	if got, err := read(t, n2.Clients, kb, 700*time.Millisecond); err == nil && got != "after" || err != nil && !refused(err) {
		t.Errorf("I6: through the node without a store: %q, %v", got, err)
	}
	staleAnswer(t, n2, kb)
	n2.Store.Mend()
	c.Settle(n1, n2)
	if n2.ID() == first {
		t.Error("a node that was given up came back with its old id")
	}
	if got, err := read(t, n2.Clients, kb, 10*time.Second); got != "after" {
		t.Errorf("%q, %v", got, err)
	}
	if !n2.Logged("WARN", "gave this node up") {
		t.Error("n2 did not say what happened to it")
	}
}

// staleAnswer searches on a node that has lost its share and does not know it:
// only who asks for it is answered from memory, and is told so.
func staleAnswer(t *testing.T, m *nodetest.Member, kb string) {
	t.Helper()
	ask := func(stale bool) (*granaryv1.SearchResponse, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		return m.Search.Search(ctx, &granaryv1.SearchRequest{KnowledgeBase: kb, Query: "herons", AllowStale: stale})
	}
	if r, err := ask(true); err != nil || !r.GetStale() || len(r.GetHits()) != 1 {
		t.Errorf("stale search without a store: %v, %v", r, err)
	}
	if r, err := ask(false); !refused(err) {
		t.Errorf("search without a store: %v, %v", r, err)
	}
}

// stopsWithoutStore stops a node as SIGTERM does.
func stopsWithoutStore(t *testing.T, c *nodetest.Cluster) {
	n2 := c.Nodes[1]
	n2.Store.Cut()
	began := time.Now()
	n2.Stop()
	if took := time.Since(began); took > 2*lease+14*time.Second {
		t.Errorf("it took %v", took)
	}
	if !n2.Logged("WARN", "without having left") {
		t.Error("it does not say that it did not leave")
	}
	c.Settle(others(c, n2)...)
}

// withoutPeers cuts the calls between two nodes that both have the store.
func withoutPeers(t *testing.T, c *nodetest.Cluster) {
	n1, n2 := c.Nodes[0], c.Nodes[1]
	kb1, kb2 := c.KBs(n1, "dev", "peer", 1)[0], c.KBs(n2, "dev", "peer", 1)[0]
	n1.CreateKB(t, kb1)
	n1.CreateKB(t, kb2)
	ids := []protocol.NodeID{n1.ID(), n2.ID()}
	n1.Actors.Cut()
	n2.Actors.Cut()
	for kb, way := range map[string][2]*nodetest.Member{kb1: {n1, n2}, kb2: {n2, n1}} {
		if err := write(t, way[0].Clients, kb, "own", "", 5*time.Second); err != nil {
			t.Errorf("%s on its node: %v", kb, err)
		}
		if got, err := read(t, way[1].Clients, kb, 300*time.Millisecond); !refused(err) {
			t.Errorf("%s through the other side: %q, %v", kb, got, err)
		}
	}
	late := c.Make()
	late.Actors.Cut()
	joined := make(chan error, 1)
	go func() { joined <- late.Begin(t.Context()) }()
	nodetest.Await(t, "a node that nobody reaches is refused", func() bool { return late.Logged("may not join", "cannot be reached") })
	health, err := n1.Operator.Cluster.GetClusterHealth(t.Context(), &granaryv1.GetClusterHealthRequest{})
	if err != nil || health.GetHealth().GetState() != granaryv1.HealthState_HEALTH_STATE_UNAVAILABLE || !hasProblem(health, "NODE_UNREACHABLE", "nodes/n2") {
		t.Errorf("health: %v, %v", health, err)
	}
	for _, m := range c.Nodes {
		m.Actors.Mend()
	}
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	c.Settle(c.Nodes...)
	if n1.ID() != ids[0] || n2.ID() != ids[1] {
		t.Error("somebody was given up who has the store")
	}
	for _, m := range c.Nodes {
		for _, kb := range []string{kb1, kb2} {
			if got, err := read(t, m.Clients, kb, 10*time.Second); got != "own" {
				t.Errorf("%s through %s: %q, %v", kb, m.Name, got, err)
			}
		}
	}
}

func hasProblem(r *granaryv1.GetClusterHealthResponse, reason, node string) bool {
	return slices.ContainsFunc(r.GetHealth().GetProblems(), func(p *granaryv1.HealthProblem) bool {
		return p.GetReason() == reason && (node == "" || p.GetNode() == node) && p.GetMessage() != ""
	})
}

// lateStatements holds all that a node says to the store until it is given up,
// writes among it. The new owner has written one knowledge base by the time they
// arrive, and only read the other.
func lateStatements(t *testing.T, c *nodetest.Cluster) {
	n1, n2 := c.Nodes[0], c.Nodes[1]
	first := n2.ID()
	l := load(c, true, n1, n2)
	kbs := c.KBs(n2, "dev", "held", 2)
	for _, kb := range kbs {
		n1.CreateKB(t, kb)
		writeUntilAcknowledged(t, n1.Clients, kb, "before")
	}
	n2.Store.Hold()
	late := make(chan error, len(kbs))
	for _, kb := range kbs {
		go func() { late <- write(t, n2.Clients, kb, "late", "", time.Minute) }()
	}
	nodetest.Await(t, "n2 is given up", func() bool { return n1.View().Gone(first) })
	writeUntilAcknowledged(t, n1.Clients, kbs[0], "new owner")
	if got, err := read(t, n1.Clients, kbs[1], 10*time.Second); got != "before" {
		t.Errorf("%q, %v", got, err)
	}
	n2.Store.Release()
	acknowledged := 0
	for range kbs {
		if err := <-late; err == nil {
			acknowledged++ // sent again, to the new owner: nothing was applied
		} else if !refused(err) {
			t.Error(err)
		}
	}
	shown := 0
	for _, kb := range kbs {
		for _, m := range c.Nodes {
			got, err := read(t, m.Clients, kb, 10*time.Second)
			if got == "late" {
				shown++
			} else if got != map[string]string{kbs[0]: "new owner", kbs[1]: "before"}[kb] {
				t.Errorf("%s through %s: %q, %v", kb, m.Name, got, err)
			}
		}
	}
	if shown != acknowledged*len(c.Nodes) {
		t.Errorf("I7: %d late writes were acknowledged, the nodes show %d", acknowledged, shown)
	}
	c.Settle(n1, n2)
	l.End()
}

func TestAnOutageOfTheDatabaseEvictsNobody_E5(t *testing.T) {
	own := newPostgres(t)
	c := nodetest.StartCluster(t, own.Database(t), 3)
	var ids []protocol.NodeID
	for _, m := range c.Nodes {
		ids = append(ids, m.ID())
	}
	l := load(c, true, c.Nodes...)
	server := own.Server(t)
	for what, outage := range map[string]func() error{
		"a crash of the server":       func() error { return server.Restart(t.Context(), pgtest.Immediate) },
		"an outage of several leases": func() error { return longOutage(t, server, c) },
	} {
		if err := outage(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		wrote := l.Writes.Load()
		nodetest.Await(t, "writes go on after "+what, func() bool { return l.Writes.Load() > wrote+50 })
	}
	l.End()
	c.Settle(c.Nodes...)
	for i, m := range c.Nodes {
		if m.ID() != ids[i] {
			t.Errorf("%s was given up", m.Name)
		}
	}
}

// longOutage stops the server for longer than a lease: all have expired when it
// is back. One node is there first, and must leave the others time.
func longOutage(t *testing.T, server *pgtest.Server, c *nodetest.Cluster) error {
	t.Helper()
	if err := server.Pause(); err != nil {
		return err
	}
	outage := time.NewTimer(lease + lease/2)
	defer outage.Stop()
	<-outage.C
	first := c.Nodes[0]
	for _, m := range others(c, first) {
		m.Store.Cut()
	}
	if err := server.Resume(t.Context()); err != nil {
		return err
	}
	nodetest.Await(t, "the first node has a lease again", func() bool {
		var held bool
		err := c.DB.QueryRow(t.Context(), `SELECT expires > clock_timestamp() FROM node_lease WHERE node = $1`, first.ID().String()).Scan(&held)
		return err == nil && held
	})
	for _, m := range others(c, first) {
		m.Store.Mend()
	}
	return nil
}
