package nodetest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// Link is a TCP proxy that a test can cut: what goes through it then ends, and
// nothing new comes through until it is mended. Or it can be held: bytes wait, as
// on a network that loses everything without saying so.
type Link struct {
	to string
	l  net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	cut   bool
	held  chan struct{} // closed while bytes may pass
	done  bool
}

// NewLink makes a way to an address until the test ends; its own address is Addr.
func NewLink(t testing.TB, to string) *Link {
	t.Helper()
	k := newLink(t, to)
	t.Cleanup(k.close)
	return k
}

// newLink is NewLink for whoever closes it himself.
func newLink(t testing.TB, to string) *Link {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// Links outlive the test's context: nodes are stopped behind it.
	ctx := context.WithoutCancel(t.Context())
	k := &Link{to: to, l: l, conns: make(map[net.Conn]struct{}), held: make(chan struct{})}
	close(k.held)
	k.wg.Go(func() { k.accept(ctx) })
	return k
}

func (k *Link) close() {
	k.mu.Lock()
	k.done = true
	k.mu.Unlock()
	k.Release()
	_ = k.l.Close()
	k.drop()
	k.wg.Wait()
}

// Addr is where to dial.
func (k *Link) Addr() string { return k.l.Addr().String() }

// Cut ends every connection and refuses new ones until Mend.
func (k *Link) Cut() {
	k.mu.Lock()
	k.cut = true
	k.mu.Unlock()
	k.drop()
}

// Mend lets connections through again.
func (k *Link) Mend() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut = false
}

// Hold keeps all bytes back until Release; connections stay.
func (k *Link) Hold() {
	k.mu.Lock()
	defer k.mu.Unlock()
	select {
	case <-k.held:
		k.held = make(chan struct{})
	default: // those that wait must still hear of the release
	}
}

// Release lets bytes pass again, those that were held first.
func (k *Link) Release() {
	k.mu.Lock()
	defer k.mu.Unlock()
	select {
	case <-k.held:
	default:
		close(k.held)
	}
}

func (k *Link) gate() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held
}

func (k *Link) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.conns {
		_ = c.Close()
	}
}

// add keeps a connection that may pass; another one is closed.
func (k *Link) add(c net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cut || k.done {
		_ = c.Close()
		return false
	}
	k.conns[c] = struct{}{}
	return true
}

func (k *Link) remove(conns ...net.Conn) {
	for _, c := range conns {
		_ = c.Close()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range conns {
		delete(k.conns, c)
	}
}

func (k *Link) accept(ctx context.Context) {
	for {
		in, err := k.l.Accept()
		if err != nil {
			return
		}
		if k.add(in) {
			k.wg.Go(func() { k.join(ctx, in) })
		}
	}
}

// join connects the far side, and passes bytes both ways until either ends.
func (k *Link) join(ctx context.Context, in net.Conn) {
	out, err := new(net.Dialer).DialContext(ctx, "tcp", k.to)
	if err != nil || !k.add(out) {
		k.remove(in)
		return
	}
	var both sync.WaitGroup
	both.Go(func() { k.pass(in, out) })
	both.Go(func() { k.pass(out, in) })
	both.Wait()
	k.remove(in, out)
}

// pass copies one way until its side ends. An orderly end is passed on behind the
// bytes, so that what a client sent before it gave up still arrives, however late.
func (k *Link) pass(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		<-k.gate()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if errors.Is(err, io.EOF) {
			if half, ok := to.(*net.TCPConn); ok && half.CloseWrite() == nil {
				return
			}
		}
		if err != nil {
			break
		}
	}
	_, _ = from.Close(), to.Close()
}
