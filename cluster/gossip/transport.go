package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// maxStreams bounds the streams that peers may have open at this node; a
	// few are usual. More are closed at once.
	maxStreams = 128
	// maxPacket is the longest datagram there can be.
	maxPacket = 64 << 10
	// receiveBuffer is what the kernel is asked to keep for us; it may give less.
	receiveBuffer = 2 << 20
	// acceptPause follows a failed accept, which is a lack of something (files, memory).
	acceptPause = 50 * time.Millisecond
)

// transport carries memberlist's packets and streams. memberlist has one of its
// own; ours can be ended at once, with all that is under way in it, tells when a
// member cannot be reached, and lets a test cut the network.
type transport struct {
	tcp     *net.TCPListener
	udp     *net.UDPConn
	packets chan *memberlist.Packet
	streams chan net.Conn

	advertise   netip.AddrPort
	reach       func(addr string) bool
	unreachable func(id string)

	ctx    context.Context // ends with Shutdown; memberlist's interface passes none
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	conns   map[*stream]struct{}
	inbound int
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// listen opens the TCP and the UDP port of one address. Port 0 takes one that
// is free for both.
func listen(ctx context.Context, bind string) (*net.TCPListener, *net.UDPConn, error) {
	var lc net.ListenConfig
	var last error
	for range 10 { // only port 0 can have luck in another try
		l, err := lc.Listen(ctx, "tcp", bind)
		if err != nil {
			return nil, nil, fmt.Errorf("gossip: %w", err)
		}
		tcp := l.(*net.TCPListener)
		p, err := lc.ListenPacket(ctx, "udp", tcp.Addr().String())
		if err == nil {
			udp := p.(*net.UDPConn)
			_ = udp.SetReadBuffer(receiveBuffer)
			return tcp, udp, nil
		}
		last = errors.Join(err, tcp.Close())
		if _, port, _ := net.SplitHostPort(bind); port != "0" {
			break
		}
	}
	return nil, nil, fmt.Errorf("gossip: %w", last)
}

// start begins to take packets and streams.
func (t *transport) start(tcp *net.TCPListener, udp *net.UDPConn) {
	t.tcp, t.udp = tcp, udp
	t.packets, t.streams = make(chan *memberlist.Packet), make(chan net.Conn)
	t.conns = map[*stream]struct{}{}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.wg.Go(t.accept)
	t.wg.Go(t.receive)
}

// Shutdown ends everything under way; both ports are free when it returns. Idempotent.
func (t *transport) Shutdown() error {
	t.cancel()
	_, _ = t.tcp.Close(), t.udp.Close() // a second close is no failure
	t.mu.Lock()
	for c := range t.conns {
		_ = c.Conn.Close()
	}
	t.mu.Unlock()
	t.wg.Wait()
	return nil
}

func (t *transport) accept() {
	for {
		c, err := t.tcp.Accept()
		if err != nil {
			select {
			case <-t.ctx.Done():
				return
			case <-time.After(acceptPause):
				continue
			}
		}
		s := t.track(c, "", true)
		if s == nil {
			_ = c.Close()
			continue
		}
		select {
		case t.streams <- s:
		case <-t.ctx.Done():
			_ = s.Close()
			return
		}
	}
}

func (t *transport) receive() {
	buf := make([]byte, maxPacket)
	for {
		n, from, err := t.udp.ReadFromUDP(buf)
		at := time.Now()
		if t.ctx.Err() != nil {
			return
		}
		if err != nil || n == 0 {
			continue // an error is about one datagram
		}
		// memberlist keeps parts of it in its queue.
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: at}
		select {
		case t.packets <- p:
		case <-t.ctx.Done():
			return
		}
	}
}

// FinalAdvertiseAddr is memberlist's question where others reach us.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.advertise.Addr().AsSlice(), int(t.advertise.Port()), nil
}

// PacketCh is where memberlist gets packets.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh is where memberlist gets streams.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// WriteTo sends a packet.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress sends a packet. memberlist looks at the type of the error:
// it is not wrapped.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	to, err := netip.ParseAddrPort(a.Addr)
	if err != nil {
		return time.Time{}, err
	}
	if t.reach != nil && !t.reach(a.Addr) {
		return time.Now(), nil // lost on the way
	}
	_, err = t.udp.WriteToUDPAddrPort(b, to)
	return time.Now(), err
}

// DialTimeout opens a stream.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout opens a stream. To a member it is opened when the member
// did not answer a packet, and now and then to compare notes: a failure is the
// first sign that it may be gone.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	c, err := t.dial(a.Addr, timeout)
	if err == nil {
		if s := t.track(c, a.Name, false); s != nil {
			return s, nil
		}
		_ = c.Close()
		err = net.ErrClosed
	}
	t.failed(a.Name)
	return nil, err
}

func (t *transport) dial(addr string, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	if t.reach == nil || t.reach(addr) {
		return d.DialContext(t.ctx, "tcp", addr)
	}
	ctx, cancel := context.WithTimeout(t.ctx, timeout) // as long as a cut network would take
	defer cancel()
	<-ctx.Done()
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
}

// failed tells that a member gave nothing. Not at our own end, when everything fails.
func (t *transport) failed(id string) {
	if id != "" && t.ctx.Err() == nil {
		t.unreachable(id)
	}
}

// stream is a connection that ends with the transport.
type stream struct {
	net.Conn
	t       *transport
	peer    string // member we dialled, else ""
	inbound bool
	once    sync.Once
	read    bool
}

// track gives nil when the transport has ended or peers have too many streams.
func (t *transport) track(c net.Conn, peer string, inbound bool) *stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil || inbound && t.inbound >= maxStreams {
		return nil
	}
	s := &stream{Conn: c, t: t, peer: peer, inbound: inbound}
	t.conns[s] = struct{}{}
	if inbound {
		t.inbound++
	}
	return s
}

// Read notices a member that accepts a stream and then is silent: its process
// is stopped, or too busy.
func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if n > 0 {
		s.read = true
	} else if err != nil && !s.read {
		s.t.failed(s.peer)
	}
	return n, err
}

// Close may be called more than once.
func (s *stream) Close() error {
	s.once.Do(func() {
		s.t.mu.Lock()
		defer s.t.mu.Unlock()
		delete(s.t.conns, s)
		if s.inbound {
			s.t.inbound--
		}
	})
	return s.Conn.Close()
}
