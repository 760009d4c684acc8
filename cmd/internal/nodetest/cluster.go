package nodetest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"testing"
	"time"

	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/cmd/internal/node"
)

// Cluster is several whole nodes on one database, in one test process.
type Cluster struct {
	Nodes []*Member

	t      testing.TB
	store  string
	gossip string // of the first node
}

// Member is one node of a cluster. What it says to the store, and what others say
// to it, goes through links that a test can cut or hold; gossip does not, since
// it decides nothing.
type Member struct {
	*Server
	Name   string
	Store  *Link
	Actors *Link
}

// StartCluster starts n nodes, one after the other, on a database at a TCP
// address. They are stopped at the end of the test.
func StartCluster(t testing.TB, store string, n int, edit ...func(*node.Config)) *Cluster {
	t.Helper()
	c := &Cluster{t: t, store: store, gossip: freeAddr(t)}
	for range n {
		c.Add(edit...)
	}
	c.Settle(c.Nodes...)
	return c
}

// Add starts one more node.
func (c *Cluster) Add(edit ...func(*node.Config)) *Member {
	c.t.Helper()
	m := &Member{Name: fmt.Sprintf("n%d", len(c.Nodes)+1)}
	gossip, actors := c.gossip, freeAddr(c.t)
	if len(c.Nodes) > 0 {
		gossip = freeAddr(c.t)
	}
	address, host := c.address()
	m.Store, m.Actors = NewLink(c.t, host), NewLink(c.t, actors)
	address.Host = m.Store.Addr()
	m.Server = Start(c.t, append([]func(*node.Config){func(cfg *node.Config) {
		cfg.Node, cfg.Store = m.Name, node.Secret(address.String())
		cfg.Cluster = node.ClusterConfig{Gossip: gossip, Actors: actors, AdvertiseActors: m.Actors.Addr(), Join: []string{c.gossip}}
	}}, edit...)...)
	c.Nodes = append(c.Nodes, m)
	return m
}

func (c *Cluster) address() (*url.URL, string) {
	u, err := url.Parse(c.store)
	if err != nil || u.Host == "" {
		c.t.Fatal("the database must have a TCP address")
	}
	return u, u.Host
}

// Settle waits until these nodes, and only these, are live on all of them and
// nothing moves.
func (c *Cluster) Settle(live ...*Member) {
	c.t.Helper()
	Await(c.t, fmt.Sprintf("%d nodes are live and nothing moves", len(live)), func() bool {
		for _, m := range live {
			v := m.node.View()
			count := 0
			for _, x := range v.Members {
				if x.State == protocol.Live {
					count++
				}
			}
			if count != len(live) || v.Moving() {
				return false
			}
		}
		return true
	})
}

// View is the view a node acts on.
func (s *Server) View() protocol.View { return s.node.View() }

// Owner is the name of the node that a knowledge base of tenant dev is placed on.
func (s *Server) Owner(kb string) string { return s.node.Owner("dev", kb) }

// Leave gives the node's share away; it goes on serving clients.
func (s *Server) Leave(ctx context.Context) error { return s.node.Leave(ctx) }

// Await polls until ok: what it waits for happens in another node.
func Await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
