package node

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/storage/postgres"
)

// Secret is a string that prints as [redacted].
type Secret = postgres.Secret

// Roles of a node in a cluster.
const (
	roleGateway = "gateway" // serves clients
	roleHost    = "host"    // owns tenants and knowledge bases
)

// ClusterConfig is how a node shares its work with others; it needs Config.Store.
type ClusterConfig struct {
	// Gossip is where nodes hear of each other. Default 127.0.0.1:7946.
	Gossip string `yaml:"gossip"`
	// Actors is where other nodes' calls come in. Default 127.0.0.1:7947.
	Actors string `yaml:"actors"`
	// Join are gossip addresses of other nodes; one that answers is enough.
	Join []string `yaml:"join"`
	// Advertise is the host by which others reach this node. Default: that of
	// Gossip and Actors, or the first address of this machine if they name none.
	Advertise string `yaml:"advertise"`
	// AdvertiseActors and AdvertiseGossip are host:port where others reach Actors
	// and Gossip, for a node behind a port mapping. Default: as Advertise says.
	AdvertiseActors string `yaml:"advertise_actors"`
	AdvertiseGossip string `yaml:"advertise_gossip"`
	// Roles: gateway (serves clients), host (owns knowledge bases). Default both.
	Roles []string `yaml:"roles"`
	// Zone is the failure domain, shown to operators.
	Zone string `yaml:"zone"`
	// CAFile, CertFile and KeyFile (PEM) are for TLS between nodes, both sides
	// checked. Needed unless all addresses are loopback ones.
	CAFile   string `yaml:"ca_file"`
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// GossipKeyFile holds the keys of gossip, one of 16, 24 or 32 bytes a line in
	// base64: the first encrypts, all decrypt. Needed off loopback.
	GossipKeyFile string `yaml:"gossip_key_file"`
	// Lease is how long a node that is silent keeps its share. The same on all
	// nodes. Default 3s.
	Lease time.Duration `yaml:"lease"`
}

// shared tells whether this node has a database that others may share.
func (c *Completed) shared() bool { return c.Store != "" }

// sharedKey tells whether the signing key lives in the store.
func (c *Completed) sharedKey() bool { return c.Dev && c.shared() && c.Auth.KeyFile == "" }

func (c *Completed) is(role string) bool {
	return !c.shared() || slices.Contains(c.Cluster.Roles, role)
}

func (c *Completed) defaultCluster() {
	if !c.shared() {
		setDefault(&c.Node, "local")
		return
	}
	if c.Node == "" {
		c.Node, _ = os.Hostname()
	}
	setDefault(&c.Cluster.Gossip, "127.0.0.1:7946")
	setDefault(&c.Cluster.Actors, "127.0.0.1:7947")
	if len(c.Cluster.Roles) == 0 {
		c.Cluster.Roles = []string{roleGateway, roleHost}
	}
	if c.Cluster.Lease == 0 {
		c.Cluster.Lease = protocol.DefaultTiming().TTL
	}
}

// timing derives the clocks of membership from the length of a lease.
func (c *Completed) timing() protocol.Timing {
	t := protocol.DefaultTiming()
	if c.Cluster.Lease != t.TTL {
		scale := func(d time.Duration) time.Duration { return d * c.Cluster.Lease / t.TTL }
		t.RenewEvery, t.CallTimeout, t.PauseLimit = scale(t.RenewEvery), scale(t.CallTimeout), scale(t.PauseLimit)
		t.TTL = c.Cluster.Lease
	}
	return t
}

func (c *Completed) checkCluster() error {
	k := &c.Cluster
	if !c.shared() {
		if k.Gossip != "" || k.Actors != "" || len(k.Join) > 0 || len(k.Roles) > 0 || k.Advertise != "" {
			return configErrorf("cluster: nodes share a database; name it with --store")
		}
		return nil
	}
	if _, err := protocol.NewTable(protocol.DefaultTableConfig(), []string{c.Node}); err != nil {
		return configErrorf("node: %q is not 1 to 128 of a-z, A-Z, 0-9, '.', '_' and '-'", c.Node)
	}
	for _, r := range k.Roles {
		if r != roleGateway && r != roleHost {
			return configErrorf("cluster.roles: %q is not gateway or host", r)
		}
	}
	if k.Lease < time.Second || k.Lease > time.Minute {
		return configErrorf("cluster.lease: %v is not 1s to 1m", k.Lease)
	}
	for name, addr := range map[string]string{"gossip": k.Gossip, "actors": k.Actors} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return configErrorf("cluster.%s: %w", name, err)
		}
	}
	for _, addr := range k.Join {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return configErrorf("cluster.join: %w", err)
		}
	}
	return c.checkClusterSecrets()
}

// checkClusterSecrets refuses plain text off loopback.
func (c *Completed) checkClusterSecrets() error {
	k := &c.Cluster
	files := 0
	for _, f := range []string{k.CAFile, k.CertFile, k.KeyFile} {
		if f != "" {
			files++
		}
	}
	if files != 0 && files != 3 {
		return configErrorf("cluster: ca_file, cert_file and key_file belong together")
	}
	if k.GossipKeyFile != "" {
		keys, err := readKeys(k.GossipKeyFile)
		if err != nil {
			return err
		}
		c.gossip = keys
	}
	if loopback(k.Actors) && loopback(k.Gossip) {
		return nil
	}
	if files == 0 || len(c.gossip) == 0 {
		return configErrorf("cluster: without TLS and a gossip key nodes speak on loopback addresses only; "+
			"set ca_file, cert_file, key_file and gossip_key_file (%q makes them)", "granary cert dev")
	}
	return nil
}

// readKeys reads keys of gossip. Errors never show one.
func readKeys(path string) ([][]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, configErrorf("cluster.gossip_key_file: %w", err)
	}
	var keys [][]byte
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != 16 && len(key) != 24 && len(key) != 32 {
			return nil, configErrorf("cluster.gossip_key_file: line %d is not 16, 24 or 32 bytes in base64", len(keys)+1)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, configErrorf("cluster.gossip_key_file: %s holds no key", path)
	}
	return keys, nil
}

// advertised is where others reach what listens on addr.
func (c *Completed) advertised(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "0" {
		return "", err // a free port is known when it is listened on
	}
	if c.Cluster.Advertise != "" {
		return net.JoinHostPort(c.Cluster.Advertise, port), nil
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return addr, nil
	}
	own, err := ownAddress()
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(own, port), nil
}

// ownAddress is the first address of this machine that is not a loopback one.
func ownAddress() (string, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("addresses of this machine: %w", err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			return n.IP.String(), nil
		}
	}
	return "127.0.0.1", nil
}
