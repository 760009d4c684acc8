package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"granary.dev/granary/cluster/protocol"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

// ViewStore is the authority that the nodes of a cluster share: the statements
// of package protocol on one database. Errors are those of package protocol, or
// tell that the store could not be asked.
type ViewStore interface {
	Renew(ctx context.Context, r protocol.RenewRequest) (protocol.View, protocol.Survey, error)
	Swap(ctx context.Context, next protocol.View, by protocol.NodeID) (protocol.View, error)
	View(ctx context.Context) (protocol.View, error)
}

// ErrorCodec carries what grains answer as errors from node to node.
type ErrorCodec interface {
	// Encode gives nil for an error it does not know; that one becomes an internal error.
	Encode(error) *nodev1.Error
	Decode(*nodev1.Error) error
}

// Shared is what a node needs to share its grains with others.
type Shared struct {
	Store  ViewStore
	Errors ErrorCodec

	Listen    string      // host:port for calls from other nodes
	Advertise string      // host:port where they reach it; "" = the address listened on
	ClientTLS *tls.Config // nil: plain text
	ServerTLS *tls.Config

	Gossip GossipConfig

	API     string // host:port of the gateway, told to operators
	Zone    string // failure domain, told to operators
	Version string // of the program
	// Routes is set on a node that takes no share: it only sends calls on.
	Routes bool

	Timing protocol.Timing      // zero = protocol.DefaultTiming; the same on all nodes
	Table  protocol.TableConfig // zero = protocol.DefaultTableConfig; the same on all nodes

	// Problems tells what is wrong with this node; nil or an empty answer: nothing.
	Problems func() []string
	// Load tells how loaded this node is, 0 to 1; nil: the share of the processors
	// it uses, averaged over seconds.
	Load func() float64
	// Changed is called after each change of the view this node acts on, from a
	// goroutine that must not be held up.
	Changed func()
	// TenantKind is the kind of grain there is one of per tenant.
	TenantKind string
	// Settle is how long nobody relocates tenants after the view changed: 30 s.
	Settle time.Duration
	// CoolDown is how long a relocated tenant stays where it came: 2 min.
	CoolDown time.Duration
	// BalanceEvery is how often a node looks whether tenants should move: 5 s.
	BalanceEvery time.Duration
}

// GossipConfig says how nodes find each other.
type GossipConfig struct {
	Bind      string   // host:port
	Advertise string   // host:port; "" = Bind
	Join      []string // host:port of nodes to begin with
	Cluster   string   // tells clusters on one network apart; "" = all are one
	Keys      [][]byte // the first encrypts, all decrypt; none: plain text
}

func (s *Shared) complete(name string, kinds map[string]*Kind) error {
	if s.Store == nil || s.Errors == nil {
		return fmt.Errorf("%w: a shared node needs a store and an error codec", ErrConfig)
	}
	for _, k := range kinds {
		if k.Request == nil || k.Reply == nil {
			return fmt.Errorf("%w: kind %q needs Request and Reply to be called from other nodes", ErrConfig, k.Name)
		}
	}
	if s.Timing == (protocol.Timing{}) {
		s.Timing = protocol.DefaultTiming()
	}
	if s.Table == (protocol.TableConfig{}) {
		s.Table = protocol.DefaultTableConfig()
	}
	for _, d := range []struct {
		at  *time.Duration
		def time.Duration
	}{{&s.Settle, 30 * time.Second}, {&s.CoolDown, 2 * time.Minute}, {&s.BalanceEvery, 5 * time.Second}} {
		if *d.at == 0 {
			*d.at = d.def
		}
	}
	if err := s.Timing.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if _, err := protocol.NewTable(s.Table, []string{name}); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if s.Problems == nil {
		s.Problems = func() []string { return nil }
	}
	if s.Changed == nil {
		s.Changed = func() {}
	}
	return nil
}

// fingerprint names the rules that all nodes must share: those of the table and
// the length of a lease, by which one node knows when another must have stopped.
func (s *Shared) fingerprint() (string, error) {
	f, err := protocol.Fingerprint(s.Table)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s/lease=%v", f, s.Timing.TTL), nil
}
