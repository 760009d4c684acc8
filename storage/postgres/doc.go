// Package postgres keeps the journals, blobs, chunks and vectors of a cluster
// in PostgreSQL. It implements the ports of actors/journal and passes
// storage/storagetest unchanged.
//
// Authority: the owner row of each grain, at the primary. An append is ONE
// statement, committed by itself: a conditional update of that row (epoch,
// activation and head must match, and it must not be released), and the
// inserts of the batch depend on the row it returns:
//
//	WITH fenced AS (UPDATE owner SET head = head + n WHERE … RETURNING …),
//	     ev     AS (INSERT INTO events … FROM fenced, unnest(…)), …
//	SELECT … FROM fenced                   no row: fenced, nothing written
//
// The update locks the row until the commit, and whoever waits for it looks at
// the row again when it has it. So a takeover waits for an append under way
// and replays it, or goes first and fences it: a write of the old owner never
// becomes visible after the new owner has read its head. A condition that only
// reads the owner row (EXISTS) would not do that under READ COMMITTED, nor
// would FOR KEY SHARE. Snapshots, indexes and erasures lock it FOR UPDATE.
//
// A statement sees what was committed before it began, which can be before it
// has got the lock. Inserts and updates look again, deletions do not: a holder
// sends one batch at a time, and an erasure takes the lock in a statement of
// its own before it deletes.
//
// Waiting is bounded by the settings of each session: lock_timeout 1 s,
// statement_timeout 5 s, idle_in_transaction_session_timeout 2 s (a process
// that is stopped inside a transaction blocks a takeover no longer), and
// transaction_timeout 10 s where the server knows it (17 and later). Bulk data
// has a pool of its own with longer time-outs, so that it can neither starve
// commits of connections nor be cut off.
//
// Invariants: I1–I5 of the journal, and here in addition
//
//	an answer of OK   the server has committed (synchronous_commit is never off)
//	ErrUnavailable    nothing of the operation was written, now or later
//	ErrInDoubt        the answer to a write got lost; read the journal again
//	ErrFenced         the owner row does not name this activation, head moved,
//	                  or a key of the batch was already applied
//
// A commit that has begun runs to its end, at most 5 s, whatever becomes of
// its caller's context. The clock of expiry and collection is the server's.
package postgres
