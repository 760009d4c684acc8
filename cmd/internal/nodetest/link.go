package nodetest

import (
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

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	cut   bool
	held  chan struct{} // closed while bytes may pass
	done  bool
}

// NewLink makes a way to an address; its own address is Addr.
func NewLink(t testing.TB, to string) *Link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &Link{to: to, l: l, conns: make(map[net.Conn]struct{}), held: make(chan struct{})}
	close(k.held)
	var wg sync.WaitGroup
	wg.Go(func() { k.accept(&wg) })
	t.Cleanup(func() {
		k.mu.Lock()
		k.done = true
		k.mu.Unlock()
		k.Release()
		_ = l.Close()
		k.drop()
		wg.Wait()
	})
	return k
}

// Addr is where to dial.
func (k *Link) Addr() string { return k.l.Addr().String() }

// Retarget sends new connections to another address.
func (k *Link) Retarget(to string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.to = to
}

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
	k.held = make(chan struct{})
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

func (k *Link) accept(wg *sync.WaitGroup) {
	for {
		in, err := k.l.Accept()
		if err != nil {
			return
		}
		if !k.add(in) {
			continue
		}
		k.mu.Lock()
		to := k.to
		k.mu.Unlock()
		out, err := net.Dial("tcp", to)
		if err != nil || !k.add(out) {
			_ = in.Close()
			continue
		}
		for _, way := range [2][2]net.Conn{{in, out}, {out, in}} {
			wg.Go(func() { k.pass(way[0], way[1]) })
		}
	}
}

// pass copies one way until either side ends, and then ends both.
func (k *Link) pass(from, to net.Conn) {
	defer func() {
		_, _ = from.Close(), to.Close()
		k.mu.Lock()
		delete(k.conns, from)
		k.mu.Unlock()
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		<-k.gate()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return // io.EOF and all others alike
		}
	}
}
