package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/proto"

	"granary.dev/granary/cluster/protocol"
)

// Identity names a grain; see [protocol.Identity].
type Identity = protocol.Identity

// Kind is a sort of grain that this node can host.
type Kind struct {
	// Name is the Kind of its identities.
	Name string
	// New makes the grain of an identity. It runs on the grain's own goroutine
	// just before the grain receives *actor.Started; a panic or a nil result
	// counts as a panic of the grain. It must not block.
	New func(kind, tenant, id string) actor.Actor
	// Request and Reply make empty messages of the types that its calls and
	// answers have, to decode those of other nodes. Needed with Config.Shared.
	Request, Reply func() proto.Message
}

// Config configures a [Node]. Zero durations and sizes mean the default.
type Config struct {
	Name   string       // stable name of the node in the partition table: a-z, A-Z, 0-9, '.', '_', '-'
	Kinds  []Kind       // what the node hosts; names must differ
	Logger *slog.Logger // required; what protoactor logs as Info comes as Debug, never with a message's content

	MailboxSize   int           // calls that may wait in front of a grain: 256
	AskTimeout    time.Duration // deadline of an Ask whose context has none: 30 s
	TrimAfter     time.Duration // idle time after which a grain is asked to give memory back: 1 min
	IdleTimeout   time.Duration // idle time after which a grain is asked to passivate: 10 min
	SweepInterval time.Duration // resolution of both idle times: 5 s, and never above half of TrimAfter
	DrainTimeout  time.Duration // longest that Stop and a hand-off let the grains finish: 10 s

	Shared *Shared // nil: the node is alone
}

// ErrConfig is wrapped by every error of [New].
var ErrConfig = errors.New("cluster configuration is not valid")

// completed is a Config that was checked and has its defaults.
type completed struct {
	Config
	kinds map[string]*Kind
	table *protocol.Table // of a node that is alone
}

func (c Config) complete() (completed, error) {
	if c.Logger == nil {
		return completed{}, fmt.Errorf("%w: a logger is required", ErrConfig)
	}
	kinds := make(map[string]*Kind, len(c.Kinds))
	for _, k := range c.Kinds {
		if !protocol.ValidKind(k.Name) || k.New == nil {
			return completed{}, fmt.Errorf("%w: kind %q needs a valid name and New", ErrConfig, k.Name)
		}
		if _, twice := kinds[k.Name]; twice {
			return completed{}, fmt.Errorf("%w: kind %q appears twice", ErrConfig, k.Name)
		}
		kinds[k.Name] = &k
	}
	table, err := protocol.NewTable(protocol.DefaultTableConfig(), []string{c.Name})
	if err != nil {
		return completed{}, fmt.Errorf("%w: name: %w", ErrConfig, err)
	}
	if err := c.setDefaults(); err != nil {
		return completed{}, err
	}
	if c.Shared != nil {
		s := *c.Shared
		if err := s.complete(c.Name, kinds); err != nil {
			return completed{}, err
		}
		c.Shared = &s
	}
	return completed{Config: c, kinds: kinds, table: table}, nil
}

func (c *Config) setDefaults() error {
	if c.MailboxSize < 0 {
		return fmt.Errorf("%w: mailbox size %d is negative", ErrConfig, c.MailboxSize)
	}
	if c.MailboxSize == 0 {
		c.MailboxSize = 256
	}
	for _, d := range []struct {
		name string
		at   *time.Duration
		def  time.Duration
	}{
		{"ask timeout", &c.AskTimeout, 30 * time.Second},
		{"idle timeout", &c.IdleTimeout, 10 * time.Minute},
		{"trim time", &c.TrimAfter, time.Minute},
		{"sweep interval", &c.SweepInterval, 5 * time.Second},
		{"drain timeout", &c.DrainTimeout, 10 * time.Second},
	} {
		if *d.at < 0 {
			return fmt.Errorf("%w: %s %v is negative", ErrConfig, d.name, *d.at)
		}
		if *d.at == 0 {
			*d.at = d.def
		}
	}
	c.TrimAfter = min(c.TrimAfter, c.IdleTimeout)
	c.SweepInterval = max(min(c.SweepInterval, c.TrimAfter/2), time.Millisecond)
	return nil
}
