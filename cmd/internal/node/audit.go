package node

import (
	"context"
	"net/netip"
	"path/filepath"
	"time"

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
	return nil
}

// openAudit opens the node's log of accesses. It ends after the gateway, which writes
// to it, and before the store, which it is shipped to.
func (n *Node) openAudit(context.Context) error {
	if !n.cfg.is(roleGateway) {
		return nil
	}
	var err error
	n.audit, err = audit.Open(audit.Config{Dir: filepath.Join(n.cfg.Data, "audit"), Node: n.cfg.Node, Store: n.store, Logger: n.log})
	if err != nil {
		return err
	}
	n.push("audit", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, auditStop)
		defer cancel()
		return n.audit.Close(ctx)
	})
	return nil
}

// AuditStats are the counters of the node's log of accesses.
func (n *Node) AuditStats() audit.Stats { return n.audit.Stats() }

// BrokenChains counts grains that were not loaded because their journals were changed.
func (n *Node) BrokenChains() int64 { return n.grains.BrokenChains() }
