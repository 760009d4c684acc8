package e2e

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"
)

// The cuts must cut, each link by itself, or the tests behind them prove nothing.
func TestCutLinksDropAndMendedOnesCarry(t *testing.T) {
	n := newNetwork(t, 3)
	for _, host := range []string{"n1", "n2"} {
		conn, err := listen(n, host)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		go echo(conn)
	}
	carries := func(from, to string, want bool) {
		t.Helper()
		if got := asks(n, from, to); got != want {
			t.Errorf("%s hears from %s: %v, want %v", from, to, got, want)
		}
	}
	for _, refused := range []bool{false, true} {
		one := []link{{"n1", "n2"}}
		carries("n1", "n2", true)
		carries("n3", "n1", true)
		for _, twice := range []bool{false, true} { // two faults may share a link
			if err := n.cut(one, refused); err != nil {
				t.Fatal(twice, err)
			}
		}
		carries("n1", "n2", false) // the question is lost
		carries("n2", "n1", false) // the answer is
		carries("n3", "n1", true)
		carries("n3", "n2", true)
		if err := n.mend(one, refused); err != nil {
			t.Fatal(err)
		}
		carries("n1", "n2", false)
		if err := n.mend(one, refused); err != nil {
			t.Fatal(err)
		}
		carries("n1", "n2", true)
	}
}

func listen(n *network, host string) (conn net.PacketConn, err error) {
	err = n.within(host)(func() error {
		conn, err = net.ListenPacket("udp", n.address(host)+":7000")
		return err
	})
	return conn, err
}

func echo(conn net.PacketConn) {
	buf := make([]byte, 16)
	for {
		size, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo(buf[:size], from)
	}
}

// asks sends a datagram from one host to another and says whether the answer
// comes; some, since the first may wait for the other's address.
func asks(n *network, from, to string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := n.dialer(from)(ctx, "udp", n.address(to)+":7000")
	if err != nil {
		return false // the local route refuses
	}
	defer conn.Close()
	for try := range 5 {
		_, _ = fmt.Fprint(conn, try)
		_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := conn.Read(make([]byte, 16)); err == nil {
			return true
		}
	}
	return false
}
