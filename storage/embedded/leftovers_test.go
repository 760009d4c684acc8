//go:build unix

package embedded

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"granary.dev/granary/actors/journal"
)

func testChunks(n int) []journal.Chunk {
	out := make([]journal.Chunk, n)
	for i := range out {
		out[i] = journal.Chunk{Ordinal: i, Text: "text", Hash: uuid.NewSHA1(uuid.Nil, []byte{byte(i), byte(i >> 8)}).String()}
	}
	return out
}

func check(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// own gives the fence of a grain that nobody takes over.
func own(t testing.TB, s *Store) journal.Fence {
	t.Helper()
	f, _, err := s.Acquire(t.Context(), journal.Identity{Kind: "kb", Tenant: "acme", ID: "writer"}, journal.Claim{Node: "n"})
	check(t, err)
	return f
}

// reopen closes the store, opens its folder again and finishes what was interrupted.
func reopen(t *testing.T, s *Store) *Store {
	t.Helper()
	check(t, s.Close())
	next := openAt(t, s.dir, nil)
	check(t, next.finishInterrupted(t.Context()))
	return next
}

func TestC4_InterruptedPutChunksIsInvisibleAndCollected(t *testing.T) {
	s := openAt(t, t.TempDir(), nil)
	sc := journal.Scope{Tenant: "acme", UID: "u"}
	kept := journal.Attempt{Scope: sc, Document: "d", Version: 1, ID: "kept"}
	lost := journal.Attempt{Scope: sc, Document: "d", Version: 2, ID: "lost"}
	check(t, s.PutChunks(t.Context(), own(t, s), kept, testChunks(5)))
	for _, a := range []journal.Attempt{kept, lost} { // one replaces, one is new; both stop after a part
		p := &chunkPut{attempt: a, gen: s.newGen()}
		check(t, s.write(t.Context(), "", 1, func(tx *txn) error { return p.part(tx, testChunks(3), false, false) }))
	}
	list, err := s.AttemptsOf(t.Context(), sc)
	check(t, err)
	if len(list) != 2 {
		t.Fatalf("attempts with rows: %+v", list)
	}
	s = reopen(t, s)
	got, err := s.Chunks(t.Context(), sc, "kept", -1, 100)
	check(t, err)
	lostNow, err := s.Chunks(t.Context(), sc, "lost", -1, 100)
	check(t, err)
	if len(got) != 5 || len(lostNow) != 0 {
		t.Fatalf("%d and %d chunks, want 5 and 0", len(got), len(lostNow))
	}
	if rows, open := count(t, s, `SELECT count(*) FROM chunks`),
		count(t, s, `SELECT count(*) FROM attempts WHERE pending <> 0 OR attempt = 'lost'`); rows != 5 || open != 0 {
		t.Fatalf("%d rows and %d unfinished attempts remain", rows, open)
	}
}

func TestC4_LaterWriteOfAnAttemptSupersedesTheEarlier(t *testing.T) {
	s := openAt(t, t.TempDir(), nil)
	a := journal.Attempt{Scope: journal.Scope{Tenant: "acme", UID: "u"}, Document: "d", ID: "a"}
	earlier := &chunkPut{attempt: a, gen: s.newGen()}
	check(t, s.write(t.Context(), "", 1, func(tx *txn) error { return earlier.part(tx, testChunks(3), false, false) }))
	check(t, s.PutChunks(t.Context(), own(t, s), a, testChunks(2)))
	err := s.write(t.Context(), "", 1, func(tx *txn) error { return earlier.part(tx, testChunks(1), false, true) })
	if !errors.Is(err, journal.ErrUnavailable) {
		t.Fatalf("the earlier write went on: %v", err)
	}
	if n := count(t, s, `SELECT count(*) FROM chunks`); n != 2 {
		t.Fatalf("%d rows, want 2", n)
	}
}

// A writer that loses its grain between two parts takes back what it has
// written; what readers saw of the attempt stays.
func TestI8_WriterThatIsFencedBetweenTwoPartsLeavesNothing(t *testing.T) {
	s := openAt(t, t.TempDir(), nil)
	a := journal.Attempt{Scope: journal.Scope{Tenant: "acme", UID: "u"}, Document: "d", ID: "a"}
	for _, seen := range []int{0, 5} {
		if seen > 0 {
			check(t, s.PutChunks(t.Context(), own(t, s), a, testChunks(seen)))
		}
		for interrupted := false; !interrupted; {
			f := own(t, s)
			ended := make(chan error, 1)
			go func() { ended <- s.PutChunks(context.WithoutCancel(t.Context()), f, a, testChunks(20*partRows)) }()
			for begun := false; !begun; { // or over already: then once more
				begun = count(t, s, `SELECT count(*) FROM chunks`) > seen || len(ended) > 0
			}
			own(t, s)
			err := <-ended
			if interrupted = errors.Is(err, journal.ErrFenced); !interrupted {
				check(t, err, s.PutChunks(t.Context(), own(t, s), a, testChunks(seen)))
			}
		}
		got, err := s.Chunks(t.Context(), a.Scope, "a", -1, 100)
		if check(t, err); len(got) != seen {
			t.Fatalf("readers see %d chunks, want %d", len(got), seen)
		}
		if rows, open := count(t, s, `SELECT count(*) FROM chunks`), count(t, s, `SELECT count(*) FROM attempts WHERE pending <> 0 OR gen = 0`); rows != seen || open != 0 {
			t.Fatalf("%d rows of %d and %d unfinished attempts remain", rows, seen, open)
		}
	}
}

func TestC4_InterruptedDeletionIsFinished(t *testing.T) {
	s := openAt(t, t.TempDir(), nil)
	sc := journal.Scope{Tenant: "acme", UID: "u"}
	chunks := testChunks(700)
	check(t, s.PutChunks(t.Context(), own(t, s), journal.Attempt{Scope: sc, Document: "d", ID: "a"}, chunks))
	check(t, s.PutVectors(t.Context(), own(t, s), sc, "m", []journal.Vectors{{Hash: chunks[0].Hash, Data: [][]float32{{1}}}}))
	_, _, err := s.hideAttempt(t.Context(), sc, "a", func(*txn) error { return nil })
	check(t, err)
	got, err := s.Chunks(t.Context(), sc, "a", -1, 10)
	check(t, err)
	if len(got) != 0 {
		t.Fatal("an attempt under deletion is visible")
	}
	s = reopen(t, s)
	for _, table := range []string{"chunks", "vectors", "attempts"} {
		if n := count(t, s, `SELECT count(*) FROM `+table); n != 0 {
			t.Fatalf("%d rows remain in %s", n, table)
		}
	}
}

func TestI3_InterruptedEraseIsInvisibleAndFinished(t *testing.T) {
	s := openAt(t, t.TempDir(), nil)
	id := killGrain(0)
	f, _, err := s.Acquire(t.Context(), id, journal.Claim{Node: "n"})
	check(t, err)
	key := journal.IdempotencyKey{Principal: "p", Method: "m", Key: "k"}
	check(t, s.Append(t.Context(), f, journal.Batch{
		Events:      []journal.Event{{Seq: 1, Type: "t"}, {Seq: 2, Type: "t"}},
		Idempotency: []journal.Idempotency{{IdempotencyKey: key, Expires: time.Now().Add(time.Hour)}},
	}))
	check(t, s.SaveSnapshot(t.Context(), f, journal.Snapshot{Seq: 1}))
	check(t, s.SaveIndex(t.Context(), f, make([]byte, 1<<20)))
	check(t, s.write(t.Context(), "", 1, func(tx *txn) error { return markErased(tx, f) }))
	list, err := s.Events(t.Context(), id, 0, 10)
	check(t, err)
	_, found, err := s.FindIdempotency(t.Context(), f, key)
	check(t, err)
	_, snapErr := s.LoadSnapshot(t.Context(), id)
	_, indexErr := s.LoadIndex(t.Context(), id)
	if !errors.Is(snapErr, journal.ErrNotFound) || !errors.Is(indexErr, journal.ErrNotFound) || len(list) != 0 || found {
		t.Fatalf("%d events, key found %v, snapshot %v, index %v after the first commit of an erasure",
			len(list), found, snapErr, indexErr)
	}
	s = reopen(t, s)
	for _, table := range []string{"events", "idempotency", "snapshots", "indexes", "index_parts", "owner WHERE purging = 1"} {
		if n := count(t, s, `SELECT count(*) FROM `+table); n != 0 {
			t.Fatalf("%d rows remain in %s", n, table)
		}
	}
	if o, err := s.Owner(t.Context(), id); err != nil || o.Head != 2 {
		t.Fatalf("owner row is %+v, %v", o, err)
	}
}

// TestI12_IndexOfBeforeAnErasureDoesNotComeBack erases while the parts of a
// large index are being written under the same fence.
func TestI12_IndexOfBeforeAnErasureDoesNotComeBack(t *testing.T) {
	s := openAt(t, t.TempDir(), nil)
	f, _, err := s.Acquire(t.Context(), killGrain(0), journal.Claim{Node: "n"})
	check(t, err)
	late := indexRow{gen: s.newGen(), parts: 1, inline: []byte{}}
	check(t, s.Erase(t.Context(), f))
	err = s.write(t.Context(), "", 1, func(tx *txn) error { return late.save(tx, f, 0) })
	if !errors.Is(err, journal.ErrFenced) {
		t.Fatalf("got %v", err)
	}
}

func TestIndexPartsThatNothingNamesAreCollected(t *testing.T) {
	s := openAt(t, t.TempDir(), nil)
	id := killGrain(0)
	f, _, err := s.Acquire(t.Context(), id, journal.Claim{Node: "n"})
	check(t, err)
	check(t, s.SaveIndex(t.Context(), f, make([]byte, 3<<20)), s.SaveIndex(t.Context(), f, make([]byte, 2<<20)))
	if n := count(t, s, `SELECT count(*) FROM index_parts`); n != 2 {
		t.Fatalf("%d parts after replacing, want 2", n)
	}
	gen := s.newGen() // of a save that never ended
	for part := range 9 {
		check(t, s.write(t.Context(), "", 1, func(tx *txn) error {
			return tx.exec(`INSERT INTO index_parts VALUES (?1, ?2, ?3, ?4, ?5, x'00')`, id.Tenant, id.Kind, id.ID, gen, part)
		}))
	}
	s = reopen(t, s)
	if n := count(t, s, `SELECT count(*) FROM index_parts`); n != 2 {
		t.Fatalf("%d parts, want the 2 of the index", n)
	}
	data, err := s.LoadIndex(t.Context(), id)
	check(t, err)
	if len(data) != 2<<20 {
		t.Fatalf("index of %d bytes", len(data))
	}
}

// TestIndexReplacedDuringALoadIsLoadedAnew replaces the index between the two
// reads of a load.
func TestIndexReplacedDuringALoadIsLoadedAnew(t *testing.T) {
	s := openAt(t, t.TempDir(), nil)
	id := killGrain(0)
	f, _, err := s.Acquire(t.Context(), id, journal.Claim{Node: "n"})
	check(t, err, s.SaveIndex(t.Context(), f, make([]byte, 3<<20)))
	stale, err := s.readIndexRow(t.Context(), id)
	check(t, err)
	for _, n := range []int{2 << 20, 10} { // by a large one and by a small one
		check(t, s.SaveIndex(t.Context(), f, make([]byte, n)))
		data, err := s.indexData(t.Context(), id, stale)
		check(t, err)
		if len(data) != n {
			t.Fatalf("loaded %d bytes, want %d", len(data), n)
		}
	}
}

func TestC3_StrayFilesAreCollectedAndOthersLeftAlone(t *testing.T) {
	s := openAt(t, t.TempDir(), nil)
	info := putBlob(t, s, 100_000)
	open, err := s.CreateBlob(t.Context(), "acme")
	check(t, err)
	_, err = open.Write(make([]byte, 100_000))
	check(t, err)
	stray, unknown := uuid.NewString(), filepath.Join(s.dir, "blobs", "README")
	check(t, os.MkdirAll(filepath.Dir(s.files.path(stray)), 0o700))
	for _, path := range []string{s.files.path(stray), filepath.Join(s.files.tmp, uuid.NewString()), unknown} {
		check(t, os.WriteFile(path, []byte("x"), 0o600))
	}
	check(t, s.Collect(t.Context()))
	if _, err := os.Stat(s.files.path(stray)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a file without a row stayed: %v", err)
	}
	if left, err := os.ReadDir(s.files.tmp); err != nil || len(left) != 1 {
		t.Fatalf("%d temporary files, want the one being written; %v", len(left), err)
	}
	if _, err := os.Stat(unknown); err != nil {
		t.Fatalf("a file that is not ours was touched: %v", err)
	}
	committed, err := open.Commit(t.Context())
	check(t, err)
	for _, id := range []string{info.ID, committed.ID} {
		r, _, err := s.OpenBlob(t.Context(), "acme", id)
		check(t, err)
		_, err = io.Copy(io.Discard, r)
		check(t, err, r.Close())
	}
}

func TestExpiredKeysAreCollectedAndSpaceIsGivenBack(t *testing.T) {
	clock := &testClock{}
	s := openAt(t, t.TempDir(), clock)
	f, _, err := s.Acquire(t.Context(), killGrain(0), journal.Claim{Node: "n"})
	check(t, err)
	for head := range int64(40) {
		check(t, s.Append(t.Context(), f, journal.Batch{Head: head,
			Events: []journal.Event{{Seq: head + 1, Type: "t", Data: make([]byte, 1<<20)}},
			Idempotency: []journal.Idempotency{{
				IdempotencyKey: journal.IdempotencyKey{Principal: "p", Method: "m", Key: uuid.NewString()},
				Expires:        time.Now().Add(time.Hour),
			}},
		}))
	}
	check(t, s.Collect(t.Context()))
	if n := count(t, s, `SELECT count(*) FROM idempotency`); n != 40 {
		t.Fatalf("%d keys of 40 before they expire", n)
	}
	before := count(t, s, `SELECT page_count FROM pragma_page_count`)
	clock.ahead.Store(int64(2 * time.Hour))
	check(t, s.Erase(t.Context(), f), s.Collect(t.Context()))
	if n := count(t, s, `SELECT count(*) FROM idempotency`); n != 0 {
		t.Fatalf("%d expired keys remain", n)
	}
	if after := count(t, s, `SELECT page_count FROM pragma_page_count`); after > before/4 {
		t.Fatalf("%d pages after erasing nearly all of %d", after, before)
	}
}

func TestCollectorRunsByItselfAndEndsWithClose(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, dir, nil)
	info := putBlob(t, s, 100_000)
	check(t, s.Close())
	clock := &testClock{}
	clock.ahead.Store(int64(25 * time.Hour))
	s, err := Open(t.Context(), Config{Dir: dir, Clock: clock.now, CollectEvery: time.Millisecond})
	check(t, err)
	for { // no sleep on a guess: until the collector has done it
		_, _, err := s.OpenBlob(context.Background(), "acme", info.ID)
		if errors.Is(err, journal.ErrNotFound) {
			break
		}
		check(t, t.Context().Err())
	}
	check(t, s.Close())
}

// change alters stored rows behind the store's back.
func change(t *testing.T, s *Store, query string, args ...any) {
	t.Helper()
	check(t, s.write(t.Context(), "", 1, func(tx *txn) error {
		n, err := tx.changed(query, args...)
		if err == nil && n == 0 {
			err = errors.New("nothing to change")
		}
		return err
	}))
}

func wantCorrupt(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, journal.ErrCorrupt) {
		t.Fatalf("%s: %v", what, err)
	}
}

func TestVectorsThatChangedOnDiskAreCorrupt(t *testing.T) {
	s := openAt(t, t.TempDir(), nil)
	sc := journal.Scope{Tenant: "acme", UID: "u"}
	check(t, s.PutVectors(t.Context(), own(t, s), sc, "m", []journal.Vectors{{Hash: "h", Data: [][]float32{{1, 2}}}}))
	change(t, s, `UPDATE vectors SET data = CAST(substr(data, 1, 9) || x'77' || substr(data, 11) AS BLOB)`)
	_, err := s.VectorsByHash(t.Context(), sc, "m", []string{"h"})
	wantCorrupt(t, "vectors", err)
	change(t, s, `UPDATE vectors SET data = x''`)
	_, err = s.VectorsByHash(t.Context(), sc, "m", []string{"h"})
	wantCorrupt(t, "empty vectors", err)
}

func TestI12_StateAndIndexThatChangedOnDiskAreCorrupt(t *testing.T) {
	s := openAt(t, t.TempDir(), nil)
	id := killGrain(0)
	f, _, err := s.Acquire(t.Context(), id, journal.Claim{Node: "n"})
	check(t, err)
	load := func() error { _, err := s.LoadSnapshot(t.Context(), id); return err }
	loadIndex := func() error { _, err := s.LoadIndex(t.Context(), id); return err }
	check(t, s.SaveSnapshot(t.Context(), f, journal.Snapshot{State: bytes.Repeat([]byte("state "), 1000)}), load())
	change(t, s, `UPDATE snapshots SET state = CAST(substr(state, 1, length(state) - 1) AS BLOB)`)
	wantCorrupt(t, "state", load())
	save := func(n int) { check(t, s.SaveIndex(t.Context(), f, make([]byte, n)), loadIndex()) }
	save(10)
	change(t, s, `UPDATE indexes SET data = x'01'`)
	wantCorrupt(t, "index", loadIndex())
	save(3 << 20)
	change(t, s, `DELETE FROM index_parts WHERE part = 1`)
	wantCorrupt(t, "index with a part missing", loadIndex())
	save(3 << 20) // the holder replaces what is broken
}

func TestC3_BlobsThatChangedOnDiskAreCorrupt(t *testing.T) {
	s := openAt(t, t.TempDir(), nil)
	inline, large := putBlob(t, s, 10), putBlob(t, s, 100_000)
	read := func(id string) error {
		r, _, err := s.OpenBlob(t.Context(), "acme", id)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			check(t, r.Close())
		}
		return err
	}
	check(t, read(inline.ID), read(large.ID))
	change(t, s, `UPDATE blobs SET data = x'0102' WHERE id = ?1`, inline.ID)
	wantCorrupt(t, "inline blob", read(inline.ID))
	check(t, os.WriteFile(s.files.path(large.ID), make([]byte, 99_999), 0o600))
	wantCorrupt(t, "blob file", read(large.ID))
	check(t, os.Remove(s.files.path(large.ID)))
	wantCorrupt(t, "missing blob file", read(large.ID))
}
