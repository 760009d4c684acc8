package node_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/cluster/transport"
	"granary.dev/granary/cmd/internal/certs"
	"granary.dev/granary/cmd/internal/node"
	"granary.dev/granary/cmd/internal/nodetest"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

func TestANodeComesBackUnderItsName_A2_A4(t *testing.T) {
	c := nodetest.StartCluster(t, pg.Database(t), 2)
	n1, n2 := c.Nodes[0], c.Nodes[1]
	kb := c.KBs(n2, "dev", "mine", 1)[0]
	n1.CreateKB(t, kb)
	writeUntilAcknowledged(t, n1.Clients, kb, "kept")
	first := n2.ID()
	n2.Restart()
	c.Settle(n1, n2)
	if n2.ID() == first || n2.ID().Name != first.Name {
		t.Errorf("%v came back as %v", first, n2.ID())
	}
	if p := placement(t, n1, kb); p.GetNode() != "nodes/n2" {
		t.Errorf("its share is not the one it had: %v", p)
	}
	if got, err := read(t, n2.Clients, kb, 10*time.Second); got != "kept" {
		t.Errorf("%q, %v", got, err)
	}
	t.Run("second process", func(t *testing.T) { secondProcess(t, c, n2) })
}

// secondProcess starts another process under the name of a node. It waits while
// the first one is a member, says why, and takes its place when that is gone.
func secondProcess(t *testing.T, c *nodetest.Cluster, m *nodetest.Member) {
	second := c.Make(func(cfg *node.Config) { cfg.Node = m.Name })
	started := make(chan error, 1)
	go func() { started <- second.Begin(t.Context()) }()
	nodetest.Await(t, "the second says why it waits", func() bool { return second.Logged("may not join", "another process with this node name") })
	first := m.ID()
	if v := c.Nodes[0].View(); v.Gone(first) {
		t.Error("the first was pushed out")
	}
	m.Crash()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	c.Settle(c.Nodes[0], second)
	if second.ID() == first || second.ID().Name != first.Name {
		t.Errorf("%v follows %v", second.ID(), first)
	}
}

func TestNodesOfOtherRulesAreRefused_I11(t *testing.T) {
	c := nodetest.StartCluster(t, pg.Database(t), 1)
	n1 := c.Nodes[0]
	other := func(cfg *node.Config) { cfg.Cluster.Lease = 3 * time.Second }
	err := c.Make(other).Begin(t.Context())
	if !errors.Is(err, protocol.ErrFingerprint) || !strings.Contains(err.Error(), "lease=3s") || !strings.Contains(err.Error(), "lease=2s") {
		t.Errorf("another length of the lease: %v", err)
	}
	n1.Stop()
	if _, err := c.DB.Exec(t.Context(), `UPDATE cluster_view SET version = version + 1, active = ARRAY['n9#boot'], fingerprint = 'other/lease=2s',
		body = jsonb_set(body, '{members,0}', '{"name":"n9","boot":"boot","addr":"127.0.0.1:1","state":"live"}')`); err != nil {
		t.Fatal(err)
	}
	if err := c.Make().Begin(t.Context()); !errors.Is(err, protocol.ErrFingerprint) || !strings.Contains(err.Error(), "other/lease=2s") {
		t.Errorf("another partition table: %v", err)
	}
}

func TestStoppedNodesLeaveNothing_A8(t *testing.T) {
	before := goleak.IgnoreCurrent()
	var folders []string
	t.Run("two nodes", func(t *testing.T) {
		c := nodetest.StartCluster(t, pg.Database(t), 2)
		for _, m := range c.Nodes {
			kb := c.KBs(m, "dev", m.Name, 1)[0]
			c.Nodes[0].CreateKB(t, kb)
			c.Nodes[0].Settle(t, c.Nodes[0].AddText(t, kb, "keys.md", rotation).GetName())
			search(t, m.Server, kb, "signing key")
		}
		for _, m := range c.Nodes {
			m.Stop()
			folders = append(folders, files(t, m.Data)...)
		}
	})
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
	slices.Sort(folders)
	// The lock of the audit's folder stays: whoever removed it could let two processes in.
	if want := []string{"audit/LOCK", "dev-operator-token", "dev-token"}; !slices.Equal(slices.Compact(folders), want) {
		t.Errorf("left in the data folders: %v", folders)
	}
}

// files lists the files of a folder, but for the cache of the PDF reader.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if !strings.HasPrefix(name, filepath.Join("cache", "pdf")) {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// development makes an authority and certificates as an operator would.
func development(t *testing.T, nodes ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	cmd := certs.Command()
	cmd.SetArgs([]string{"dev", "--out", dir, "--nodes", strings.Join(nodes, ",")})
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	return dir
}

// secured has a node speak TLS with a certificate of dir and encrypted gossip.
func secured(dir string) func(*node.Config) {
	return func(cfg *node.Config) {
		k := &cfg.Cluster
		k.CAFile, k.CertFile, k.KeyFile = filepath.Join(dir, "ca.pem"), filepath.Join(dir, cfg.Node+".pem"), filepath.Join(dir, cfg.Node+"-key.pem")
		k.GossipKeyFile = filepath.Join(dir, "gossip.key")
	}
}

func TestOnlyNodesOfTheAuthorityTakePart_A2(t *testing.T) {
	dir, foreign := development(t, "n1", "n2"), development(t, "n3")
	c := nodetest.StartCluster(t, pg.Database(t), 2, func(cfg *node.Config) {
		if cfg.Node == "n1" || cfg.Node == "n2" {
			secured(dir)(cfg)
		}
	})
	n1, n2 := c.Nodes[0], c.Nodes[1]
	for _, m := range c.Nodes { // across nodes, both ways
		kb := c.KBs(m, "dev", m.Name, 1)[0]
		n1.CreateKB(t, kb)
		if err := write(t, n2.Clients, kb, "over TLS", "", 10*time.Second); err != nil {
			t.Error(err)
		}
	}
	for name, edit := range map[string]func(*node.Config){
		"another authority": func(cfg *node.Config) { cfg.Node = "n3"; secured(foreign)(cfg) },
		"plain text":        func(cfg *node.Config) { cfg.Node = "n3" },
	} {
		stranger := c.Make(edit)
		ctx, cancel := context.WithCancel(t.Context())
		begun := make(chan error, 1)
		go func() { begun <- stranger.Begin(ctx) }()
		nodetest.Await(t, name+": says why it may not join", func() bool { return stranger.Logged("may not join", "cannot be reached") })
		cancel()
		if err := <-begun; err == nil {
			t.Errorf("%s: a member", name)
		}
		if n1.Logged("gossip: a member's state", "member=n3#") {
			t.Errorf("%s: heard in gossip", name)
		}
	}
	if _, member := n1.View().Named("n3"); member {
		t.Error("a stranger is in the view")
	}
	nothingForStrangers(t, n1, foreign)
}

// nothingForStrangers calls a grain of a node as another node would.
func nothingForStrangers(t *testing.T, m *nodetest.Member, foreign string) {
	t.Helper()
	client, _, err := transport.TLSConfig(filepath.Join(foreign, "ca.pem"), filepath.Join(foreign, "n3.pem"), filepath.Join(foreign, "n3-key.pem"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]transport.Config{"plain text": {}, "another authority": {TLS: client}} {
		cfg.Logger = slog.New(slog.DiscardHandler)
		tc := transport.NewClient(cfg)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if r, err := tc.Call(ctx, m.Actors.Addr(), &nodev1.Call{Kind: "tenant", Tenant: "dev", Grain: "dev"}); err == nil {
			t.Errorf("%s: answered with %v", name, r)
		}
		if r, err := tc.Ping(ctx, m.Actors.Addr(), &nodev1.PingRequest{From: "n3#x"}); err == nil {
			t.Errorf("%s: answered with %v", name, r)
		}
		if r, err := tc.Admin(ctx, m.Actors.Addr(), &nodev1.AdminRequest{Operation: &nodev1.AdminRequest_Drain{Drain: &nodev1.DrainNode{}}}); err == nil {
			t.Errorf("%s: answered with %v", name, r)
		}
		cancel()
		tc.Close()
	}
}

// Between nodes there is no plain text off loopback, and what belongs together
// must be there together.
func TestNodesSpeakPlainTextOnLoopbackOnly_A2(t *testing.T) {
	dir := development(t, "n1")
	base := func(edit func(*node.ClusterConfig)) node.Config {
		cfg := node.Config{Dev: true, Node: "n1", Store: "postgres://granary@127.0.0.1/granary"}
		edit(&cfg.Cluster)
		return cfg
	}
	all := func(k *node.ClusterConfig) {
		k.CAFile, k.CertFile, k.KeyFile = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "n1.pem"), filepath.Join(dir, "n1-key.pem")
		k.GossipKeyFile = filepath.Join(dir, "gossip.key")
	}
	for name, x := range map[string]struct {
		edit func(*node.ClusterConfig)
		want string // in the error; "" = good
	}{
		"loopback":               {func(*node.ClusterConfig) {}, ""},
		"calls off loopback":     {func(k *node.ClusterConfig) { k.Actors = ":7947" }, "granary cert dev"},
		"gossip off loopback":    {func(k *node.ClusterConfig) { k.Gossip = "0.0.0.0:7946" }, "granary cert dev"},
		"everything secured":     {func(k *node.ClusterConfig) { all(k); k.Actors, k.Gossip = ":7947", ":7946" }, ""},
		"gossip not encrypted":   {func(k *node.ClusterConfig) { all(k); k.Gossip, k.GossipKeyFile = ":7946", "" }, "gossip_key_file"},
		"a certificate, no key":  {func(k *node.ClusterConfig) { all(k); k.KeyFile = "" }, "belong together"},
		"no such gossip key":     {func(k *node.ClusterConfig) { k.GossipKeyFile = filepath.Join(dir, "none") }, "gossip_key_file"},
		"a gossip key of no use": {func(k *node.ClusterConfig) { k.GossipKeyFile = filepath.Join(dir, "ca.pem") }, "line"},
		"unknown role":           {func(k *node.ClusterConfig) { k.Roles = []string{"boss"} }, "boss"},
		"lease too short":        {func(k *node.ClusterConfig) { k.Lease = time.Millisecond }, "lease"},
		"no address":             {func(k *node.ClusterConfig) { k.Actors = "7947" }, "cluster.actors"},
		"seed without a port":    {func(k *node.ClusterConfig) { k.Join = []string{"host"} }, "cluster.join"},
	} {
		_, err := base(x.edit).Complete()
		switch {
		case x.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case x.want != "" && (!errors.Is(err, node.ErrConfig) || !strings.Contains(err.Error(), x.want)):
			t.Errorf("%s: %v, want it to name %q", name, err, x.want)
		}
	}
	if _, err := (node.Config{Dev: true, Cluster: node.ClusterConfig{Join: []string{"127.0.0.1:7946"}}}).Complete(); err == nil || !strings.Contains(err.Error(), "--store") {
		t.Errorf("a cluster without a database: %v", err)
	}
}
