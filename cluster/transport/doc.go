// Package transport carries calls to grains from one node to another over
// gRPC: one HTTP/2 connection and on it one stream per pair of nodes and
// direction, on which calls and their answers travel in batches.
//
// It knows addresses and encoded messages, never views, kinds or tenants. A
// node has one [Client], for all nodes it calls, and one [Server].
//
// # States of a peer, as the client has it
//
//	          a call                   connected and greeted
//	(idle) ───────────▶ dialling ─────────────────────────────▶ up
//	   ▲                   │                                     │ broken, silent,
//	   │     failed        ▼                                     │ or the server ended it
//	   └─── waiting, at most 200 ms ◀────────────────────────────┘
//	         calls fail at once          (at once idle if it had been up for a while)
//
// Nothing dials by itself: a peer nobody calls costs nothing but its idle
// connection.
//
// # What an error says
//
// [ErrNotSent] and [ErrFull]: no handler of the other node has had the call and
// none will. [ErrLost] and the errors of the caller's context: it may have had
// it. A [nodev1.Reply] is the other node's answer. The client knows that a call
// was not delivered when it had not begun to write the last byte of it, and
// when the server ended the stream in order: a server does that only after it
// has answered every call that it took.
//
// # Invariants
//
//   - Each call has exactly one result, and no caller waits beyond its context.
//   - A handler gets a call at most once, complete, and not after its deadline.
//   - What is queued goes out in one message; nothing waits for more to come.
//     A message carries about 256 KiB. Requests and replies above 64 KiB travel
//     in parts, in turn with each other, and small ones overtake them.
//   - A request or reply that is too large or cannot be encoded costs its own
//     call, nothing else.
//   - Memory is bounded per peer: calls in flight and bytes held have limits on
//     both sides. A peer that sends without reading is not read from.
//   - A peer that is silent for Config.KeepAlive although calls wait for it is
//     given up. Silence is counted in ticks of our own clock, so that a process
//     that was stopped for a while does not blame its peers.
//   - Nothing that a peer sends ends the process; a panic of a handler costs
//     its own call.
//   - After Close and Stop no goroutine and no connection is left.
//
// # What is used of grpc-go, and what is not
//
// A grpc.ClientConn is used for one connection only. It would redial by
// itself, with a back-off that is not ours, and a call could travel on a
// connection whose end nobody had noticed. grpc-go's keepalive serves idle
// connections; it cannot be set below ten seconds, which is too long for calls
// that wait, so that the stream has pings of its own.
package transport
