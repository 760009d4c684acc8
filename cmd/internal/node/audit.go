package node

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal/trail"
	"granary.dev/granary/cluster"
	"granary.dev/granary/gateway/audit"
)

// auditStop is the longest wait for the store to take what the audit still holds; the
// next start ships what is left.
const auditStop = 5 * time.Second

func (c *Completed) checkAudit() error {
	for _, s := range c.TrustedProxies {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return configErrorf("trusted_proxies: %w", err)
		}
		c.proxies = append(c.proxies, p)
	}
	if c.Audit.CheckpointEvery < 0 {
		return configErrorf("audit.checkpoint_every: negative values mean nothing")
	}
	if n := c.Audit.MaxBacklogBytes; n != 0 && n < audit.MinMaxBytes {
		return configErrorf("audit.max_backlog_bytes: at least %d", audit.MinMaxBytes)
	}
	if k := c.Audit.Keep; k != 0 && k < 24*time.Hour {
		return configErrorf("audit.keep: at least 24h, or 0 for ever")
	}
	return nil
}

// openAudit opens the node's log of accesses. It ends after the gateway, which writes
// to it, and before the store, which it is shipped to.
func (n *Node) openAudit(ctx context.Context) error {
	signer, err := n.auditSigner(ctx)
	if err != nil {
		return err
	}
	n.trail = &trail.Desk{Store: n.store, Signer: signer, Logger: n.log, Mine: n.signs, Keep: n.cfg.Audit.Keep}
	if !n.cfg.is(roleGateway) {
		return n.countAudit()
	}
	n.audit, err = audit.Open(audit.Config{Dir: filepath.Join(n.cfg.Data, "audit"), Node: n.cfg.Node, Store: n.store, Logger: n.log,
		MaxBytes: n.cfg.Audit.MaxBacklogBytes, Renew: n.cfg.Audit.Keep / 8})
	if err != nil {
		return err
	}
	n.push("audit", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, auditStop)
		defer cancel()
		return n.audit.Close(ctx)
	})
	return n.countAudit()
}

// auditSigner reads the key that signs checkpoints: from its file or, where none is
// named, sealed in the store.
func (n *Node) auditSigner(ctx context.Context) (*trail.Signer, error) {
	path := n.cfg.Audit.KeyFile
	if path == "" {
		text, err := n.ownSecret(ctx, "audit-signing-key", "audit-key", trail.NewKeyPEM)
		if err != nil {
			return nil, err
		}
		if n.cfg.shared() && !n.cfg.Dev {
			n.log.Warn("checkpoints of the audit are signed with a key in the database: who can write there and has the master key can sign; " +
				"set audit.key_file")
		}
		return trail.ParseSigner(text)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("audit.key_file: %w", err)
	}
	signer, err := trail.ParseSigner(text)
	if err != nil {
		return nil, fmt.Errorf("audit.key_file %s: %w", path, err)
	}
	return signer, nil
}

// clusterAudit stands for the tenant "" where something must be placed.
const clusterAudit = "granary"

// signs tells whether this node makes a tenant's checkpoints: it is the one the tenant
// is placed on.
func (n *Node) signs(tenant string) bool {
	if !n.cfg.shared() {
		return true
	}
	if tenant == "" {
		tenant = clusterAudit
	}
	p, err := n.cluster.Placement(cluster.Identity{Kind: actors.KindTenant, Tenant: tenant, ID: tenant})
	return err == nil && p.Owner == n.cfg.Node
}

// startCheckpoints makes checkpoints at an interval.
func (n *Node) startCheckpoints() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.trail.Run(ctx, orDefault(n.cfg.Audit.CheckpointEvery, 10*time.Minute))
	}()
	n.push("checkpoints", func(context.Context) error {
		cancel()
		<-done
		return nil
	})
}

// AuditStats are the counters of the node's log of accesses.
func (n *Node) AuditStats() audit.Stats { return n.audit.Stats() }

// BrokenChains counts grains that were not loaded because their journals were changed.
func (n *Node) BrokenChains() int64 { return n.grains.BrokenChains() }

// TrailStats are the counters of checkpoints.
func (n *Node) TrailStats() trail.Stats { return n.trail.Stats() }
