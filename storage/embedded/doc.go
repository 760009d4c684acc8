// Package embedded keeps everything a single node stores in one folder: the
// journals, chunks and vectors in SQLite, large blobs in files beside it. It
// implements the ports of actors/journal and passes storage/storagetest.
//
//	DIR/granary.db      database (write-ahead log beside it)
//	DIR/blobs/ab/…      blobs above 64 KiB, named by UUIDs of our own making
//	DIR/tmp/…           blobs that are still being written
//	DIR/LOCK            held by the one process that uses the folder
//
// Authority: the owner row of each grain. An append is one conditional update
// of that row (epoch, activation and head must match, and it must not be
// released), and the inserts of the batch happen only if it changed a row.
// All of it is one savepoint of the single writer's transaction, so that
// nothing can come in between. The statements read the same for PostgreSQL,
// where they are one statement with the inserts depending on the update.
//
// Writes: one goroutine owns the one writing connection and commits what
// waits as a group: one fsync (synchronous=FULL) for all, a savepoint for
// each. Work that writes much is cut into parts of about a megabyte and at
// most one part rides in a transaction, so that small commits never wait for
// more. What is written in parts (chunks of an attempt, large search
// indexes) is written under a new generation number and becomes visible by
// one small update at the end; what a crash leaves behind is collected.
//
// Reads use connections of their own and never wait for the writer.
//
// Invariants: I1–I5 of the journal, and here in addition
//
//	an answer of OK       the transaction is on the disk
//	ErrUnavailable        nothing of the operation is visible, now or later
//	ErrInDoubt            the commit itself failed; read the journal again
//	ErrFenced             the owner row does not name this activation, head
//	                      moved, or a key of the batch was already applied
//
// Erase makes a grain's rows invisible in one commit and then removes them in
// bounded steps. Freed pages are reused and given back to the file system over
// time; unreadability of old pages is the task of encryption above this layer.
package embedded
