package cli

import (
	"context"
	"sync"
	"time"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	// waitHeartbeat is the shortest the API allows: the first message proves
	// that events are being followed.
	waitHeartbeat = time.Second
	// followWithin is how long adding waits for that proof. Without it the
	// documents are read once instead, which costs a call each.
	followWithin = 3 * time.Second
)

// waiter waits until documents are processed, by the events of their knowledge
// base. It is started before the first document is added, so that it sees all
// of their events; what it may still have missed it reads.
type waiter struct {
	session *session
	kb      string
	show    *display
	cancel  context.CancelFunc
	ended   chan struct{} // the following has ended, with err
	err     error
	live    chan struct{} // closed by the first message
	early   bool          // live before the first document was added

	mu      sync.Mutex
	expects map[string]expected                       // by document name
	last    map[string]*granaryv1.WatchEventsResponse // newest terminal event of documents not expected yet
	changed chan struct{}                             // gets a token when expects shrinks
	ready   int
	failed  int
}

// expected is a document version whose end is awaited.
type expected struct {
	name    string // as the user knows it
	version int64
}

func newWaiter(s *session, kb string, show *display) *waiter {
	return &waiter{
		session: s, kb: kb, show: show,
		ended: make(chan struct{}), live: make(chan struct{}), changed: make(chan struct{}, 1),
		expects: map[string]expected{}, last: map[string]*granaryv1.WatchEventsResponse{},
	}
}

// start follows the events, and returns when they flow or after followWithin.
func (w *waiter) start(ctx context.Context) {
	ctx, w.cancel = context.WithCancel(ctx)
	var once sync.Once
	f := &follower{
		session:   w.session,
		request:   &granaryv1.WatchEventsRequest{KnowledgeBase: w.kb, IncludeProgress: w.show.bar},
		heartbeat: waitHeartbeat,
		handle: func(msg *granaryv1.WatchEventsResponse) error {
			w.seen(msg)
			once.Do(func() { close(w.live) })
			return nil
		},
		lost: w.show.note,
	}
	go func() {
		defer close(w.ended)
		w.err = f.run(ctx)
	}()
	timer := time.NewTimer(followWithin)
	defer timer.Stop()
	select {
	case <-w.live:
		w.early = true
	case <-w.ended:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// stop ends the following.
func (w *waiter) stop() {
	w.cancel()
	<-w.ended
}

// expect makes w wait for a document that was added.
func (w *waiter) expect(name string, doc *granaryv1.Document) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expects[doc.GetName()] = expected{name: name, version: doc.GetVersion()}
	if msg := w.last[doc.GetName()]; msg != nil {
		w.settle(doc.GetName(), msg.GetEvent().GetVersion(), msg.GetEvent().GetState(), msg.GetEvent().GetError(), msg)
	}
	w.settle(doc.GetName(), doc.GetVersion(), doc.GetState(), doc.GetError(), nil)
}

// seen takes a message of the stream.
func (w *waiter) seen(msg *granaryv1.WatchEventsResponse) {
	if p := msg.GetProgress(); p != nil {
		w.show.progress(p)
	}
	e := msg.GetEvent()
	if e == nil || e.GetDocument() == "" || !terminal(e.GetState()) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// An event may overtake the answer to the call that caused it.
	if old := w.last[e.GetDocument()]; old.GetEvent().GetVersion() <= e.GetVersion() {
		w.last[e.GetDocument()] = msg
	}
	w.settle(e.GetDocument(), e.GetVersion(), e.GetState(), e.GetError(), msg)
}

// settle ends the waiting for a document if this is the end of the awaited
// version, or of a later one. The caller holds w.mu.
func (w *waiter) settle(doc string, version int64, state granaryv1.DocumentState, why *granaryv1.DocumentError,
	msg *granaryv1.WatchEventsResponse,
) {
	want, ok := w.expects[doc]
	if !ok || version < want.version || !terminal(state) {
		return
	}
	delete(w.expects, doc)
	if succeeded(state) {
		w.ready++
	} else {
		w.failed++
	}
	w.show.ended(want.name, msg, state, why)
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// wait returns when all expected documents have ended, or with what made that
// impossible to know.
func (w *waiter) wait(ctx context.Context) error {
	read := w.early
	for {
		w.mu.Lock()
		left := len(w.expects)
		w.mu.Unlock()
		if left == 0 {
			return nil
		}
		var live chan struct{}
		if !read {
			live = w.live
		}
		select {
		case <-w.changed:
		case <-live:
			read = true
			if err := w.readAll(ctx); err != nil {
				return err
			}
		case <-w.ended:
			return w.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readAll asks for each expected document once, for what happened before the
// events flowed.
func (w *waiter) readAll(ctx context.Context) error {
	w.mu.Lock()
	names := make([]string, 0, len(w.expects))
	for name := range w.expects {
		names = append(names, name)
	}
	w.mu.Unlock()
	for _, name := range names {
		err := w.session.retry(ctx, func(ctx context.Context) error {
			res, err := call(ctx, w.session, w.session.docs.GetDocument, &granaryv1.GetDocumentRequest{Name: name})
			if err != nil {
				return err
			}
			d := res.GetDocument()
			w.mu.Lock()
			defer w.mu.Unlock()
			w.settle(name, d.GetVersion(), d.GetState(), d.GetError(), nil)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
