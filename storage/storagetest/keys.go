package storagetest

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

func keyPromises() []promise {
	return []promise{
		{"I2_KeysComeBackAsTheyWereAndMoveByVersion", keysComeBack},
		{"I2_OfManyWritersOfOneVersionOneWins", keysOneWins},
		{"I2_DestroyedKeysAreGoneAndTheirVersionIsNotUsedAgain", keysDestroyed},
		{"I2_ChangesOfKeysAreToldInOrderAndComplete", keysChanges},
		{"I2_ListsKeysByTenant", keysListed},
		{"I2_ContentIsSeenWhateverItIs", keysContent},
		{"I2_SealedBlobsKeepTheirNoteAndSize", sealedBlobs},
		{"I2_IndexIsSavedFromAReader", indexFromReader},
	}
}

func keysOf(tenant string, version int64) journal.KeyRecord {
	return journal.KeyRecord{Tenant: tenant, Version: version, Wrapped: fmt.Appendf(nil, "wrapped %s %d", tenant, version),
		Master: fmt.Sprint("m", version), Primary: fmt.Sprint("k", version), Created: at(0), Rotated: at(time.Duration(version) * time.Hour)}
}

func (s *suite) wantKeys(t *testing.T, want journal.KeyRecord) {
	t.Helper()
	got, err := s.Keys.Keys(s.ctx, want.Tenant)
	must(t, err)
	same := got.Tenant == want.Tenant && got.Version == want.Version && bytes.Equal(got.Wrapped, want.Wrapped) && got.Master == want.Master &&
		got.Primary == want.Primary && got.Created.Equal(want.Created) && got.Rotated.Equal(want.Rotated)
	if !same {
		t.Fatalf("keys: got %+v, want %+v", got, want)
	}
}

func keysComeBack(t *testing.T, s *suite) {
	_, err := s.Keys.Keys(s.ctx, "acme")
	wantErr(t, "keys never written", err, journal.ErrNotFound)
	wantErr(t, "version 2 of nothing", s.Keys.PutKeys(s.ctx, keysOf("acme", 2)), journal.ErrKeysChanged)
	must(t, s.Keys.PutKeys(s.ctx, keysOf("acme", 1)))
	s.wantKeys(t, keysOf("acme", 1))
	wantErr(t, "version 1 again", s.Keys.PutKeys(s.ctx, keysOf("acme", 1)), journal.ErrKeysChanged)
	wantErr(t, "version 3 after 1", s.Keys.PutKeys(s.ctx, keysOf("acme", 3)), journal.ErrKeysChanged)
	later := keysOf("acme", 2)
	later.Created = at(5 * time.Hour)
	must(t, s.Keys.PutKeys(s.ctx, later))
	s.wantKeys(t, keysOf("acme", 2)) // created when it first was
	must(t, s.Keys.PutKeys(s.ctx, keysOf(journal.StoreKeys, 1)))
	for _, bad := range []journal.KeyRecord{{}, {Tenant: "a", Version: 1, Master: "m", Primary: "k"},
		{Tenant: "a", Wrapped: []byte("x"), Master: "m", Primary: "k"}, {Tenant: "a\x00", Version: 1, Wrapped: []byte("x"), Master: "m", Primary: "k"}} {
		if s.Keys.PutKeys(s.ctx, bad) == nil {
			t.Fatalf("stored %+v", bad)
		}
	}
	s.Stores = s.Reopen(t)
	s.wantKeys(t, keysOf("acme", 2))
	s.wantKeys(t, keysOf(journal.StoreKeys, 1))
}

func keysOneWins(t *testing.T, s *suite) {
	for version := int64(1); version <= 5; version++ {
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for w := range errs {
			wg.Go(func() { errs[w] = s.Keys.PutKeys(s.ctx, keysOf("acme", version)) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else {
				wantErr(t, "who came too late", err, journal.ErrKeysChanged)
			}
		}
		if won != 1 {
			t.Fatalf("%d wrote version %d", won, version)
		}
	}
}

func keysDestroyed(t *testing.T, s *suite) {
	must(t, s.Keys.DestroyKeys(s.ctx, "unknown"))
	must(t, s.Keys.PutKeys(s.ctx, keysOf("acme", 1)))
	must(t, s.Keys.PutKeys(s.ctx, keysOf("other", 1)))
	must(t, s.Keys.DestroyKeys(s.ctx, "acme"))
	must(t, s.Keys.DestroyKeys(s.ctx, "acme"))
	r, err := s.Keys.Keys(s.ctx, "acme")
	must(t, err)
	if !r.Destroyed() || len(r.Wrapped) != 0 || r.Version != 2 {
		t.Fatalf("destroyed keys are %+v", r)
	}
	s.wantKeys(t, keysOf("other", 1))
	for _, v := range []int64{1, 2} {
		wantErr(t, "an old version over destroyed keys", s.Keys.PutKeys(s.ctx, keysOf("acme", v)), journal.ErrKeysChanged)
	}
	fresh := keysOf("acme", 3)
	fresh.Created = at(9 * time.Hour)
	must(t, s.Keys.PutKeys(s.ctx, fresh))
	s.wantKeys(t, fresh)
}

func keysChanges(t *testing.T, s *suite) {
	must(t, s.Keys.PutKeys(s.ctx, keysOf("a", 1)))
	must(t, s.Keys.PutKeys(s.ctx, keysOf("b", 1)))
	_, start, err := s.Keys.KeyChanges(s.ctx, -1, 0)
	must(t, err)
	const each = 20
	var wg sync.WaitGroup
	stop, told := make(chan struct{}), make(chan []journal.KeyChange)
	go func() { // reads along
		var all []journal.KeyChange
		for last, ended := start, false; ; {
			select {
			case <-stop:
				ended = true
			default:
			}
			page, next, err := s.Keys.KeyChanges(s.ctx, last, 3)
			if err != nil {
				t.Error(err)
			}
			all, last = append(all, page...), next
			if err != nil || ended && len(page) == 0 {
				told <- all
				return
			}
		}
	}()
	for _, tenant := range []string{"a", "b"} {
		wg.Go(func() {
			for v := int64(2); v <= each; v++ {
				if err := s.Keys.PutKeys(s.ctx, keysOf(tenant, v)); err != nil {
					t.Error(err)
				}
			}
			if err := s.Keys.DestroyKeys(s.ctx, tenant); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(stop)
	mark, versions := start, map[string]int64{}
	for _, c := range <-told {
		if c.Mark <= mark || c.Version <= versions[c.Tenant] || c.Destroyed != (c.Version == each+1) {
			t.Fatalf("change %+v after mark %d and version %d", c, mark, versions[c.Tenant])
		}
		mark, versions[c.Tenant] = c.Mark, c.Version
	}
	if versions["a"] != each+1 || versions["b"] != each+1 {
		t.Fatalf("the last changes told are %v", versions)
	}
}

func keysListed(t *testing.T, s *suite) {
	var want []string
	for i := range 7 {
		tenant := fmt.Sprint("t", i)
		must(t, s.Keys.PutKeys(s.ctx, keysOf(tenant, 1)))
		want = append(want, tenant)
	}
	must(t, s.Keys.DestroyKeys(s.ctx, "t3"))
	var got []string
	for after := ""; ; after = got[len(got)-1] {
		page, err := s.Keys.ListKeys(s.ctx, after, 3)
		must(t, err)
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			got = append(got, r.Tenant)
			if r.Destroyed() != (r.Tenant == "t3") {
				t.Fatalf("listed %+v", r)
			}
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("listed %v, want %v", got, want)
	}
}

func keysContent(t *testing.T, s *suite) {
	if there, err := s.Keys.HasContent(s.ctx, ""); err != nil || there {
		t.Fatalf("an empty store has content: %v, %v", there, err)
	}
	put := map[string]func(tenant string){
		"event": func(tenant string) {
			f, _ := s.acquire(t, grain(tenant, "k"))
			s.append(t, f, 0, 1)
		},
		"blob":   func(tenant string) { s.putBlob(t, tenant, []byte("x")) },
		"chunks": func(tenant string) { must(t, s.putChunks(t, attemptOf(scope(tenant, "u"), "d", "a"), chunksOf(1))) },
	}
	for what, write := range put {
		tenant := "of-" + what
		if there, err := s.Keys.HasContent(s.ctx, tenant); err != nil || there {
			t.Fatalf("%s: %v, %v before anything was written", tenant, there, err)
		}
		write(tenant)
		for _, asked := range []string{tenant, ""} {
			if there, err := s.Keys.HasContent(s.ctx, asked); err != nil || !there {
				t.Fatalf("%q after %s: %v, %v", asked, what, there, err)
			}
		}
	}
}

func sealedBlobs(t *testing.T, s *suite) {
	for _, n := range blobSizes() {
		want := noise(uint64(n), n)
		w, err := s.Sealed.CreateSealedBlob(s.ctx, "acme")
		must(t, err)
		_, err = w.Write(want)
		must(t, err)
		must(t, w.CommitSealed(s.ctx, 12345, []byte("note")))
		w.Abort()
		r, info, note, err := s.Sealed.OpenSealedBlob(s.ctx, "acme", w.ID())
		must(t, err)
		got, err := io.ReadAll(r)
		must(t, err)
		must(t, r.Close())
		if !bytes.Equal(got, want) || info.Size != 12345 || info.ID != w.ID() || string(note) != "note" {
			t.Fatalf("sealed blob of %d bytes: %d bytes, %+v, note %q", n, len(got), info, note)
		}
	}
	plain := s.putBlob(t, "acme", noise(1, 1000))
	r, info, note, err := s.Sealed.OpenSealedBlob(s.ctx, "acme", plain.ID)
	must(t, err)
	must(t, r.Close())
	if note != nil || info != plain {
		t.Fatalf("an unsealed blob opens as %+v with note %q", info, note)
	}
}

func indexFromReader(t *testing.T, s *suite) {
	id := grain("acme", "k")
	f, _ := s.acquire(t, id)
	for _, n := range []int{0, 1, 256 << 10, 256<<10 + 1, 1 << 20, 3<<20 + 7} {
		want := noise(uint64(n), n)
		must(t, s.Sealed.SaveIndexFrom(s.ctx, f, bytes.NewReader(want), int64(n)))
		got, err := s.Journal.LoadIndex(s.ctx, id)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatalf("index of %d bytes came back different", n)
		}
		if s.Sealed.SaveIndexFrom(s.ctx, f, bytes.NewReader(want), int64(n)+1) == nil {
			t.Fatal("an index that ends early was saved")
		}
		if got, err = s.Journal.LoadIndex(s.ctx, id); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("a failed save changed the index: %v", err)
		}
	}
}
