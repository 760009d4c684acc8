package transport

import "time"

const (
	// partBytes is the size above which a request or reply travels in parts,
	// and of these parts.
	partBytes = 64 << 10
	// batchBytes is the size at which a message takes nothing more.
	batchBytes = 256 << 10
	// wireBytes is the largest message that is read: a full batch, one more
	// entry and one more part, with room for later versions.
	wireBytes = 1 << 20
	// entryBytes is the most that a call or reply may have besides its request
	// or reply: names, and the text of an error.
	entryBytes = 256 << 10

	// streamWindow and connWindow let a stream carry 4 Gbit/s at a round trip
	// of 1 ms. They are fixed because grpc-go's estimator costs pings, and grows
	// windows until small messages wait behind megabytes of large ones.
	streamWindow = 512 << 10
	connWindow   = 1 << 20

	maxHeaderBytes = 64 << 10
	// maxStreams bounds what a peer may run beside its calls: pings and
	// operators' requests.
	maxStreams = 64

	defaultInFlight    = 1024
	defaultMessage     = 64 << 20
	defaultHeld        = 256 << 20
	defaultDialTimeout = time.Second
	defaultKeepAlive   = 1500 * time.Millisecond

	// silentTicks is how many ticks in a row make the time of Config.KeepAlive.
	silentTicks = 6
	// firstBackoff and maxBackoff bound the time in which calls to a node that
	// was just found unreachable fail without another try.
	firstBackoff = 10 * time.Millisecond
	maxBackoff   = 200 * time.Millisecond
	// redialPatience is how long a call waits for a dial after the last one
	// failed. A node that is there answers in milliseconds.
	redialPatience = 200 * time.Millisecond
	// busyRetry is the hint of a node that has too many calls of one peer.
	busyRetry = 20 * time.Millisecond

	// Idle connections, and those of vanished clients on the server, are found
	// dead by HTTP/2 pings.
	idlePing       = 10 * time.Second
	idlePingAnswer = 3 * time.Second
	servePing      = 2 * time.Second
	servePingMin   = 5 * time.Second
	handshakeTime  = 5 * time.Second
)

func orElse[T int | int64 | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}
