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
// Chunks and vectors are written for longer than an owner row may be locked.
// Their writers share an advisory lock of the scope, look at the fence in a
// statement after that, and keep the lock until the commit. A new owner that
// lists or removes rows has the lock alone first: it has then waited for all who
// got in under an earlier fence, and later ones are refused.
//
// # A cluster
//
// Renew, Swap and Acquire are the statements of cluster/protocol, each one call of
// a function (migration 4). One advisory lock stands for the view: Swap has it
// alone until its commit, Renew and Acquire share it, and read the view and then
// the clock under it. So a lease never begins, and a grain is never acquired, under
// a view whose successor is committed. Locks are taken in the order owner row,
// view, leases; who holds the view waits for no client and no owner row.
//
// Leases and the view have connections and time-outs of their own, so that no
// commit delays a renewal. Their times are the server's clock. One that is set
// back, or behind on a server that takes over, delays fail-overs by as much. One
// that jumps ahead by more than the tenth of a lease that nodes leave unused can
// let a grain be taken over while its last owner still answers reads.
//
// # Tenants
//
// No session is the login. Tenants' statements run as a role that sees the rows of
// the tenant named in front of each of them (scope.go); what concerns several tenants
// runs as another one, over Store.across, for one of the reasons given there. A new
// table needs a column tenant and gets the rest by itself at the next start, or a
// place in the list of isolation_test.go.
//
// # Limits and meanings
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
