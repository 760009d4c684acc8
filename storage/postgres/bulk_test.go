//go:build unix

package postgres

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

func count(t *testing.T, s *Store, query string, args ...any) (n int) {
	t.Helper()
	check(t, rowOf(t.Context(), root(t, s.commits), query, args, &n))
	return n
}

func TestC3_BlobIsStreamedInPartsAndNeverWholeInMemory(t *testing.T) {
	s := openAt(t, shared.Database(t))
	w, err := s.CreateBlob(t.Context(), "acme")
	check(t, err)
	defer w.Abort()
	piece := bytes.Repeat([]byte("0123456789abcdef"), 10_000) // 160,000 bytes: no part ends with it
	const pieces = 20
	for range pieces {
		_, err := w.Write(piece)
		check(t, err)
		if held := cap(w.(*blobWriter).part); held > blobPart {
			t.Fatalf("the writer holds %d bytes", held)
		}
	}
	info, err := w.Commit(t.Context())
	check(t, err)
	if n := count(t, s, `SELECT max(length(data)) FROM blob_parts WHERE id = $1`, info.ID); n != blobPart {
		t.Fatalf("the largest part has %d bytes", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, _, err := s.OpenBlob(ctx, "acme", info.ID)
	check(t, err)
	cancel() // the reader reads on
	n := 0
	buf := make([]byte, 1000)
	for err == nil {
		var k int
		k, err = r.Read(buf)
		n += k
		if held := cap(r.(*blobReader).part); held > blobPart+4096 {
			t.Fatalf("the reader holds %d bytes", held)
		}
	}
	if !errors.Is(err, io.EOF) || n != pieces*len(piece) {
		t.Fatalf("read %d bytes, %v", n, err)
	}
}

func TestC3_BytesOfADeletedBlobGoWithTheLastReader(t *testing.T) {
	s := openAt(t, shared.Database(t))
	data := bytes.Repeat([]byte("x"), 2*blobPart)
	parts := func() int { return count(t, s, `SELECT count(*) FROM blob_parts`) }

	id := putBlob(t, s, "acme", data)
	check(t, s.DeleteBlob(t.Context(), "acme", id))
	if n := parts(); n != 0 {
		t.Fatalf("%d parts of a deleted blob that nobody reads", n)
	}
	id = putBlob(t, s, "acme", data)
	r, _, err := s.OpenBlob(t.Context(), "acme", id)
	check(t, err, s.DeleteBlob(t.Context(), "acme", id))
	collectAt(t, s, time.Now())
	got, err := io.ReadAll(r)
	if check(t, err); len(got) != len(data) {
		t.Fatalf("the reader lost %d bytes", len(data)-len(got))
	}
	runSQL(t, shared.Server(t).URL(dbName(t, s)), `UPDATE blobs SET read_until = now()`) // ten minutes later
	collectAt(t, s, time.Now())
	if n := parts() + count(t, s, `SELECT count(*) FROM blobs`); n != 0 {
		t.Fatalf("%d rows remain", n)
	}
}

func dbName(t *testing.T, s *Store) (name string) {
	t.Helper()
	check(t, rowOf(t.Context(), root(t, s.commits), `SELECT current_database()`, nil, &name))
	return name
}

func TestC3_DamagedBlobIsNotReadAsWhole(t *testing.T) {
	s := openAt(t, shared.Database(t))
	id := putBlob(t, s, "acme", bytes.Repeat([]byte("x"), blobPart+10))
	runSQL(t, shared.Server(t).URL(dbName(t, s)), `UPDATE blob_parts SET data = '\x00' WHERE part = 1`)
	r, _, err := s.OpenBlob(t.Context(), "acme", id)
	check(t, err)
	if _, err := io.ReadAll(r); !errors.Is(err, journal.ErrCorrupt) {
		t.Fatal(err)
	}
}

func TestUploadThatDiedIsCollected(t *testing.T) {
	s := openAt(t, shared.Database(t))
	w, err := s.CreateBlob(t.Context(), "acme")
	check(t, err)
	_, err = w.Write(make([]byte, 3*blobPart))
	check(t, err)
	collectAt(t, s, time.Now().Add(25*time.Hour))
	if n := count(t, s, `SELECT count(*) FROM blob_parts`); n != 0 {
		t.Fatalf("%d parts remain", n)
	}
	if _, err := w.Commit(t.Context()); !errors.Is(err, journal.ErrUnavailable) { // it was only slow
		t.Fatal(err)
	}
}

func TestOneNodeCollectsAtATime(t *testing.T) {
	url := shared.Database(t)
	a, b := openAt(t, url), openAt(t, url)
	collectAt(t, a, time.Now()) // the collections at the start are over, or wait for nobody
	c, err := root(t, a.bulk).conn(t.Context())
	check(t, err)
	for locked := false; !locked; {
		check(t, c.QueryRow(t.Context(), `SELECT pg_try_advisory_lock($1)`, int64(collectionLock)).Scan(&locked))
	}
	if done, err := b.Collect(t.Context()); err != nil || done {
		t.Fatalf("collected beside another: %v, %v", done, err)
	}
	check(t, c.Conn().Close(t.Context())) // the node died
	c.Release()
	collectAt(t, b, time.Now())
}

func TestInterruptedErasureAndIndexAreFinishedByTheCollection(t *testing.T) {
	s := openAt(t, shared.Database(t))
	id := journal.Identity{Kind: "kb", Tenant: "acme", ID: "k"}
	f, _, err := s.Acquire(t.Context(), id, journal.Claim{Node: "n"})
	check(t, err, s.Append(t.Context(), f, journal.Batch{Events: testEvents(0, 2500, "e")}))
	check(t, s.SaveIndex(t.Context(), f, make([]byte, 3*indexPart)))
	check(t, root(t, s.bulk).write(t.Context(), func(ctx context.Context, q querier) error { // and then the node died
		_, err := markErasedOn(ctx, q, f)
		return err
	}))
	if list, err := s.Events(t.Context(), id, 0, 10); err != nil || len(list) != 0 {
		t.Fatalf("%d events are visible, %v", len(list), err)
	}
	collectAt(t, s, time.Now().Add(2*time.Hour))
	for _, query := range []string{`SELECT count(*) FROM events`, `SELECT count(*) FROM index_parts`, `SELECT count(*) FROM owner WHERE purging`} {
		if n := count(t, s, query); n != 0 {
			t.Errorf("%s: %d", query, n)
		}
	}
}

func TestIndexWhosePartsAreGoneIsNotPublished(t *testing.T) {
	s := openAt(t, shared.Database(t))
	f, _, err := s.Acquire(t.Context(), journal.Identity{Kind: "kb", Tenant: "acme", ID: "k"}, journal.Claim{Node: "n"})
	check(t, err)
	save := &indexSave{fence: f, inline: []byte{}}
	check(t, s.saveParts(t.Context(), save, bytes.NewReader(make([]byte, 2*indexPart)), 2*indexPart))
	check(t, s.purgeParts(t.Context(), f.Identity, 0, *save.gen+1))
	if err := root(t, s.bulk).write(t.Context(), save.publishOn); !errors.Is(err, journal.ErrUnavailable) {
		t.Fatal(err)
	}
	if _, err := s.LoadIndex(t.Context(), f.Identity); !errors.Is(err, journal.ErrNotFound) {
		t.Fatal(err)
	}
}
