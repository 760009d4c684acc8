package cluster

import (
	"runtime"

	"github.com/asynkron/protoactor-go/actor"
)

// throughput is how many messages a grain handles before it lets other
// goroutines run; ownRun is how many of its own messages it handles in a row
// while calls wait.
const (
	throughput = 300
	ownRun     = 16
)

// wishes are what the node wants of a grain. They are delivered when nothing
// else waits, so a drain never overtakes a call, and take no place in a queue.
type wishes uint8

const (
	wishTrim wishes = 1 << iota
	wishPassivate
	wishDrain
)

// TrimRequest asks an idle grain to give back what it can rebuild (an index, a
// cache) and to stay active.
type TrimRequest struct{}

// TrimRequested lets a grain recognise the message without this package.
func (TrimRequest) TrimRequested() {}

// PassivateRequest asks an idle grain to stop itself (ctx.Stop(ctx.Self())),
// now or when its work in hand is done. A grain that says nothing stays and is
// asked again after another idle time.
type PassivateRequest struct{}

// PassivateRequested lets a grain recognise the message without this package.
func (PassivateRequest) PassivateRequested() {}

// DrainRequest tells a grain that its node stops: no call comes any more. It
// finishes what it has in hand (asynchronously if need be) and stops itself; a
// grain that does not is stopped at the end of the drain time.
type DrainRequest struct{}

// DrainRequested lets a grain recognise the message without this package.
func (DrainRequest) DrainRequested() {}

// mailbox is the queue in front of one grain; it implements protoactor's
// actor.Mailbox. All fields but run are guarded by activation.mu.
type mailbox struct {
	system ring[any]   // protoactor's lifecycle messages: always first
	own    ring[any]   // from the grain, its children and whoever has its PID: never refused
	calls  ring[*Call] // bounded by Config.MailboxSize

	invoker   actor.MessageInvoker // protoactor's context of the grain; nil until spawned
	wished    wishes
	started   bool // messages may be handled
	running   bool // a worker is at it
	suspended bool // protoactor decides on a failure: lifecycle messages only
	stopping  bool // told to stop: calls stay queued for the next activation
	ownInRow  uint8
}

// item is what the mailbox hands out next; exactly one field is set.
type item struct {
	system  any
	message any
	call    *Call
}

// RegisterHandlers is protoactor's: it hands over the context that messages go
// to. The dispatcher is not used; see [activation.schedule].
func (a *activation) RegisterHandlers(invoker actor.MessageInvoker, _ actor.Dispatcher) {
	a.mu.Lock()
	a.box.invoker = invoker
	a.mu.Unlock()
}

// Start is protoactor's: from now on messages are handled.
func (a *activation) Start() {
	a.mu.Lock()
	a.box.started = true
	a.schedule()
}

// UserMessageCount is protoactor's.
func (a *activation) UserMessageCount() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.box.own.len() + a.box.calls.len()
}

// PostUserMessage is protoactor's way in: the grain's own messages and those of
// its children. Calls come through offer.
func (a *activation) PostUserMessage(message any) {
	a.mu.Lock()
	if a.stopped {
		a.mu.Unlock()
		return
	}
	a.box.own.push(message)
	a.schedule()
}

// PostSystemMessage is protoactor's way in for lifecycle messages.
func (a *activation) PostSystemMessage(message any) {
	a.mu.Lock()
	a.box.system.push(message)
	a.schedule()
}

// wish leaves a wish for the grain.
func (a *activation) wish(w wishes) {
	a.mu.Lock()
	a.box.wished |= w
	a.schedule()
}

// schedule unlocks a.mu and has a worker run the grain if there is something to
// do. The worker leaves it when there is nothing left, so an idle grain has none.
func (a *activation) schedule() {
	if !a.box.started || a.box.running || !a.box.ready() {
		a.mu.Unlock()
		return
	}
	a.box.running = true
	a.mu.Unlock()
	a.node.workers.run(a)
}

func (b *mailbox) ready() bool {
	if b.system.len() > 0 {
		return true
	}
	if b.suspended {
		return false
	}
	return b.own.len() > 0 || (!b.stopping && (b.calls.len() > 0 || b.wished != 0))
}

// run handles messages until none is left.
func (a *activation) run() {
	for n := 1; a.step(); n++ {
		if n%throughput == 0 {
			runtime.Gosched()
		}
	}
}

// step handles one message, and reports false when there was none.
func (a *activation) step() (more bool) {
	it, more := a.take()
	if !more {
		return false
	}
	// The grain's Receive has its own recover; what arrives here was thrown by
	// a continuation (ReenterAfter) or by protoactor itself.
	defer func() {
		if r := recover(); r != nil {
			a.failed(r)
		}
	}()
	switch {
	case it.system != nil:
		a.handleSystem(it.system)
	case it.call != nil:
		a.handleCall(it.call)
	default:
		a.box.invoker.InvokeUserMessage(it.message)
	}
	return more // also when a panic was caught
}

// take gives the next message: lifecycle first, then the grain's own (sixteen
// in a row at most while calls wait), then calls, then wishes.
func (a *activation) take() (item, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.current = nil
	b := &a.box
	if m, ok := b.system.pop(); ok {
		b.system.release() // a handful per life
		return item{system: m}, true
	}
	if !b.suspended {
		if it, ok := a.takeUser(); ok {
			return it, true
		}
	}
	b.running = false
	return item{}, false
}

func (a *activation) takeUser() (item, bool) {
	b := &a.box
	if b.own.len() > 0 && (b.ownInRow < ownRun || b.calls.len() == 0) {
		b.ownInRow = min(b.ownInRow+1, ownRun)
		m, _ := b.own.pop()
		a.touch()
		return item{message: m}, true
	}
	b.ownInRow = 0
	if b.stopping {
		return item{}, false
	}
	if c, ok := b.calls.pop(); ok {
		a.served++
		a.current = c
		a.touch()
		return item{call: c}, true
	}
	return a.takeWish()
}

// takeWish gives the most urgent wish.
func (a *activation) takeWish() (item, bool) {
	w := a.box.wished
	switch {
	case w&wishDrain != 0:
		a.box.wished = 0
		return item{message: DrainRequest{}}, true
	case w&wishPassivate != 0:
		a.box.wished = 0
		return item{message: PassivateRequest{}}, true
	case w&wishTrim != 0:
		a.box.wished = 0
		a.box.own.release()
		a.box.calls.release()
		return item{message: TrimRequest{}}, true
	}
	return item{}, false
}

func (a *activation) handleSystem(message any) {
	switch message.(type) {
	case *actor.SuspendMailbox:
		a.suspend(true)
	case *actor.ResumeMailbox:
		a.suspend(false)
	case *actor.Stop:
		a.mu.Lock()
		a.box.stopping = true
		a.mu.Unlock()
		a.box.invoker.InvokeSystemMessage(message)
	default:
		a.box.invoker.InvokeSystemMessage(message)
	}
}

func (a *activation) suspend(on bool) {
	a.mu.Lock()
	a.box.suspended = on
	a.mu.Unlock()
}

func (a *activation) handleCall(c *Call) {
	if c.start() {
		a.box.invoker.InvokeUserMessage(c)
		a.park(c)
	}
}
