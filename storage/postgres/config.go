package postgres

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Secret is a string that prints as [redacted]. Convert it to use it.
type Secret string

const redacted = "[redacted]"

// Format implements fmt.Formatter: no verb shows the value.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String implements fmt.Stringer.
func (Secret) String() string { return redacted }

// MarshalText implements encoding.TextMarshaler, for JSON and YAML.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

const (
	defaultMaxConns = 20
	minMaxConns     = 9
)

// Config says where the database is.
type Config struct {
	// URL is the address of the database, postgres://user:password@host/name,
	// or key=value pairs. With several hosts the one that takes writes is used.
	URL Secret
	// MaxConns bounds the connections of this node; 0 is 20, less than 9 is 9.
	// A fifth of them, at least two, is for bulk data, three are for what concerns
	// several tenants, and two or three for leases and the view.
	MaxConns int
	// LeaseTTL is how long a node's lease lasts, by the server's clock. All nodes
	// of a cluster use the same; 0 is protocol.DefaultTiming.
	LeaseTTL time.Duration
	// Logger is told of what an operator should know; nil discards.
	Logger *slog.Logger
	// CollectEvery is how often leftovers are collected, besides at start; 0
	// is one hour. One node of those on a database does it at a time.
	CollectEvery time.Duration
}

// Session settings. They hold for every statement of ours, so the address
// cannot change them.
const (
	lockTimeout   = time.Second
	idleTimeout   = 2 * time.Second
	commitTimeout = 5 * time.Second // also: how long a commit runs on after its caller has gone
	bulkTimeout   = 60 * time.Second
	bulkLock      = 10 * time.Second
	// A renewal that takes a second has failed (protocol.Timing): it ends before,
	// and at the server first, so that the next one finds a connection.
	leaseLock    = 400 * time.Millisecond
	leaseTimeout = 800 * time.Millisecond
	leaseCall    = 900 * time.Millisecond

	connectTimeout = 5 * time.Second
)

func millis(d time.Duration) string { return fmt.Sprintf("%dms", d.Milliseconds()) }

// parse reads the address. Errors never quote it: what cannot be parsed cannot
// be redacted with certainty either.
func (c Config) parse() (*pgxpool.Config, error) {
	if c.URL == "" {
		return nil, fmt.Errorf("%w: no database address given", ErrInvalid)
	}
	pc, err := pgxpool.ParseConfig(string(c.URL))
	if err != nil {
		return nil, fmt.Errorf("%w: the database address cannot be parsed (it is not shown, as it may hold a password)", ErrInvalid)
	}
	pc.ConnConfig.ConnectTimeout = cmp.Or(pc.ConnConfig.ConnectTimeout, connectTimeout)
	if pc.ConnConfig.ValidateConnect == nil { // after a failover the old primary may still answer
		pc.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	p := pc.ConnConfig.RuntimeParams
	p["application_name"] = cmp.Or(p["application_name"], "granary")
	p["timezone"] = "UTC"
	p["jit"] = "off" // statements are short: compiling them costs more than it saves
	p["default_transaction_isolation"] = "read committed"
	p["idle_in_transaction_session_timeout"] = millis(idleTimeout)
	return pc, nil
}

// limits sets a session's waiting times.
func limits(pc *pgxpool.Config, lock, statement time.Duration) {
	pc.ConnConfig.RuntimeParams["lock_timeout"] = millis(lock)
	pc.ConnConfig.RuntimeParams["statement_timeout"] = millis(statement)
}

// shares are the connections each purpose has.
type shares struct{ commits, bulk, wide, leases int32 }

// shares splits the connections. The collector has two of the wide ones for as long
// as it runs.
func (c Config) shares() (s shares) {
	n := int32(max(cmp.Or(c.MaxConns, defaultMaxConns), minMaxConns))
	s.bulk, s.wide, s.leases = max(n/5, 2), 3, min(n/4, 3)
	s.commits = n - s.bulk - s.wide - s.leases
	return s
}

// ErrInvalid is a mistake of the caller: an empty key, a gap in a batch, text
// that is not UTF-8. Nothing was written.
var ErrInvalid = errors.New("postgres: invalid argument")
