//go:build unix

package sealed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/sealed"
)

// keysFile is a file of master keys that a test edits.
type keysFile struct {
	mu   sync.Mutex
	text sealed.Secret
}

func newKeysFile(t testing.TB) *keysFile {
	t.Helper()
	text, err := sealed.NewMasterKey()
	check(t, err)
	return &keysFile{text: text}
}

func (f *keysFile) load(context.Context) (sealed.Secret, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return bytes.Clone(f.text), nil
}

func (f *keysFile) set(text sealed.Secret) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.text = text
}

// read is a node's view of the file.
func (f *keysFile) read(t testing.TB) *sealed.Master {
	t.Helper()
	m, err := sealed.OpenMaster(t.Context(), f.load)
	check(t, err)
	return m
}

func wantReadable(t *testing.T, s *sealed.Store, all ...*planted) {
	t.Helper()
	for _, p := range all {
		for what, read := range p.reads(t.Context(), s) {
			if err := read(); err != nil {
				t.Errorf("%s of %s: %v", what, p.f.Identity, err)
			}
		}
	}
}

// I2: a rotated key seals what is written from then on; what was written before
// stays readable, and other tenants keep their keys.
func TestI2_RotatedKeySealsWhatComesAfter(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		s := w.open(t)
		p, other := plant(t, s, "acme", "handbook"), plant(t, s, "other", "k")
		before, err := s.Keys(t.Context(), "acme")
		check(t, err)
		for range 3 {
			after, err := s.Rotate(t.Context(), "acme")
			check(t, err)
			if after.Version != before.Version+1 || after.Primary == before.Primary || !after.Created.Equal(before.Created) || after.Rotated.Before(before.Rotated) {
				t.Fatalf("rotated from %+v to %+v", before, after)
			}
			if before, err = s.Keys(t.Context(), "acme"); err != nil {
				t.Fatal(err)
			}
		}
		again := plant(t, s, "acme", "later")
		wantReadable(t, s, p, again, other)
		if n := w.count(t, "SELECT count(*) FROM events WHERE id = 'later' AND "+w.hexOf("data")+" LIKE '____01"+strings.ToUpper(before.Primary)+"%'"); n != 2 {
			t.Errorf("%d events are sealed with the new key", n)
		}
		// Chunks of before keep their vectors: hashes do not change with the key.
		if n, embedded, err := s.CountChunks(t.Context(), p.scope, "a", "m"); err != nil || n != 2 || embedded != 2 {
			t.Fatalf("%d chunks, %d with vectors, %v", n, embedded, err)
		}
		check(t, s.Close())
		wantReadable(t, w.open(t), p, again, other)
		if _, err := w.open2(t).Rotate(t.Context(), "unknown"); !errors.Is(err, sealed.ErrUnknownTenant) {
			t.Fatalf("rotation of an unknown tenant: %v", err)
		}
	})
}

// hexOf is a column of bytes in upper-case hex.
func (w *world) hexOf(column string) string {
	if w.url != "" {
		return "upper(encode(" + column + ", 'hex'))"
	}
	return "hex(" + column + ")"
}

func (w *world) count(t testing.TB, query string) (n int) {
	t.Helper()
	check(t, w.db(t).QueryRow(query).Scan(&n))
	return n
}

// open2 opens a store of its own, for what needs no data.
func (w *world) open2(t testing.TB) *sealed.Store { return onFolder(t).open(t) }

// I2: keys are rotated while two nodes read and write; nothing fails, and the other
// node seals with the new key soon.
func TestI2_RotationUnderLoad(t *testing.T) {
	w := onPostgres(t)
	file := newKeysFile(t)
	nodes := []*sealed.Store{
		w.over(t, w.inner(t), sealed.Config{Master: file.read(t), Poll: 20 * time.Millisecond, Trust: 100 * time.Millisecond}),
		w.over(t, w.inner(t), sealed.Config{Master: file.read(t), Poll: 20 * time.Millisecond, Trust: 100 * time.Millisecond}),
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var appended atomic.Int64
	progress := make(chan struct{}, 1)
	var wg sync.WaitGroup
	for i, s := range nodes {
		wg.Go(func() {
			id := grain("acme", fmt.Sprint("k", i))
			f := acquire(t, s, id)
			for head := int64(0); ctx.Err() == nil; head++ {
				want := fmt.Appendf(nil, "event %d", head+1)
				err := s.Append(context.Background(), f, journal.Batch{Head: head, Events: []journal.Event{{Seq: head + 1, Type: "t", Data: want}}})
				if err != nil {
					t.Error(err)
					return
				}
				list, err := nodes[1-i].Events(context.Background(), id, head, 1) // through the other node, at once
				if err != nil || !bytes.Equal(list[0].Data, want) {
					t.Errorf("event %d: %+v, %v", head+1, list, err)
					return
				}
				appended.Add(1)
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	for round := range 10 {
		<-progress
		switch round % 3 {
		case 0, 1:
			if _, err := nodes[round%2].Rotate(ctx, "acme"); err != nil && !errors.Is(err, sealed.ErrUnknownTenant) {
				t.Error(err)
			}
		case 2:
			fresh, err := sealed.NewMasterKey()
			check(t, err)
			old, _ := file.load(ctx)
			file.set(append(bytes.Clone(old), fresh...)) // known everywhere, then the first
			file.set(append(bytes.Clone(fresh), old...))
			done, err := nodes[round%2].RotateMaster(ctx, 0)
			if err != nil || !done.Complete {
				t.Errorf("rotation of the master key: %+v, %v", done, err)
			}
		}
	}
	last, err := nodes[0].Rotate(ctx, "acme")
	check(t, err)
	for w.count(t, "SELECT count(*) FROM events WHERE id = 'k1' AND upper(encode(data, 'hex')) LIKE '____01"+strings.ToUpper(last.Primary)+"%'") == 0 {
		<-progress // the other node comes to use it
	}
	cancel()
	wg.Wait()
	for _, s := range nodes {
		if st := s.Stats(); st != (sealed.Stats{}) {
			t.Errorf("failures were counted: %+v", st)
		}
	}
	t.Logf("%d events through rotations", appended.Load())
}

// I2: the master key is rotated in steps that may stop anywhere, from any node. A node
// without the new key waits for it; the old key can go afterwards.
func TestI2_MasterKeyIsRotatedInSteps(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		file := newKeysFile(t)
		s := w.over(t, w.inner(t), sealed.Config{Master: file.read(t), Lone: true})
		var all []*planted
		for i := range 5 {
			all = append(all, plant(t, s, fmt.Sprint("t", i), "k"))
		}
		check(t, s.Destroy(t.Context(), "t4"))
		all = all[:4]
		old, _ := file.load(t.Context())
		fresh, err := sealed.NewMasterKey()
		check(t, err)
		file.set(append(bytes.Clone(fresh), old...))
		steps := 0
		for complete := false; !complete; steps++ {
			done, err := s.RotateMaster(t.Context(), 1) // a nanosecond: at most one record
			check(t, err)
			if steps > 20 {
				t.Fatal("it does not end")
			}
			if complete = done.Complete; !complete && done.Wrapped == 0 {
				done, err = s.RotateMaster(t.Context(), 0)
				check(t, err)
				complete = done.Complete
			}
		}
		if done, err := s.RotateMaster(t.Context(), 0); err != nil || done.Wrapped != 0 || !done.Complete {
			t.Fatalf("a second rotation: %+v, %v", done, err)
		}
		list, err := s.List(t.Context(), "", 100)
		check(t, err)
		for _, k := range list {
			if k.Master != s2Master(t, fresh) && !k.Destroyed {
				t.Errorf("%s is wrapped by %s", k.Tenant, k.Master)
			}
		}
		wantReadable(t, s, all...)
		check(t, s.Close())
		inner := w.inner(t)
		if _, err := sealed.Open(t.Context(), inner, sealed.Config{Master: fixed(t, old), Lone: true}); !errors.Is(err, sealed.ErrMasterKey) {
			t.Fatalf("the old key alone: %v", err)
		}
		s = w.over(t, inner, sealed.Config{Master: fixed(t, fresh), Lone: true})
		wantReadable(t, s, all...)
	})
}

func fixed(t testing.TB, text sealed.Secret) *sealed.Master {
	t.Helper()
	m, err := sealed.FixedMaster(text)
	check(t, err)
	return m
}

func s2Master(t testing.TB, text sealed.Secret) string { return fixed(t, text).IDs()[0] }

// I2: a node that does not have the new master key yet answers UNAVAILABLE, not that
// data is corrupt, and goes on when it has.
func TestI2_NodeWithoutTheNewMasterKeyWaitsForIt(t *testing.T) {
	w := onPostgres(t)
	first, second := newKeysFile(t), &keysFile{}
	old, _ := first.load(t.Context())
	second.set(old)
	a := w.over(t, w.inner(t), sealed.Config{Master: first.read(t), Poll: 10 * time.Millisecond, Trust: 50 * time.Millisecond})
	b := w.over(t, w.inner(t), sealed.Config{Master: second.read(t), Poll: 10 * time.Millisecond, Trust: 50 * time.Millisecond})
	p := plant(t, a, "acme", "handbook")
	wantReadable(t, b, p)
	fresh, err := sealed.NewMasterKey()
	check(t, err)
	first.set(append(bytes.Clone(fresh), old...))
	_, err = a.RotateMaster(t.Context(), 0)
	check(t, err)
	for {
		_, err := b.Events(t.Context(), p.f.Identity, 0, 10)
		if errors.Is(err, journal.ErrUnavailable) && errors.Is(err, sealed.ErrMasterKey) {
			break
		}
		check(t, err) // until it has looked
	}
	if b.Stats().Keys == 0 {
		t.Error("it was not counted")
	}
	second.set(append(bytes.Clone(fresh), old...))
	wantReadable(t, b, p)
}

// I2: when a tenant's keys are destroyed nothing of it opens, on any node, whatever it
// had cached or begun to read. A tenant of the same name gets other keys.
func TestI2_DestroyedTenantIsUnreadableOnEveryNode(t *testing.T) {
	w := onPostgres(t)
	cfg := sealed.Config{Poll: 20 * time.Millisecond, Trust: 200 * time.Millisecond}
	a, b := w.over(t, w.inner(t), cfg), w.over(t, w.inner(t), cfg)
	p, other := plant(t, a, "acme", "handbook"), plant(t, a, "other", "k")
	check(t, a.SaveSnapshot(t.Context(), p.f, journal.Snapshot{Seq: 2, State: []byte("gone"), Blank: true}))
	wantReadable(t, b, p, other)
	half, _, err := b.OpenBlob(t.Context(), "acme", p.blobs[2].ID)
	check(t, err)
	defer half.Close()
	_, err = half.Read(make([]byte, 10))
	check(t, err)

	check(t, a.Destroy(t.Context(), "acme"))
	for i, s := range []*sealed.Store{a, b} {
		for what, read := range p.reads(t.Context(), s) {
			err := read()
			if what == "snapshot" { // the blank one
				check(t, err)
				continue
			}
			want := journal.ErrCorrupt
			if what == "response" || what == "vectors" { // not even found
				want = nil
			}
			if want != nil && !errors.Is(err, want) {
				t.Errorf("node %d: %s: %v", i, what, err)
			}
		}
	}
	if _, err := bytes.NewBuffer(nil).ReadFrom(half); !errors.Is(err, journal.ErrCorrupt) {
		t.Errorf("a blob that was being read: %v", err)
	}
	wantReadable(t, a, other)
	wantReadable(t, b, other)
	if b.Stats().Destroyed == 0 || b.Stats().Failures() > 0 {
		t.Errorf("counted %+v", b.Stats())
	}

	again := plant(t, b, "acme", "new") // the name is used again
	wantReadable(t, a, again)
	if _, err := a.Events(t.Context(), p.f.Identity, 0, 10); !errors.Is(err, journal.ErrCorrupt) {
		t.Errorf("an event of the former tenant: %v", err)
	}
	check(t, a.Destroy(t.Context(), "never"))
	for _, name := range []string{"", journal.StoreKeys, journal.MasterKeys} {
		if a.Destroy(t.Context(), name) == nil {
			t.Errorf("destroyed %q", name)
		}
	}
}

// I2: destroyed keys, wrapped as they were, are in no file of the data folder.
func TestI2_DestroyedKeysLeaveNoTraceInTheDataFolder(t *testing.T) {
	w := onFolder(t)
	s := w.open(t)
	p := plant(t, s, "acme", "handbook")
	_, err := s.Rotate(t.Context(), "acme")
	check(t, err)
	rec, err := s.Keys(t.Context(), "acme")
	check(t, err)
	if !bytes.Contains(w.dump(t), rec.Wrapped[:32]) {
		t.Fatal("the wrapped keys are not in the folder: the test shows nothing")
	}
	check(t, s.Destroy(t.Context(), "acme"))
	if bytes.Contains(w.dump(t), rec.Wrapped[:32]) {
		t.Error("the wrapped keys are still there")
	}
	if _, err := s.Events(t.Context(), p.f.Identity, 0, 10); !errors.Is(err, journal.ErrCorrupt) {
		t.Errorf("events of a destroyed tenant: %v", err)
	}
	if o, err := s.Owner(t.Context(), p.f.Identity); err != nil || !bytes.Equal(o.Hash, p.secrets["link"]) {
		t.Errorf("the owner row of a destroyed tenant: %+v, %v", o, err)
	}
}

// fakeKMS is a key service that keeps its key to itself.
type fakeKMS struct{}

func (fakeKMS) Wrap(_ context.Context, plain sealed.Secret, bind []byte) ([]byte, error) {
	return append([]byte("wrapped:"+string(bind)+":"), flip(plain)...), nil
}

func (fakeKMS) Unwrap(_ context.Context, wrapped, bind []byte) (sealed.Secret, error) {
	b, ok := bytes.CutPrefix(wrapped, []byte("wrapped:"+string(bind)+":"))
	if !ok {
		return nil, errors.New("not mine")
	}
	return flip(b), nil
}

func flip(b []byte) []byte {
	out := bytes.Clone(b)
	for i := range out {
		out[i] ^= 0x5a
	}
	return out
}

// I2: with a key service the master key is in the store, wrapped; rotating it makes a
// new one, which other nodes find by themselves.
func TestI2_KeyServiceWrapsTheMasterKey(t *testing.T) {
	w := onPostgres(t)
	open := func() *sealed.Store {
		inner := w.inner(t)
		m, err := sealed.KMSMaster(t.Context(), inner, fakeKMS{}, "test-kms://key")
		check(t, err)
		return w.over(t, inner, sealed.Config{Master: m, Poll: 10 * time.Millisecond, Trust: 50 * time.Millisecond})
	}
	a, b := open(), open()
	p := plant(t, a, "acme", "handbook")
	wantReadable(t, b, p)
	first, err := a.RotateMaster(t.Context(), 0)
	check(t, err)
	second, err := b.RotateMaster(t.Context(), 0)
	check(t, err)
	if first.Master == second.Master || !first.Complete || first.Wrapped != 2 || second.Wrapped != 2 {
		t.Fatalf("rotated to %+v and %+v", first, second)
	}
	wantReadable(t, a, p)
	wantReadable(t, open(), p)
	list, err := a.List(t.Context(), "", 1)
	if err != nil || len(list) != 1 || list[0].Tenant != journal.StoreKeys {
		t.Fatalf("listed %+v, %v", list, err)
	}
}

// brokenKeys is a store whose keys cannot be changed, and a key service that does not wrap.
type brokenKeys struct{ sealed.Inner }

// PutKeys implements journal.KeyStore.
func (brokenKeys) PutKeys(context.Context, journal.KeyRecord) error { return journal.ErrUnavailable }

// DestroyKeys implements journal.KeyStore.
func (brokenKeys) DestroyKeys(context.Context, string) error { return journal.ErrUnavailable }

// F4: rotations and destructions that fail are counted, as are values that open and
// hold what nobody wrote.
func TestF4_FailuresOfRotationsAreCounted(t *testing.T) {
	w := onFolder(t)
	file := newKeysFile(t)
	old, _ := file.load(t.Context())
	s := w.over(t, w.inner(t), sealed.Config{Master: fixed(t, old), Lone: true})
	plant(t, s, "acme", "k")
	check(t, s.Close())
	s = w.over(t, brokenKeys{w.inner(t)}, sealed.Config{Master: file.read(t), Lone: true})
	fresh, err := sealed.NewMasterKey()
	check(t, err)
	fails := map[string]func() error{
		"rotation":    func() error { _, err := s.Rotate(t.Context(), "acme"); return err },
		"destruction": func() error { return s.Destroy(t.Context(), "acme") },
		"rotation of the master key": func() error {
			file.set(append(bytes.Clone(fresh), old...))
			_, err := s.RotateMaster(t.Context(), 0)
			return err
		},
		"a master key that is none": func() error {
			file.set(sealed.Secret("nonsense"))
			_, err := s.RotateMaster(t.Context(), 0)
			return err
		},
		"a secret": func() error {
			_, err := s.Secret(t.Context(), "new", &plainPlace{}, made("made"))
			return err
		},
	}
	for what, do := range fails {
		before := s.Stats().Keys
		if err := do(); !errors.Is(err, journal.ErrUnavailable) && !errors.Is(err, sealed.ErrMasterKey) {
			t.Errorf("%s: %v", what, err)
		}
		if n := s.Stats().Keys - before; n != 1 {
			t.Errorf("%s: %d failures were counted", what, n)
		}
	}
}
