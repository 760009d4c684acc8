package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/spf13/cobra"

	"granary.dev/granary/actors/kb"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// drainPoll is how often a drain that is waited for is looked at.
const drainPoll = 500 * time.Millisecond

func (a *app) clusterDrain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Make a node give everything away and leave",
		Long: "Makes a node hand over what it owns, step by step, and leave the cluster. Clients notice a delay at most.\n" +
			"With --wait the command ends when the node has left; if other nodes come or go at the moment, it waits\n" +
			"for them first. Ask another node than the one that leaves, which stops answering in the end. --json\n" +
			"prints the answer, and with --wait the node as it was last.",
		Example: `  granary cluster drain n2
  granary cluster drain n2 --wait --server https://n1.example.com`,
		Args: exactArgs("NODE"),
	}
	wait := cmd.Flags().Bool("wait", false, "wait until the node has left; fail if it died instead")
	cmd.RunE = a.operate(func(ctx context.Context, s *session, out *output, args []string) error {
		d := &drain{session: s, out: out, name: shortNode(args[0])}
		if *wait {
			return d.follow(ctx)
		}
		res, err := d.begin(ctx)
		switch {
		case err != nil:
			return err
		case out.json:
			return out.message(res)
		}
		return out.printf("%s gives its share away\n", d.name)
	})
	return cmd
}

// drain is one node's way out.
type drain struct {
	session *session
	out     *output
	name    string
	id      string // of the life that leaves
	self    bool   // it is the node that answers
	last    string // what was said last
}

func (d *drain) begin(ctx context.Context) (*granaryv1.DrainNodeResponse, error) {
	return call(ctx, d.session, d.session.cluster.DrainNode, &granaryv1.DrainNodeRequest{Name: nodePrefix + d.name})
}

// follow drains the node and watches it until it has left.
func (d *drain) follow(ctx context.Context) error {
	node, _, err := d.look(ctx)
	if err != nil {
		return err
	}
	d.id, d.self = node.GetId(), node.GetSelf()
	if err := d.beginWhenSettled(ctx); err != nil {
		return err
	}
	for {
		node, over, err := d.look(ctx)
		switch {
		case err != nil && d.self && ctx.Err() == nil:
			return &failure{
				message: d.name + " is the node that was asked, and answers no more: whether it has left, another node knows",
				notes:   []string{"last seen: " + d.last, "granary cluster nodes --server URL"}, cause: err,
			}
		case err != nil:
			return err
		case over:
			return d.end(node)
		}
		d.progress(fmt.Sprintf("%s: %s, %d partitions, %d grains active", d.name, nodeStateText(node.GetState()),
			node.GetPartitions(), node.GetActivations()))
		if err := d.session.sleep(ctx, drainPoll); err != nil {
			return err
		}
	}
}

// beginWhenSettled waits for partitions that move already.
func (d *drain) beginWhenSettled(ctx context.Context) error {
	for {
		_, err := d.begin(ctx)
		var rpc *connect.Error
		if !errors.As(err, &rpc) || detailsOf(rpc).reason != kb.ReasonClusterMoving {
			return err
		}
		d.progress("other nodes come or go; waiting for them")
		if err := d.session.sleep(ctx, drainPoll); err != nil {
			return err
		}
	}
}

// progress says on standard error what changed.
func (d *drain) progress(text string) {
	if text != d.last {
		d.last = text
		d.out.notef("%s", text)
	}
}

// look finds the life of the node that leaves, or the newest of that name while
// it is not known which, and tells whether it is over. A short break of the
// connection is waited out.
func (d *drain) look(ctx context.Context) (found *granaryv1.Node, over bool, err error) {
	var all *granaryv1.ListNodesResponse
	err = d.session.retry(ctx, func(ctx context.Context) error {
		var err error
		all, err = d.session.nodes(ctx)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	for _, n := range all.GetNodes() {
		switch {
		case d.id != "" && n.GetId() == d.id:
			found = n
		case d.id == "" && shortNode(n.GetName()) == d.name && (found == nil || gone(found)):
			found = n
		}
	}
	if found == nil && d.id == "" {
		return nil, false, &failure{reason: kb.ReasonNodeNotFound, message: "there is no node " + d.name}
	}
	// A life that nobody knows any more was replaced by the next one of that name.
	return found, found == nil || gone(found), nil
}

// gone tells whether a node can own nothing any more.
func gone(n *granaryv1.Node) bool {
	switch n.GetState() {
	case granaryv1.NodeState_NODE_STATE_LEFT, granaryv1.NodeState_NODE_STATE_DEAD, granaryv1.NodeState_NODE_STATE_ABSENT:
		return true
	}
	return false
}

// end reports how it ended; node is nil when nobody knows that life any more.
func (d *drain) end(node *granaryv1.Node) error {
	if node.GetState() == granaryv1.NodeState_NODE_STATE_DEAD {
		return &failure{message: d.name + " died before it had left; others take over"}
	}
	if !d.out.json {
		return d.out.printf("%s has left\n", d.name)
	}
	if node == nil {
		node = &granaryv1.Node{Name: nodePrefix + d.name, Id: d.id, State: granaryv1.NodeState_NODE_STATE_LEFT}
	}
	return d.out.message(node)
}
