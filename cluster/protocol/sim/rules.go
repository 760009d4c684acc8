package sim

// Rules breaks the protocol on purpose. The zero value is the protocol as it is.
type Rules struct {
	NoFence            bool // writes check the sequence number only
	ExistsFence        bool // the fence is checked, then the events are inserted, at two instants
	SameEpoch          bool // a node that owned the grain last gets its epoch again, and no activation id
	ReadAnyway         bool // reads are answered from memory without lease or check
	LeaseFromReceipt   bool // the lease counts from the answer to a renewal
	GossipPlacement    bool // who gossip believes alive shares the grains
	NoWait             bool // a grain is taken over as soon as the view names the new owner
	NoPostFilter       bool // searches show whatever points there are
	IdempotencyApart   bool // the key's record is written after the commit
	WakeupApart        bool // the wake-up is written after the commit
	DoubtAsFailed      bool // a commit without answer is answered as failed
	SwapAnyVersion     bool // the view is replaced whatever its version
	ClockStops         bool // the nodes' clocks stand still while they are suspended
	TrustAfterLapse    bool // after a lapse, a new lease is enough to read again
	AcquireUnlocked    bool // the view is checked, then the owner row is written, at two instants
	CommitUncounted    bool // an attempt is committed without counting its points
	EvictOnSuspicion   bool // who gossip suspects is marked dead though its lease holds
	ReleaseAndServe    bool // a grain goes on answering from memory after it was released
	ForgetDoubt        bool // after a commit without answer the activation goes on as if it had failed
	TenureOverGaps     bool // views a node has missed do not end a tenure
	SeenBeforeActing   bool // a view is reported as acted on before its grains are handed over
	LoadUnfenced       bool // idempotency records are read without checking the fence
	CollectBeforeIndex bool // the points of the live attempt are collected before the next is committed
}
