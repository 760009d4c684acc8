package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/cluster"
	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/cluster/transport"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	"granary.dev/granary/storage/embedded"
	"granary.dev/granary/storage/postgres"
	"granary.dev/granary/storage/sealed"
)

// store is everything durable of a node.
type store interface {
	journal.Store
	journal.BlobStore
	journal.ChunkStore
	journal.CounterStore
	journal.ReceiptStore
	journal.AuditStore
	journal.Directory
	Close() error
}

// openStore opens the database or, without one, the data folder, and the
// authority that knows credentials.
func (n *Node) openStore(ctx context.Context) error {
	inner, err := n.openInner(ctx)
	if err != nil {
		return err
	}
	if n.sealed, err = n.seal(ctx, inner); err != nil {
		return errors.Join(err, inner.Close())
	}
	n.store = n.sealed
	n.push("store", func(context.Context) error { return n.sealed.Close() })
	if err := n.countStore(); err != nil {
		return err
	}
	if err := n.openReceiptKey(ctx); err != nil {
		return err
	}
	return n.openAuthority(ctx)
}

// openInner opens what encryption stands before.
func (n *Node) openInner(ctx context.Context) (sealed.Inner, error) {
	if !n.cfg.shared() {
		return embedded.Open(ctx, embedded.Config{Dir: n.cfg.Data, Logger: n.log})
	}
	var err error
	n.database, err = n.openDatabase(ctx)
	return n.database, err
}

// storeRetry is the time between two tries to reach a database that is away.
const storeRetry = time.Second

// openDatabase waits for a database that cannot be reached: a node that starts
// while it is away serves when it is back, without anybody's help.
func (n *Node) openDatabase(ctx context.Context) (db *postgres.Store, err error) {
	err = n.whenReached(ctx, func() error {
		db, err = postgres.Open(ctx, postgres.Config{URL: n.cfg.Store, Logger: n.log, LeaseTTL: n.cfg.Cluster.Lease})
		return err
	})
	return db, err
}

// whenReached repeats what failed because the database could not be reached.
func (n *Node) whenReached(ctx context.Context, do func() error) error {
	for told := false; ; told = true {
		err := do()
		away := errors.Is(err, journal.ErrUnavailable) || errors.Is(err, journal.ErrInDoubt)
		if !away || postgres.Rejected(err) || ctx.Err() != nil {
			return err
		}
		if !told {
			n.log.Warn("the database cannot be reached, the node waits for it", "error", err)
		}
		select {
		case <-time.After(storeRetry):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// secret reads what all nodes on the database share; the first one makes it.
func (n *Node) secret(ctx context.Context, name string, first func() ([]byte, error)) (value []byte, err error) {
	err = n.whenReached(ctx, func() error {
		value, err = n.database.Secret(ctx, name, first)
		return err
	})
	return value, err
}

// tenantList lists tenants by their owner rows.
type tenantList struct{ journal.Directory }

// TenantIDs implements gateway.TenantDirectory.
func (d tenantList) TenantIDs(ctx context.Context, after string, limit int) ([]string, error) {
	q := journal.OwnerQuery{Kind: actors.KindTenant, Limit: limit}
	if after != "" {
		q.After = journal.Identity{Kind: actors.KindTenant, Tenant: after, ID: after}
	}
	owners, err := d.Owners(ctx, q)
	ids := make([]string, len(owners))
	for i, o := range owners {
		ids[i] = o.Identity.Tenant
	}
	return ids, err
}

// kinds are the grains a node hosts.
func (n *Node) kinds() []cluster.Kind {
	return []cluster.Kind{
		{Name: actors.KindTenant, New: n.grains.New,
			Request: func() proto.Message { return &nodev1.TenantCall{} }, Reply: func() proto.Message { return &nodev1.TenantReply{} }},
		{Name: actors.KindKB, New: n.grains.New,
			Request: func() proto.Message { return &nodev1.KnowledgeBaseCall{} }, Reply: func() proto.Message { return &nodev1.KnowledgeBaseReply{} }},
	}
}

// sharing is how the node takes part in a cluster; nil when it is alone.
func (n *Node) sharing(ctx context.Context, waker *actors.Waker) (*cluster.Shared, error) {
	if !n.cfg.shared() {
		return nil, nil
	}
	k := &n.cfg.Cluster
	out := &cluster.Shared{Store: n.database, Errors: actors.ErrorCodec{}, Listen: k.Actors, Zone: k.Zone, Version: version(),
		Routes: !n.cfg.is(roleHost), Timing: n.cfg.timing(), Changed: waker.Kick, TenantKind: actors.KindTenant,
		Gossip: cluster.GossipConfig{Bind: k.Gossip, Join: k.Join, Keys: n.cfg.gossip}}
	id, err := n.secret(ctx, "cluster-id", func() ([]byte, error) { return []byte(uuid.NewString()), nil })
	if err != nil {
		return nil, err
	}
	out.Gossip.Cluster = string(id)
	if k.CertFile != "" {
		if out.ClientTLS, out.ServerTLS, err = transport.TLSConfig(k.CAFile, k.CertFile, k.KeyFile, n.log); err != nil {
			return nil, err
		}
	}
	var errs [3]error
	if out.Advertise = k.AdvertiseActors; out.Advertise == "" {
		out.Advertise, errs[0] = n.cfg.advertised(k.Actors)
	}
	if out.Gossip.Advertise = k.AdvertiseGossip; out.Gossip.Advertise == "" {
		out.Gossip.Advertise, errs[1] = n.cfg.advertised(k.Gossip)
	}
	if n.listener != nil {
		out.API, errs[2] = n.cfg.advertised(n.listener.Addr().String())
	}
	return out, errors.Join(errs[:]...)
}

// ownership tells grains of the node's lease and placement.
type ownership struct{ node *cluster.Node } // set before the first grain is made

// Claim implements actors.Ownership.
func (o *ownership) Claim(id journal.Identity) (journal.Claim, bool) {
	r, ok := o.node.Right(cluster.Identity{Kind: id.Kind, Tenant: id.Tenant, ID: id.ID})
	return journal.Claim{Node: r.Node, View: r.View, Since: r.Since, SinceTime: r.SinceTime}, ok
}

// Lease implements actors.Ownership.
func (o *ownership) Lease() (uint64, bool) { return o.node.Lease() }

// Lone implements actors.Ownership: a node that is alone has no ownership to ask.
func (o *ownership) Lone() bool { return false }

// Outdated implements actors.Ownership.
func (o *ownership) Outdated() { o.node.Outdated() }

// Gone tells that a life of a node runs nothing any more.
func (o *ownership) Gone(node string) bool {
	id, err := protocol.ParseNodeID(node)
	v := o.node.View()
	return err == nil && v.Version > 0 && v.Gone(id)
}

// View is the view of the cluster this node acts on; the zero view when it is alone.
func (n *Node) View() protocol.View { return n.cluster.View() }

// Self names this life of the node in the cluster.
func (n *Node) Self() protocol.NodeID { return n.cluster.Self() }

// Owner is the name of the node that a knowledge base is placed on.
func (n *Node) Owner(tenant, kb string) string {
	p, err := n.cluster.Placement(cluster.Identity{Kind: actors.KindKB, Tenant: tenant, ID: kb})
	if err != nil {
		return ""
	}
	return p.Owner
}
