// Package cli is the client side of the granary command: everything that talks
// to a running server over its public API. It has no authority of its own: the
// server decides, this package asks, retries what is safe and prints.
//
// # Where it connects
//
// The server is --server, else GRANARY_SERVER, else [DefaultServer]. The token
// is the content of --token-file, else GRANARY_TOKEN, else the content of
// [DevTokenFile] in the data directory (--data, else [DefaultDataDir]), which
// `granary serve --dev` writes. `granary cluster`, and what `granary tenant` does to
// any tenant, speak as an operator: their token
// is that of --token-file, GRANARY_OPERATOR_TOKEN or [DevOperatorTokenFile], and no
// other is ever sent. A token is never printed.
//
// # What it prints
//
// Results go to standard output, everything else to standard error. On a
// terminal tables have colours and widths; in a pipe they are plain lines with
// all of the text. --json prints the response as protobuf JSON: indented on a
// terminal, one line per object in a pipe. Lists are one object with all pages
// merged; `watch` and `doc add` print one object per message.
//
// # Exit codes
//
// 0 done, 1 failed, 2 wrong usage. `cluster health` fails when the cluster is not
// well. An error of a command from outside this
// package may choose its own by an ExitCode() int method.
//
// # Invariants
//
//   - Every change of a tenant's data carries a request id, and a retry repeats it.
//   - A file keeps its document id from one `doc add` to the next, so that an
//     edited file becomes the next version of its document.
//   - A watch loses no event: it resumes after the last message it printed.
package cli
