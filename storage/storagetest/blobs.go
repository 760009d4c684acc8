package storagetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

// blobSizes are around every place where a store may change how it keeps one.
func blobSizes() []int { return []int{0, 1, 1000, 64<<10 - 1, 64 << 10, 64<<10 + 1, 3<<20 + 5} }

func blobPromises() []promise {
	return []promise{
		{"C3_BlobsOfEverySizeComeBack", blobsComeBack},
		{"C3_AbortedBlobLeavesNothing", blobAborted},
		{"C3_DeletedBlobIsGoneAndOpenReadersFinish", blobDeleted},
		{"C3_ClaimIsPartOfTheCommit", blobClaims},
		{"I3_ClaimedBlobsAreListedByTheirGrain", blobsListed},
		{"C3_UnclaimedBlobsAreCollectedAfterADay", blobsCollected},
		{"I13_ForeignAndUnknownBlobsAnswerAlike", blobIsolation},
	}
}

func blobsComeBack(t *testing.T, s *suite) {
	ids := map[string]bool{}
	for _, n := range blobSizes() {
		want := noise(uint64(n), n)
		info := s.putBlob(t, "acme", want)
		sum := sha256.Sum256(want)
		if info.Size != int64(n) || info.SHA256 != hex.EncodeToString(sum[:]) || info.ID == "" || ids[info.ID] {
			t.Fatalf("blob of %d bytes: %+v", n, info)
		}
		ids[info.ID] = true
		r, opened, err := s.Blobs.OpenBlob(s.ctx, "acme", info.ID)
		must(t, err)
		if opened != info {
			t.Fatalf("opened %+v, committed %+v", opened, info)
		}
		got, err := io.ReadAll(r)
		must(t, err)
		must(t, r.Close())
		if !bytes.Equal(got, want) {
			t.Fatalf("blob of %d bytes came back different", n)
		}
	}
}

func blobAborted(t *testing.T, s *suite) {
	for _, n := range blobSizes() {
		w, err := s.Blobs.CreateBlob(s.ctx, "acme")
		must(t, err)
		_, err = w.Write(noise(1, n))
		must(t, err)
		w.Abort()
		w.Abort()
		if _, err := w.Write([]byte("more")); err == nil {
			t.Fatal("an aborted blob accepted a write")
		}
		if _, err := w.Commit(s.ctx); err == nil {
			t.Fatal("an aborted blob was committed")
		}
		if w, err = s.Blobs.CreateBlob(s.ctx, "acme"); err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(noise(1, n))
		must(t, err)
		ended, cancel := context.WithCancel(s.ctx)
		cancel()
		_, err = w.Commit(ended)
		wantErr(t, "commit with an ended context", err, context.Canceled)
		w.Abort()
		info := s.putBlob(t, "acme", noise(2, n)) // its deferred Abort comes after Commit and does nothing
		if got := s.blob(t, "acme", info.ID); len(got) != n {
			t.Fatalf("abort after commit cut the blob to %d bytes", len(got))
		}
	}
}

func blobDeleted(t *testing.T, s *suite) {
	for _, n := range blobSizes() {
		want := noise(9, n)
		info := s.putBlob(t, "acme", want)
		r, _, err := s.Blobs.OpenBlob(s.ctx, "acme", info.ID)
		must(t, err)
		must(t, s.Blobs.DeleteBlob(s.ctx, "acme", info.ID))
		must(t, s.Blobs.DeleteBlob(s.ctx, "acme", info.ID))
		_, _, err = s.Blobs.OpenBlob(s.ctx, "acme", info.ID)
		wantErr(t, "open after delete", err, journal.ErrNotFound)
		got, err := io.ReadAll(r)
		must(t, err)
		must(t, r.Close())
		if !bytes.Equal(got, want) {
			t.Fatalf("a reader of %d bytes lost them when the blob was deleted", n)
		}
	}
}

func (s *suite) claim(f journal.Fence, head int64, blobs ...string) error {
	return s.Journal.Append(s.ctx, f, journal.Batch{Head: head, Events: events(head, 1), ClaimBlobs: blobs})
}

func blobClaims(t *testing.T, s *suite) {
	mine, theirs := grain("acme", "k1"), grain("acme", "k2")
	f, _ := s.acquire(t, mine)
	g, _ := s.acquire(t, theirs)
	b1, b2 := s.putBlob(t, "acme", noise(1, 10)), s.putBlob(t, "acme", noise(2, 100_000))
	foreign := s.putBlob(t, "other", noise(3, 10))
	must(t, s.claim(f, 0, b1.ID))
	must(t, s.claim(f, 1, b1.ID)) // mine already: no harm
	wantErr(t, "claim of another grain's blob", s.claim(g, 0, b1.ID), journal.ErrNotFound)
	wantErr(t, "claim of another tenant's blob", s.claim(f, 2, foreign.ID), journal.ErrNotFound)
	wantErr(t, "claim of no blob", s.claim(f, 2, b2.ID, "00000000-0000-4000-8000-000000000000"), journal.ErrNotFound)
	if n := len(checkGapless(s.ctx, t, s.Journal, mine)); n != 2 {
		t.Fatalf("%d events after two good claims", n)
	}
	must(t, s.claim(g, 0, b2.ID)) // the failed batch above did not claim it
}

// listed pages through the blobs of a grain, or those that nobody has.
func (s *suite) listed(t *testing.T, id journal.Identity) (out []string) {
	t.Helper()
	for after := ""; ; {
		page, err := s.Blobs.ClaimedBlobs(s.ctx, id, after, 2)
		must(t, err)
		if len(page) == 0 {
			return out
		}
		after = page[len(page)-1]
		out = append(out, page...)
	}
}

func blobsListed(t *testing.T, s *suite) {
	mine, theirs := grain("acme", "k1"), grain("acme", "k2")
	f, _ := s.acquire(t, mine)
	g, _ := s.acquire(t, theirs)
	var own, loose []string
	for _, n := range blobSizes() {
		own = append(own, s.putBlob(t, "acme", noise(uint64(n), n)).ID)
	}
	other := s.putBlob(t, "acme", noise(1, 10)).ID
	for range 3 {
		loose = append(loose, s.putBlob(t, "acme", noise(2, 10)).ID)
	}
	s.putBlob(t, "foreign", noise(3, 10))
	must(t, s.claim(f, 0, own...))
	must(t, s.claim(g, 0, other))
	slices.Sort(own)
	slices.Sort(loose)
	for _, want := range []struct {
		of   journal.Identity
		list []string
	}{{mine, own}, {theirs, []string{other}}, {journal.Identity{Tenant: "acme"}, loose}, {grain("foreign", "k1"), nil}} {
		if got := s.listed(t, want.of); !slices.Equal(got, want.list) {
			t.Errorf("blobs of %v: %v, want %v", want.of, got, want.list)
		}
	}
	must(t, s.Blobs.DeleteBlob(s.ctx, "acme", own[0]))
	if got := s.listed(t, mine); !slices.Equal(got, own[1:]) {
		t.Errorf("a deleted blob is listed: %v", got)
	}
}

func blobsCollected(t *testing.T, s *suite) {
	if s.CollectAt == nil {
		t.Skip("this adapter collects elsewhere")
	}
	id := grain("acme", "k1")
	f, _ := s.acquire(t, id)
	var kept, loose []string
	for _, n := range blobSizes() {
		kept = append(kept, s.putBlob(t, "acme", noise(1, n)).ID)
		loose = append(loose, s.putBlob(t, "acme", noise(2, n)).ID)
	}
	must(t, s.claim(f, 0, kept...))
	now := time.Now()
	s.CollectAt(t, now.Add(23*time.Hour))
	for _, b := range append(kept, loose...) {
		s.blob(t, "acme", b)
	}
	s.CollectAt(t, now.Add(25*time.Hour))
	for _, b := range kept {
		s.blob(t, "acme", b)
	}
	for _, b := range loose {
		_, _, err := s.Blobs.OpenBlob(s.ctx, "acme", b)
		wantErr(t, "unclaimed blob after a day", err, journal.ErrNotFound)
	}
	must(t, s.Journal.Erase(s.ctx, f)) // what an erased grain left behind goes too
	s.CollectAt(t, now.Add(25*time.Hour))
	for _, b := range kept {
		_, _, err := s.Blobs.OpenBlob(s.ctx, "acme", b)
		wantErr(t, "blob of an erased grain", err, journal.ErrNotFound)
	}
}

func blobIsolation(t *testing.T, s *suite) {
	for _, n := range []int{10, 100_000} {
		info := s.putBlob(t, "acme", noise(1, n))
		_, _, foreign := s.Blobs.OpenBlob(s.ctx, "other", info.ID)
		wantErr(t, "another tenant's blob", foreign, journal.ErrNotFound)
		_, _, unknown := s.Blobs.OpenBlob(s.ctx, "other", "00000000-0000-4000-8000-000000000000")
		wantErr(t, "no blob", unknown, journal.ErrNotFound)
		if foreign.Error() != unknown.Error() {
			t.Fatalf("the errors tell them apart: %q and %q", foreign, unknown)
		}
		must(t, s.Blobs.DeleteBlob(s.ctx, "other", info.ID))
		if len(s.blob(t, "acme", info.ID)) != n {
			t.Fatal("another tenant deleted the blob")
		}
		for _, path := range []string{"../granary.db", "/etc/passwd", "", ".", fmt.Sprintf("%s/..", info.ID)} {
			_, _, err := s.Blobs.OpenBlob(s.ctx, "acme", path)
			wantErr(t, "a path as an id", err, journal.ErrNotFound)
			must(t, s.Blobs.DeleteBlob(s.ctx, "acme", path))
		}
	}
}
