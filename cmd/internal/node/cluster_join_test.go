package node_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/cmd/internal/node"
	"granary.dev/granary/cmd/internal/nodetest"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/storage/sealed/sealedtest"
)

// load starts clients on knowledge bases of each node, two of each.
func load(c *nodetest.Cluster, retry bool, through ...*nodetest.Member) *nodetest.Load {
	var kbs []string
	for _, m := range c.Nodes {
		kbs = append(kbs, c.KBs(m, "dev", "load-"+m.Name, 2)...)
	}
	return c.Load(kbs, retry, through...)
}

// withoutCrash checks that no run of a document ended with nobody to tell, and
// that each grain was released before another node took it.
func withoutCrash(t *testing.T, c *nodetest.Cluster) {
	t.Helper()
	for what, query := range map[string]string{
		"takeovers without a release": `SELECT count(*) FROM (SELECT epoch, node, lag(epoch) OVER w AS was, lag(released) OVER w AS released
			FROM audit_owner WINDOW w AS (PARTITION BY tenant, kind, id ORDER BY n)) o WHERE epoch > was AND was > 0 AND NOT released`,
		"dead letters": `SELECT count(*) FROM dead_letters`,
	} {
		var n int
		if err := c.DB.QueryRow(t.Context(), query).Scan(&n); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
	withoutRestarts(t, c)
}

// withoutRestarts checks that no run of a document was started twice in a row.
func withoutRestarts(t *testing.T, c *nodetest.Cluster) {
	t.Helper()
	unseal, err := sealedtest.Open(t.Context(), c.DB)
	if err != nil {
		t.Fatal(err)
	}
	defer unseal.Close()
	rows, err := c.DB.Query(t.Context(), `SELECT tenant, kind, id, seq, type, data FROM events WHERE type LIKE 'document.%' ORDER BY tenant, kind, id, seq`)
	if err != nil {
		t.Fatal(err)
	}
	var id journal.Identity
	var e journal.Event
	before, again := make(map[string]string), 0
	_, err = pgx.ForEachRow(rows, []any{&id.Tenant, &id.Kind, &id.ID, &e.Seq, &e.Type, &e.Data}, func() error {
		if err := unseal.UnsealEvent(t.Context(), id, &e); err != nil {
			return err
		}
		ev, err := kb.DecodeEvent(e.Type, e.Data)
		if err != nil {
			return err
		}
		document := id.String() + "/" + kb.Subject(ev)
		if e.Type == "document.started" && before[document] == e.Type {
			again++
		}
		before[document] = e.Type
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if again > 0 {
		t.Errorf("%d runs started anew without a pause", again)
	}
}

// inRounds checks that no change of the view has moved more than a tenth of the
// partitions, rounded up, and gives how many did each.
func inRounds(t *testing.T, c *nodetest.Cluster) map[int64]int {
	t.Helper()
	views := c.Views(t)
	tables := protocol.NewTables(protocol.DefaultTableConfig(), 8)
	moved := make(map[int64]int)
	var was []protocol.NodeID
	for version := int64(1); version <= int64(len(views)); version++ {
		p, err := protocol.NewPlacement(views[version], tables)
		if err != nil {
			t.Fatal(err)
		}
		is := p.Partitions()
		for i := range was {
			if was[i] != is[i] {
				moved[version]++
			}
		}
		if most := (len(is) + protocol.Rounds - 1) / protocol.Rounds; moved[version] > most {
			t.Errorf("view %d moves %d partitions of %d, at most %d may", version, moved[version], len(is), most)
		}
		was = is
	}
	return moved
}

func TestNodesJoinLeaveAndRestartWhileClientsWork_A3_H3(t *testing.T) {
	c := nodetest.StartCluster(t, pg.Database(t), 3)
	n1, n2, n3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	l := load(c, false, n1, n2, n3)
	n4 := c.Add()
	c.Settle(n1, n2, n3, n4)
	if _, err := n1.Operator.Cluster.DrainNode(t.Context(), &granaryv1.DrainNodeRequest{Name: "n3"}); err != nil {
		t.Fatal(err)
	}
	c.Settle(n1, n2, n4) // the load goes through n3 still
	left, _ := n1.View().Named("n3")
	if left.State != protocol.Left || len(activationsOn(t, n1, "n3")) != 0 {
		t.Errorf("n3 is %s and has %v", left.State, activationsOn(t, n1, "n3"))
	}
	n2.Stop() // as SIGTERM does
	c.Settle(n1, n4)
	again := c.Add(func(cfg *node.Config) { cfg.Node = "n2" })
	l.Use(again)
	c.Settle(n1, again, n4)
	l.End()
	if moved := inRounds(t, c); len(moved) < 3*protocol.Rounds { // of the many, by far most
		t.Errorf("partitions moved in %d views only: %v", len(moved), moved)
	}
	withoutCrash(t, c)
}

// activationsOn lists the grains on a node as an operator sees them.
func activationsOn(t *testing.T, m *nodetest.Member, name string) []*granaryv1.Activation {
	t.Helper()
	r, err := m.Operator.Cluster.ListActivations(t.Context(), &granaryv1.ListActivationsRequest{Node: name, PageSize: 1000})
	if err != nil {
		return nil // it is no member any more
	}
	return r.GetActivations()
}

// events reads the types of a knowledge base's events about a document, until one of them is last.
func events(t *testing.T, s *nodetest.Clients, document, last string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := s.Events.WatchEvents(ctx, &granaryv1.WatchEventsRequest{KnowledgeBase: kbOf(document), FromStart: true})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var types []string
	for {
		m, err := stream.Receive()
		if err != nil {
			t.Fatalf("events of %s until %s: %v after %v", document, last, err, types)
		}
		if e := m.GetEvent(); e.GetDocument() == document {
			types = append(types, e.GetType())
			if e.GetType() == last {
				return types
			}
		}
	}
}

// kbOf is the knowledge base of a document's name.
func kbOf(document string) string {
	kb, _, _ := strings.Cut(strings.TrimPrefix(document, "knowledgeBases/"), "/")
	return kb
}

func TestDocumentsUnderWayGoOnElsewhereWhenTheirNodeStops_A5_H3(t *testing.T) {
	web := nodetest.NewWeb(t)
	c := nodetest.StartCluster(t, pg.Database(t), 2, web.Allow)
	n1, n2 := c.Nodes[0], c.Nodes[1]
	web.Hold()
	var docs []string
	for _, kb := range c.KBs(n2, "dev", "busy", 3) {
		n1.CreateKB(t, kb)
		docs = append(docs, n1.AddURL(t, kb, web.URL("page-"+kb)).GetName())
	}
	web.Await(t, len(docs))
	n2.Stop()
	web.Await(t, len(docs)) // without a client's call
	web.Release()
	for _, name := range docs {
		types := events(t, n1.Clients, name, "document.indexed")
		if want := []string{"document.added", "document.started", "document.paused", "document.started"}; !slices.Equal(types[:min(4, len(types))], want) {
			t.Errorf("%s: %v", name, types)
		}
		if d := n1.Settle(t, name); d.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_READY {
			t.Errorf("%v", d)
		}
	}
	withoutCrash(t, c)
}
