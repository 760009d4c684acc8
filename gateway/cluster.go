package gateway

import (
	"context"
	"time"
)

// Cluster is what operators see and steer. Errors are *kb.Error, a context's or
// journal.ErrUnavailable; the reasons of each method are those of
// granary/v1/cluster.proto. Names of nodes are without their boot.
type Cluster interface {
	// Nodes lists the view's nodes and those only gossip knows, in any order.
	Nodes(ctx context.Context) ([]ClusterNode, error)
	View(ctx context.Context) (ClusterView, error)
	// Placement of a knowledge base; kb "" asks for the tenant itself.
	Placement(ctx context.Context, tenant, kb string) (ClusterPlacement, error)
	Activations(ctx context.Context, q ActivationQuery) (ClusterActivations, error)
	Health(ctx context.Context) (ClusterHealth, error)
	// Drain returns when the node has begun; draining or having left is no error.
	Drain(ctx context.Context, node string) error
	// Relocate places a tenant on a node, "" where the table has it. It returns
	// when the view says so; no change is no error.
	Relocate(ctx context.Context, tenant, node string) error
	// Rebalance gives the moves it made, or with dryRun would make.
	Rebalance(ctx context.Context, dryRun bool) ([]ClusterMove, error)
	// DeadLetters lists up to limit after a position, "" from the start. next is
	// opaque and "" at the end. A position not of this list is PAGE_TOKEN_INVALID.
	DeadLetters(ctx context.Context, after string, limit int) (items []ClusterDeadLetter, next string, err error)
	// DeadLetter looks whether a document was given up: DEAD_LETTER_NOT_FOUND if not.
	DeadLetter(ctx context.Context, tenant, kb, document string) error
}

// NodeState is where a node stands in the view.
type NodeState string

// States of a node.
const (
	NodeJoining  NodeState = "joining"
	NodeLive     NodeState = "live"
	NodeDraining NodeState = "draining"
	NodeLeft     NodeState = "left"
	NodeDead     NodeState = "dead"
	NodeAbsent   NodeState = "absent" // only gossip knows it
)

// GossipState is what gossip says of a node.
type GossipState string

// States of gossip.
const (
	GossipUnknown GossipState = ""
	GossipAlive   GossipState = "alive"
	GossipSuspect GossipState = "suspect"
	GossipGone    GossipState = "gone" // it left, or was given up
)

// ClusterNode is a node as the cluster sees it. What is unknown is zero.
type ClusterNode struct {
	Name, Boot      string
	API             string // host:port of the public API
	Actors, Gossip  string // host:port between nodes
	Zone            string
	Roles           []string
	State           NodeState
	GossipState     GossipState
	Version         string   // of the software
	Load            float64  // 0 idle, 1 fully used, more when work queues up
	Problems        []string // in words; none means healthy
	Partitions      int      // owned under the view
	Activations     int64
	PendingHandover int64         // grains it holds though the view places them elsewhere
	LeaseAge        time.Duration // since the last good renewal
	Started         time.Time
	Self            bool
}

// ClusterView is the view of the cluster.
type ClusterView struct {
	Version       int64
	Members       []ClusterMember
	Overrides     []ClusterOverride
	Round, Rounds int // steps done and in total while partitions move; Round is 0 when none do
	Fingerprint   string
	CommittedAt   time.Time
}

// ClusterMember is a node of the view.
type ClusterMember struct {
	Name, Boot string
	Actors     string // host:port
	Zone       string
	State      NodeState
}

// ClusterOverride keeps a tenant on a node: as an operator wants it, or for the
// load, until there is room where the table has it.
type ClusterOverride struct {
	Tenant, Node string
	Automatic    bool
}

// ClusterPlacement says where a grain belongs and where it is.
type ClusterPlacement struct {
	Partition, Partitions int
	Node                  string // where it belongs
	TableNode             string // where the table has it
	Overridden            bool
	Active                *bool // on Node; nil when Node does not answer
	View                  int64 // version
	Since                 int64 // version of the first view that places it there without a break
	SinceTime             time.Time
	Holder                string // name#boot of who may write; "" when nobody
	Epoch                 int64
}

// ActivationQuery selects active grains.
type ActivationQuery struct {
	Node, Tenant string // "" for all
	After        string // position of an earlier answer, "" from the start
	Limit        int
}

// ClusterActivations is one page of active grains, by node, kind, tenant and id.
type ClusterActivations struct {
	Items       []ClusterActivation // may be fewer than Limit before the end
	Next        string              // opaque position, "" at the end
	Unreachable []string            // names of nodes that did not answer
}

// ClusterActivation is a grain in memory.
type ClusterActivation struct {
	Node, Kind, Tenant, ID string
	Since                  time.Time
	Idle                   time.Duration
	Queued, Pending        int
	Served                 int64
	Stopping               bool
}

// HealthState is how well a cluster is.
type HealthState string

// States of health, best first.
const (
	HealthOK          HealthState = "ok"
	HealthDegraded    HealthState = "degraded"    // all is served, with less than there should be
	HealthUnavailable HealthState = "unavailable" // something is not served
)

// Stable reasons of health problems, part of the API.
const (
	HealthLeaseMissing     = "LEASE_MISSING"
	HealthMoving           = "PARTITIONS_MOVING"
	HealthStoreUnavailable = "STORE_UNAVAILABLE"
	HealthUnreachable      = "NODE_UNREACHABLE"
	HealthSick             = "NODE_SICK"
	HealthHandovers        = "HANDOVERS_PENDING"
	HealthDeadLetters      = "DEAD_LETTERS"
)

// ClusterHealth is what is wrong; the gateway sums it up.
type ClusterHealth struct {
	Problems []HealthProblem
	View     int64 // version
	Active   int   // members that join, are live or drain
}

// HealthProblem is one thing that is wrong.
type HealthProblem struct {
	Reason  string // one of those above
	Message string // for people: no driver's text
	State   HealthState
	Node    string // "" when it is about none
	Count   int64  // of grains, partitions or documents; 0 when not counted
}

// Stable reasons of moves, part of the API.
const (
	MoveOverloaded = "OVERLOADED" // the node it leaves is
	MoveSick       = "SICK"       // the node it leaves is
	MoveHome       = "HOME"       // the table's node has room again
)

// ClusterMove is a tenant that changes its node.
type ClusterMove struct {
	Tenant, From, To   string
	Reason             string
	FromScore, ToScore *PlacementScore // nil when not measured
}

// PlacementScore is how good a node is for a tenant; all from 0 (worst) to 1.
type PlacementScore struct{ Total, Locality, Headroom, Nearness float64 }

// ClusterDeadLetter is a document whose processing was given up.
type ClusterDeadLetter struct {
	Tenant, KnowledgeBase, Document string // ids
	DisplayName                     string
	Reason                          string
	Since                           time.Time
}
