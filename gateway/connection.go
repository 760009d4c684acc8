package gateway

import (
	"context"
	"net/http"
	"time"
)

// Times of one request. The unary default and the idle times are engineering
// choices; the cap keeps one client from holding a grain's attention for long.
const (
	defaultUnaryTime = 30 * time.Second
	maxUnaryTime     = 60 * time.Second
	maxUploadTime    = 15 * time.Minute
	idleReadTime     = 60 * time.Second // longest pause of a client while sending
	idleWriteTime    = 30 * time.Second // longest pause of a client while receiving
)

type connectionKey struct{}

// connection moves the deadlines of the connection under a request. A context
// cannot do it: a read that waits for a silent client does not look at one.
type connection struct {
	control *http.ResponseController
	idle    idleTimes
}

// idleTimes are the longest pauses of a client.
type idleTimes struct{ read, write time.Duration }

// boundConnections gives every request read and write deadlines, so that a
// client that stalls costs a bounded time. Handlers of streams move them on.
func (g *Gateway) boundConnections(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.inFlight.Add(1)
		defer g.inFlight.Add(-1)
		c := connection{http.NewResponseController(w), g.idle}
		now := time.Now()
		// Errors: a writer without deadlines, as in tests without a connection.
		_ = c.control.SetReadDeadline(now.Add(g.idle.read))
		_ = c.control.SetWriteDeadline(now.Add(maxUnaryTime + g.idle.write))
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), connectionKey{}, c)))
	})
}

func connectionOf(ctx context.Context) connection {
	c, _ := ctx.Value(connectionKey{}).(connection)
	return c
}

// reading allows the client one more pause while it sends, and the answer its time after it.
func (c connection) reading() {
	if c.control != nil {
		now := time.Now()
		_ = c.control.SetReadDeadline(now.Add(c.idle.read))
		_ = c.control.SetWriteDeadline(now.Add(c.idle.read + maxUnaryTime + c.idle.write))
	}
}

// streaming says that the request is read to its end and that the answer takes
// its time. Both deadlines must go: when one passes, HTTP/1.1 ends the context and
// HTTP/2 resets the stream, even if nobody is reading or writing just then.
func (c connection) streaming() {
	if c.control != nil {
		_ = c.control.SetReadDeadline(time.Time{})
		_ = c.control.SetWriteDeadline(time.Time{})
	}
}

// send gives one message of a stream its time to be written.
func (c connection) send(write func() error) error {
	if c.control == nil {
		return write()
	}
	_ = c.control.SetWriteDeadline(time.Now().Add(c.idle.write))
	err := write()
	_ = c.control.SetWriteDeadline(time.Time{})
	return err
}
