package protocol

import "time"

// Input is what happened to a [Node]; one of the types below.
type Input interface{ input() }

// Inputs of [Node.Step].
type (
	// Tick comes several times per RenewEvery; all that waits for time looks then.
	Tick struct{}
	// Renewed answers [RenewLease].
	Renewed struct {
		Call uint64
		View View
		Survey
	}
	// RenewFailed answers [RenewLease]. Final is set if the store said [ErrFinal].
	RenewFailed struct {
		Call  uint64
		Final bool
	}
	// Swapped answers [SwapView]: View is committed.
	Swapped struct {
		Call uint64
		View View
	}
	// SwapFailed answers [SwapView]: refused, or nobody knows.
	SwapFailed struct{ Call uint64 }
	// Suspected is gossip's word that a member may be gone, or is back.
	Suspected struct {
		Node NodeID
		Gone bool
	}
	// Newer tells that somebody acts on a later view.
	Newer struct{ Version int64 }
	// Probed answers [Probe] for one peer: whether each side reached the other.
	Probed struct {
		Peer    NodeID
		Out, In bool
	}
	// Pending answers [ViewChanged] and [Leaving], and comes again when the number
	// changes. After the former, the driver has stopped leased reads and intake
	// of all that View places elsewhere and holds Grains of these still. After
	// the latter it has stopped them for all, and All is set: Grains counts all.
	Pending struct {
		View   int64
		Grains int
		All    bool
	}
	// StartDrain asks the node to give its share away and leave.
	StartDrain struct{}
	// Relocate asks for a tenant to be placed on a node, "" for where the table has it.
	// Auto: for the load of a node, see [Override].
	Relocate struct {
		Tenant, Node string
		Auto         bool
	}
)

// Output is what a [Node] wants done; one of the types below.
type Output interface{ output() }

// Outputs of [Node.Step].
type (
	// RenewLease asks the store for [Renew] and [Look].
	RenewLease struct {
		Call uint64
		RenewRequest
	}
	// SwapView asks the store for [Swap].
	SwapView struct {
		Call uint64
		Next View
	}
	// Probe asks to try the way to each peer and back, and to answer with [Probed].
	Probe struct{ Peers []NodeID }
	// ViewChanged asks to place anew, hand over what is not ours any more, and answer with [Pending].
	ViewChanged struct{ View View }
	// Lapsed tells that leased reads have ended; grains must be proven again.
	Lapsed struct{}
	// Leaving asks to stop the intake, finish, release everything, and answer with [Pending].
	Leaving struct{}
	// Ended tells that this life is over: stop all grains, answer nothing. Why is [ErrFinal]
	// after an eviction, nil after an orderly leave.
	Ended struct{ Why error }
	// JoinRefused tells why the node may not join now; it tries again.
	JoinRefused struct{ Why error }
	// RelocateRefused tells that the node asked for cannot take the tenant, or that
	// the view says so already: [ErrUnchanged].
	RelocateRefused struct {
		Relocate
		Why error
	}
)

func (Tick) input()        {}
func (Renewed) input()     {}
func (RenewFailed) input() {}
func (Swapped) input()     {}
func (SwapFailed) input()  {}
func (Suspected) input()   {}
func (Newer) input()       {}
func (Probed) input()      {}
func (Pending) input()     {}
func (StartDrain) input()  {}
func (Relocate) input()    {}

func (RenewLease) output()      {}
func (SwapView) output()        {}
func (Probe) output()           {}
func (ViewChanged) output()     {}
func (Lapsed) output()          {}
func (Leaving) output()         {}
func (Ended) output()           {}
func (JoinRefused) output()     {}
func (RelocateRefused) output() {}

// call is a request to the store under way; zero when there is none.
type call struct {
	id   uint64
	sent time.Duration
}

func (c call) open() bool { return c.id != 0 }
