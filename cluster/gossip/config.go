package gossip

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"

	"granary.dev/granary/cluster/protocol"
)

// ErrConfig is wrapped by every error about a [Config].
var ErrConfig = errors.New("gossip configuration is not valid")

// Config configures [Start]. Zero durations mean the default.
type Config struct {
	ID        string   // name#boot, see [protocol.NodeID]
	Bind      string   // host:port for TCP and UDP; without a host: all addresses; port 0: a free one
	Advertise string   // host or host:port for others, default: where it listens
	Join      []string // host:port of seeds; itself among them is fine
	// Cluster keeps apart clusters that share a network: whose differs is not
	// heard. Empty is a cluster of its own.
	Cluster string
	// Keys are AES keys of 16, 24 or 32 bytes. None: plain text.
	Keys   [][]byte
	Meta   Meta
	Logger *slog.Logger // required

	Probe    time.Duration // between two probes; detection times are multiples of it: 200 ms
	Retry    time.Duration // between two tries to reach seeds and lost members: 2 s
	Announce time.Duration // least time between two announcements of changed metadata: 500 ms

	// Reach, when set, says to which addresses (host:port) packets and streams
	// get: how a test cuts the network.
	Reach func(addr string) bool
}

// completed is a Config that was checked and has its defaults.
type completed struct {
	Config
	keyring *memberlist.Keyring
	seeds   []*seed
}

func (c Config) complete() (completed, error) {
	out := completed{Config: c}
	if c.Logger == nil {
		return out, fmt.Errorf("%w: a logger is required", ErrConfig)
	}
	if _, err := protocol.ParseNodeID(c.ID); err != nil {
		return out, fmt.Errorf("%w: id %q: %w", ErrConfig, c.ID, err)
	}
	if _, _, err := net.SplitHostPort(c.Bind); err != nil {
		return out, fmt.Errorf("%w: bind: %w", ErrConfig, err)
	}
	if len(c.Cluster) > memberlist.LabelMaxSize {
		return out, fmt.Errorf("%w: cluster: at most %d bytes", ErrConfig, memberlist.LabelMaxSize)
	}
	if _, err := (announcement{Meta: c.Meta, started: time.Now()}).encode(); err != nil {
		return out, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	for _, s := range c.Join {
		seed, err := parseSeed(s)
		if err != nil {
			return out, fmt.Errorf("%w: join: %w", ErrConfig, err)
		}
		out.seeds = append(out.seeds, seed)
	}
	out.Meta.Roles = slices.Clone(c.Meta.Roles)
	setDefault(&out.Probe, 200*time.Millisecond)
	setDefault(&out.Retry, 2*time.Second)
	setDefault(&out.Announce, 500*time.Millisecond)
	return out, out.makeKeyring()
}

// makeKeyring's errors name the key by its number, never by its content.
func (c *completed) makeKeyring() error {
	for i, key := range c.Keys {
		if err := memberlist.ValidateKey(key); err != nil {
			return fmt.Errorf("%w: key %d: %w", ErrConfig, i+1, err)
		}
	}
	if len(c.Keys) == 0 {
		return nil
	}
	ring, err := memberlist.NewKeyring(c.Keys, c.Keys[0])
	if err != nil {
		return fmt.Errorf("%w: keys: %w", ErrConfig, err)
	}
	c.keyring = ring
	return nil
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d <= 0 {
		*d = v
	}
}

const (
	// suspicion is how many probe intervals a member has to refute that it is gone.
	suspicion = 3
	// patience is by how much that is stretched while other nodes have not
	// confirmed it, in clusters big enough for that (above 3).
	patience = 2
	// backOff is how far a node stretches its own probes when it is itself late.
	backOff = 4
	// toTheDead is how long a dead member is told of its death, to refute it;
	// until then it counts as one of those that could confirm another's.
	toTheDead = 5 * time.Second
	// exchangeTimeout bounds each step of an exchange of all state with one peer.
	exchangeTimeout = 3 * time.Second
	exchangeEvery   = 15 * time.Second
)

// memberlist gives the library's configuration.
func (c *completed) memberlist(t *transport, m *members, d memberlist.Delegate, l *libraryLog) *memberlist.Config {
	return &memberlist.Config{
		Name: c.ID, Label: c.Cluster,
		Transport: t, BindPort: int(t.advertise.Port()), AdvertisePort: int(t.advertise.Port()),
		ProtocolVersion: spoken,
		Logger:          log.New(l, "", 0),

		ProbeInterval: c.Probe, ProbeTimeout: c.Probe / 2, IndirectChecks: 3,
		SuspicionMult: suspicion, SuspicionMaxTimeoutMult: patience, AwarenessMaxMultiplier: backOff,
		GossipInterval: c.Probe / 2, GossipNodes: 3, RetransmitMult: 4, GossipToTheDeadTime: toTheDead,
		PushPullInterval: exchangeEvery, TCPTimeout: exchangeTimeout,
		HandoffQueueDepth: 4096, UDPBufferSize: 1400, QueueCheckInterval: time.Minute,

		Keyring: c.keyring, GossipVerifyIncoming: true, GossipVerifyOutgoing: true,
		Delegate: d, Events: m, Ping: m, Alive: m,
	}
}
