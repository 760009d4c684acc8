package nodetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/cmd/internal/node"
	"granary.dev/granary/gateway/auth"
)

// Cluster is several whole nodes on one database, in one test process.
type Cluster struct {
	Nodes []*Member
	DB    *pgxpool.Pool // the database, past all links

	t      testing.TB
	store  *url.URL
	gossip string // of the first node
	edit   []func(*node.Config)
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
// address that [Prepare] has seen. They are stopped at the end of the test, all
// at once; then no log may hold a secret, and the database must be in order.
func StartCluster(t testing.TB, store string, n int, edit ...func(*node.Config)) *Cluster {
	t.Helper()
	u, err := url.Parse(store)
	if err != nil || u.Host == "" {
		t.Fatal("the database must have a TCP address")
	}
	c := &Cluster{t: t, store: u, gossip: FreeAddr(t), edit: edit}
	if c.DB, err = pgxpool.New(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	for range n {
		c.Add()
	}
	c.Settle(c.Nodes...)
	return c
}

// Add starts one more node, and returns when it is a member.
func (c *Cluster) Add(edit ...func(*node.Config)) *Member {
	c.t.Helper()
	m := c.Make(edit...)
	if err := m.Begin(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	return m
}

// Make makes one more node that does not run yet; see [Member.Begin].
func (c *Cluster) Make(edit ...func(*node.Config)) *Member {
	c.t.Helper()
	gossip, actors := c.gossip, FreeAddr(c.t)
	if len(c.Nodes) > 0 {
		gossip = FreeAddr(c.t)
	}
	m := &Member{Store: newLink(c.t, c.store.Host), Actors: newLink(c.t, actors)}
	address := *c.store
	address.Host = m.Store.Addr()
	m.Server = newServer(c.t, slices.Concat([]func(*node.Config){func(cfg *node.Config) {
		cfg.Node, cfg.Store = fmt.Sprintf("n%d", len(c.Nodes)+1), node.Secret(address.String())
		cfg.LogLevel = "info"
		cfg.Cluster = node.ClusterConfig{Gossip: gossip, Actors: actors, AdvertiseActors: m.Actors.Addr(), Join: []string{c.gossip},
			Lease: 2 * time.Second}
	}}, c.edit, edit)...)
	m.Name = m.cfg.Node
	c.Nodes = append(c.Nodes, m)
	return m
}

// Begin starts a node that was made, and returns when it is a member, refused, or
// ctx is over.
func (m *Member) Begin(ctx context.Context) error { return m.tryStart(ctx) }

// Node gives the node of that name, or nil.
func (c *Cluster) Node(name string) *Member {
	for _, m := range c.Nodes {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// close ends the nodes and their links, and checks what they leave.
func (c *Cluster) close() {
	var all sync.WaitGroup
	for _, m := range c.Nodes {
		m.Store.Release()
		m.Actors.Release()
		m.Store.Mend()
		m.Actors.Mend()
	}
	for _, m := range c.Nodes {
		all.Go(m.Stop)
	}
	all.Wait()
	for _, m := range c.Nodes {
		m.Store.close()
		m.Actors.close()
		c.checkSecrets(m)
	}
	c.Audit(c.t)
	c.DB.Close()
}

// checkSecrets looks for secrets in what a node has logged.
func (c *Cluster) checkSecrets(m *Member) {
	password, _ := c.store.User.Password()
	secrets := []string{password}
	if m.Clients != nil {
		secrets = append(secrets, m.Token, m.Operator.Token)
	}
	for _, s := range secrets {
		if s != "" && m.Logged(s) {
			c.t.Errorf("%s has logged a secret", m.Name)
		}
	}
}

// Settle waits until these nodes, and only these, are live on all of them and
// nothing moves.
func (c *Cluster) Settle(live ...*Member) {
	c.t.Helper()
	Await(c.t, fmt.Sprintf("%d nodes are live and nothing moves", len(live)), func() bool {
		for _, m := range live {
			if v := m.View(); !settled(v, live) {
				return false
			}
		}
		return true
	})
}

func settled(v protocol.View, live []*Member) bool {
	count := 0
	for _, x := range v.Members {
		if x.State == protocol.Live {
			count++
		}
	}
	if count != len(live) || v.Moving() {
		return false
	}
	for _, m := range live {
		if x, ok := v.Named(m.Name); !ok || x.State != protocol.Live || x.NodeID != m.node.Self() {
			return false
		}
	}
	return true
}

// KBs gives n names of knowledge bases of a tenant that are placed on a node now.
// Names differ from call to call if prefix does.
func (c *Cluster) KBs(m *Member, tenant, prefix string, n int) []string {
	c.t.Helper()
	var names []string
	for i := 0; len(names) < n; i++ {
		name := fmt.Sprintf("%s-%d", prefix, i)
		if m.node.Owner(tenant, name) == m.Name {
			names = append(names, name)
		}
		if i > 10_000 {
			c.t.Fatalf("%s owns too little", m.Name)
		}
	}
	return names
}

// Token makes a tenant's token, with the signing key that all nodes share.
func (c *Cluster) Token(tenant, role string) string {
	c.t.Helper()
	var key []byte
	err := c.DB.QueryRow(c.t.Context(), `SELECT value FROM cluster_secret WHERE name = 'dev-signing-key'`).Scan(&key)
	if err != nil {
		c.t.Fatal(err)
	}
	authority, err := auth.FromPEM(key)
	if err != nil {
		c.t.Fatal(err)
	}
	token, err := authority.Issue(auth.Grant{Tenant: tenant, Subject: "test", Roles: []string{role}})
	if err != nil {
		c.t.Fatal(err)
	}
	return token.Reveal()
}

// Crash cuts a node off from the store and from all that others ask of it, as if
// its machine were gone but for gossip.
func (m *Member) Crash() {
	m.Store.Cut()
	m.Actors.Cut()
}

// ID names this life of the node.
func (m *Member) ID() protocol.NodeID { return m.node.Self() }

// View is the view the node acts on.
func (s *Server) View() protocol.View { return s.node.View() }

// Await polls until ok: what it waits for happens in another node.
func Await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// FreeAddr is a loopback address that nobody listens on now, for TCP and UDP. It
// is none of those that the kernel gives to connections, so that it stays free.
func FreeAddr(t testing.TB) string {
	t.Helper()
	var lc net.ListenConfig
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(12_000))
		l, err := lc.Listen(t.Context(), "tcp", addr)
		if err != nil {
			continue
		}
		p, err := lc.ListenPacket(t.Context(), "udp", addr)
		_ = l.Close()
		if err != nil {
			continue
		}
		_ = p.Close()
		return addr
	}
	t.Fatal("no free port")
	return ""
}
