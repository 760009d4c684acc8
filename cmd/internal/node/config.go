// Package node wires one Granary node: store, parsers, embedder, grains,
// cluster and gateway. It is the only place that knows all of them, and the
// only one that constructs them.
package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline/fetch"
	"granary.dev/granary/gateway/auth"
	"granary.dev/granary/storage/sealed"
)

// Config is what an operator may set: by flags, or in the file of --config
// (YAML, the same names). Zero values take the defaults of Complete.
type Config struct {
	// Dev: one node, a local signing key, tenant "dev", a token in Data/dev-token
	// and an operator's in Data/dev-operator-token.
	Dev bool `yaml:"dev"`
	// Node is the stable name of this node, which decides its share of a cluster.
	// Default: the host's name; "local" without Store.
	Node string `yaml:"node"`
	// Store is the address of the PostgreSQL database that the nodes of a cluster
	// share, postgres://user:password@host/name; also in the environment variable
	// GRANARY_STORE. Without it the node is alone, with an embedded store in Data.
	Store Secret `yaml:"store"`
	// Data is the folder of the embedded store, of accesses that are not in the store yet
	// (audit/), and of what a node may lose. Default ./data.
	Data string `yaml:"data"`
	// Listen is the address of the gateway. Default 127.0.0.1:8080.
	Listen string `yaml:"listen"`
	// Tier of tenants: starter, professional, enterprise. Default starter, with Dev enterprise.
	// With Dev also unlimited, for load tests.
	Tier string `yaml:"tier"`
	// LogLevel: debug, info, warn, error. Default info.
	LogLevel string `yaml:"log_level"`
	// LogFormat: text or json. Default text.
	LogFormat string `yaml:"log_format"`
	// AllowedOrigins are web origins whose pages may call the API.
	AllowedOrigins []string `yaml:"allowed_origins"`
	// TrustedProxies are address ranges (CIDR) of proxies whose X-Forwarded-For tells
	// who the client is, for the audit. Default: none.
	TrustedProxies []string       `yaml:"trusted_proxies"`
	Auth           AuthConfig     `yaml:"auth"`
	Tenants        TenantsConfig  `yaml:"tenants"`
	Receipts       ReceiptConfig  `yaml:"receipts"`
	Audit          AuditConfig    `yaml:"audit"`
	TLS            TLSConfig      `yaml:"tls"`
	Fetch          FetchConfig    `yaml:"fetch"`
	Parse          ParseConfig    `yaml:"parse"`
	Embedding      EmbedderConfig `yaml:"embedding"`
	Memory         MemoryConfig   `yaml:"memory"`
	Cluster        ClusterConfig  `yaml:"cluster"`
	Metrics        MetricsConfig  `yaml:"metrics"`
	// Encryption of everything that is stored. It is always on.
	Encryption EncryptionConfig `yaml:"encryption"`
}

// AuthConfig says who may call.
type AuthConfig struct {
	// KeyFile holds the Ed25519 key that signs tokens. With Dev: Data/dev-key.
	KeyFile string `yaml:"key_file"`
	// OldKeyFiles hold keys whose tokens are good too, for a rotation: they sign nothing.
	OldKeyFiles []string `yaml:"old_key_files"`
	// Issuers are others whose tokens are good.
	Issuers []auth.IssuerConfig `yaml:"issuers"`
}

// TenantsConfig says who is a tenant.
type TenantsConfig struct {
	// RefuseUnknown refuses tenants that no operator created; else a tenant comes to
	// be by the first use of a good token.
	RefuseUnknown bool `yaml:"refuse_unknown"`
}

// ReceiptConfig says what receipts of erasures are signed with.
type ReceiptConfig struct {
	// KeyFile holds an Ed25519 key (PEM, PKCS #8), the same on all nodes. Default: one
	// made at the first start, sealed in the store.
	KeyFile string `yaml:"key_file"`
}

// AuditConfig says how the audit is proved.
type AuditConfig struct {
	// KeyFile holds the Ed25519 key that signs checkpoints (PEM); public keys behind it
	// are of earlier ones. Default: one made at the first start, sealed in the store; it
	// proves nothing against who can write that and has the master key.
	KeyFile string `yaml:"key_file"`
	// CheckpointEvery is the time between two checkpoints of a tenant in which anything
	// happened. Default 10m.
	CheckpointEvery time.Duration `yaml:"checkpoint_every"`
	// MaxBacklogBytes bounds what waits on this machine's disk while the store does not take
	// it; then calls are refused. At least 16 MiB. Default 1 GiB.
	MaxBacklogBytes int64 `yaml:"max_backlog_bytes"`
	// Keep is how long calls and checkpoints are kept, at least 24h; the same on all nodes.
	// Default 0, for ever: what was retired cannot be brought back, and how long it has to
	// be kept only the operator knows.
	Keep time.Duration `yaml:"keep"`
}

// TLSConfig says how the API is encrypted on the wire.
type TLSConfig struct {
	// CertFile and KeyFile are the certificate chain and its key (PEM).
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// Upstream: something in front of this server does TLS. Without it and without
	// a certificate the server listens on loopback addresses only.
	Upstream bool `yaml:"upstream"`
}

// FetchConfig bounds URL sources.
type FetchConfig struct {
	// AllowNetworks are address ranges (CIDR) that may be fetched from although
	// they are private, loopback or otherwise special.
	AllowNetworks []string `yaml:"allow_networks"`
	// NAT64Prefixes are public ranges that lead to IPv4 in the network of the server
	// (RFC 6052): an address in them is judged as the IPv4 address in it.
	NAT64Prefixes []string `yaml:"nat64_prefixes"`
	// Ports a URL may name. Default 80, 443, 8080, 8443.
	Ports []uint16 `yaml:"ports"`
	// Timeout of one fetch. Default 60s.
	Timeout time.Duration `yaml:"timeout"`
	// MaxBytes of one source, at most 64 MiB. Default 64 MiB.
	MaxBytes int64 `yaml:"max_bytes"`
}

// ParseConfig bounds the parser processes.
type ParseConfig struct {
	// Workers is how many run at most. Default: one less than the processors, 2 to 8.
	Workers int `yaml:"workers"`
	// MemoryBytes caps each. Default 512 MiB.
	MemoryBytes int64 `yaml:"memory_bytes"`
	// CPUTime and WallTime cap one document. Defaults 60s and 2m.
	CPUTime  time.Duration `yaml:"cpu_time"`
	WallTime time.Duration `yaml:"wall_time"`
}

// EmbedderConfig names the embedding model.
type EmbedderConfig struct {
	// Provider: builtin (default) or openai (any server with /v1/embeddings).
	Provider string `yaml:"provider"`
	// URL, Model and Dims are needed for openai.
	URL   string `yaml:"url"`
	Model string `yaml:"model"`
	Dims  int    `yaml:"dims"`
	// APIKeyFile holds the key; else the environment variable GRANARY_EMBEDDING_API_KEY.
	APIKeyFile string `yaml:"api_key_file"`
}

// MemoryConfig says how long idle knowledge bases keep what.
type MemoryConfig struct {
	// TrimAfter: an idle one gives its index back. Default 5m.
	TrimAfter time.Duration `yaml:"trim_after"`
	// PassivateAfter: an idle one leaves memory. Default 30m.
	PassivateAfter time.Duration `yaml:"passivate_after"`
}

// ErrConfig is the cause of every error of Complete and ReadFile: a wrong
// setting, not a failure.
var ErrConfig = errors.New("configuration")

// Completed is a configuration that was checked and filled. Only one can run.
type Completed struct {
	Config
	networks []netip.Prefix
	nat64    []netip.Prefix
	proxies  []netip.Prefix
	apiKey   string
	gossip   [][]byte // keys

	metricsByDefault bool // nobody named an address for them

	masterKeys sealed.Secret // of the environment
}

// ReadFile reads a configuration file. Unknown names are errors.
func ReadFile(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	var c Config
	if err := yaml.UnmarshalWithOptions(data, &c, yaml.Strict()); err != nil {
		// Without the lines around the mistake: a password may be in one.
		return Config{}, fmt.Errorf("%w: %s: %s", ErrConfig, path, yaml.FormatError(err, false, false))
	}
	return c, nil
}

// Complete checks c and fills its defaults.
func (c Config) Complete() (Completed, error) {
	out := Completed{Config: c}
	setDefault(&out.Data, "data")
	setDefault(&out.Listen, "127.0.0.1:8080")
	setDefault(&out.LogLevel, "info")
	setDefault(&out.LogFormat, "text")
	setDefault(&out.Embedding.Provider, "builtin")
	if c.Tier == "" {
		out.Tier = string(kb.TierStarter)
		if c.Dev {
			out.Tier = string(kb.TierEnterprise)
		}
	}
	if out.Store == "" {
		out.Store = Secret(os.Getenv("GRANARY_STORE"))
	}
	if c.Dev && out.Store == "" {
		setDefault(&out.Auth.KeyFile, filepath.Join(out.Data, "dev-key"))
	}
	out.defaultCluster()
	return out, errors.Join(out.checkBasics(), out.checkFetch(), out.checkAudit(), out.checkMetrics(), out.checkEmbedding(), out.checkCluster(), out.checkEncryption())
}

func setDefault(s *string, v string) {
	if *s == "" {
		*s = v
	}
}

func configErrorf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrConfig, fmt.Errorf(format, args...))
}

func (c *Completed) checkBasics() error {
	var errs []error
	if _, ok := kb.LimitsOf(kb.Tier(c.Tier)); !ok || kb.Tier(c.Tier) == kb.TierUnlimited && !c.Dev {
		errs = append(errs, configErrorf("tier: %q is not starter, professional or enterprise", c.Tier))
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		errs = append(errs, configErrorf("listen: %w", err))
	} else if !loopback(c.Listen) && !c.encrypted() {
		errs = append(errs, configErrorf("listen: without TLS only on a loopback address, not on %q; set tls.cert_file and "+
			"tls.key_file, or tls.upstream if something in front of this server does TLS", c.Listen))
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, configErrorf("tls: cert_file and key_file belong together"))
	}
	errs = append(errs, c.checkAuth())
	if _, err := logLevel(c.LogLevel); err != nil {
		errs = append(errs, configErrorf("log_level: %w", err))
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		errs = append(errs, configErrorf("log_format: %q is not text or json", c.LogFormat))
	}
	if c.Parse.Workers < 0 || c.Parse.MemoryBytes < 0 || c.Parse.CPUTime < 0 || c.Parse.WallTime < 0 ||
		c.Memory.TrimAfter < 0 || c.Memory.PassivateAfter < 0 {
		errs = append(errs, configErrorf("parse, memory: negative values mean nothing"))
	}
	return errors.Join(errs...)
}

// encrypted reports whether what leaves this machine is; a development server
// gives everybody the same token and is for this machine only.
func (c *Completed) encrypted() bool {
	return !c.Dev && (c.TLS.Upstream || c.TLS.CertFile != "")
}

// loopback reports whether an address can only be reached from this machine.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

const maxSource = 64 << 20 // as uploads

func (c *Completed) checkFetch() error {
	for _, s := range c.Fetch.AllowNetworks {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return configErrorf("fetch.allow_networks: %w", err)
		}
		c.networks = append(c.networks, p)
	}
	for _, s := range c.Fetch.NAT64Prefixes {
		p, err := netip.ParsePrefix(s)
		if err != nil || !fetch.ValidNAT64(p) {
			return configErrorf("fetch.nat64_prefixes: %q is no IPv6 range of 32, 40, 48, 56, 64 or 96 bits", s)
		}
		c.nat64 = append(c.nat64, p)
	}
	for _, p := range c.Fetch.Ports {
		if p == 0 {
			return configErrorf("fetch.ports: %d is not a port", p)
		}
	}
	if c.Fetch.MaxBytes < 0 || c.Fetch.MaxBytes > maxSource || c.Fetch.Timeout < 0 {
		return configErrorf("fetch: max_bytes is at most %d, and timeout not negative", maxSource)
	}
	return nil
}

func (c *Completed) checkEmbedding() error {
	e := c.Embedding
	switch e.Provider {
	case "builtin":
		return nil
	case "openai":
	default:
		return configErrorf("embedding.provider: %q is not builtin or openai", e.Provider)
	}
	if e.URL == "" || e.Model == "" || e.Dims <= 0 {
		return configErrorf("embedding: openai needs url, model and dims")
	}
	c.apiKey = os.Getenv("GRANARY_EMBEDDING_API_KEY")
	if e.APIKeyFile != "" {
		data, err := os.ReadFile(e.APIKeyFile)
		if err != nil {
			return configErrorf("embedding.api_key_file: %w", err)
		}
		c.apiKey = strings.TrimSpace(string(data))
	}
	return nil
}
