//go:build unix

package trail_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"go.uber.org/goleak"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/journal/trail"
	"granary.dev/granary/storage/embedded"
	"granary.dev/granary/storage/pgtest"
	"granary.dev/granary/storage/postgres"
)

var shared = pgtest.New(pgtest.Options{Migrate: func(ctx context.Context, url string) error {
	s, err := postgres.Open(ctx, postgres.Config{URL: postgres.Secret(url)})
	if err != nil {
		return err
	}
	return s.Close()
}})

func TestMain(m *testing.M) {
	code := m.Run()
	if err := errors.Join(shared.Close(), goleak.Find()); err != nil {
		slog.Error("after the tests", "err", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func check(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// store is what a test fills and reads; db changes its rows behind its back.
type store interface {
	journal.Store
	journal.AuditStore
	journal.Directory
}

type world struct {
	store
	*testing.T
	db     *sql.DB
	lite   bool
	signer *trail.Signer
	maker  *trail.Maker
	clock  time.Time
	fences map[string]journal.Fence
	chains map[string]*journal.Chain
}

// each runs a test over both stores.
func each(t *testing.T, test func(*world)) {
	t.Run("embedded", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "data")
		s, err := embedded.Open(t.Context(), embedded.Config{Dir: dir})
		check(t, err)
		t.Cleanup(func() { check(t, s.Close()) })
		db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "granary.db"))
		check(t, err)
		test(newWorld(t, s, db, true))
	})
	t.Run("postgres", func(t *testing.T) {
		url := shared.Database(t)
		s, err := postgres.Open(t.Context(), postgres.Config{URL: postgres.Secret(url)})
		check(t, err)
		t.Cleanup(func() { check(t, s.Close()) })
		db, err := sql.Open("pgx", url)
		check(t, err)
		test(newWorld(t, s, db, false))
	})
}

func newWorld(t *testing.T, s store, db *sql.DB, lite bool) *world {
	t.Cleanup(func() { check(t, db.Close()) })
	text, err := trail.NewKeyPEM()
	check(t, err)
	signer, err := trail.ParseSigner(text)
	check(t, err)
	w := &world{store: s, T: t, db: db, lite: lite, signer: signer, clock: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC),
		fences: map[string]journal.Fence{}, chains: map[string]*journal.Chain{}}
	w.maker = &trail.Maker{Store: s, Signer: signer, Now: w.now}
	return w
}

func (w *world) now() time.Time {
	w.clock = w.clock.Add(time.Second)
	return w.clock
}

// events appends n chained events to a grain of acme.
func (w *world) events(kind, id string, n int) {
	w.Helper()
	ident := journal.Identity{Kind: kind, Tenant: "acme", ID: id}
	f, ok := w.fences[ident.String()]
	if !ok {
		var err error
		f, _, err = w.Acquire(w.Context(), ident, journal.Claim{Node: "n"})
		check(w, err)
		w.fences[ident.String()], w.chains[ident.String()] = f, &journal.Chain{}
	}
	c := w.chains[ident.String()]
	for range n {
		e := journal.Event{Seq: c.Seq + 1, Time: w.now(), Type: "document.added", Data: fmt.Appendf(nil, "data %d", c.Seq), Principal: "ada",
			RequestID: "r", Remote: "192.0.2.1"}
		e.Hash = journal.Link(c.Hash, ident, e)
		check(w, w.Append(w.Context(), f, journal.Batch{Head: c.Seq, Events: []journal.Event{e}}))
		c.Seq, c.Hash = e.Seq, e.Hash
	}
}

func (w *world) erase(kind, id string) {
	w.Helper()
	key := journal.Identity{Kind: kind, Tenant: "acme", ID: id}.String()
	check(w, w.SaveSnapshot(w.Context(), w.fences[key], journal.Snapshot{Seq: w.chains[key].Seq, State: []byte("s"), Hash: w.chains[key].Hash}),
		w.Erase(w.Context(), w.fences[key]))
}

// accesses adds n records to a stream of acme.
func (w *world) accesses(stream string, n int) {
	w.Helper()
	c := w.chains[stream]
	if c == nil {
		c = &journal.Chain{}
		w.chains[stream] = c
	}
	for range n {
		a := journal.Access{Tenant: "acme", Stream: stream, Seq: c.Seq + 1, Time: w.now(), Phase: "end", Principal: "ada", Credential: "token",
			KeyID: "k", Method: "m", Resource: "knowledgeBases/handbook", Remote: "192.0.2.1", RequestID: "r", Code: "ok", Reason: "", Duration: time.Millisecond, Count: 1}
		a.Hash = journal.LinkAccess(c.Hash, a)
		check(w, w.PutAccesses(w.Context(), []journal.Access{a}))
		c.Seq, c.Hash = a.Seq, a.Hash
	}
}

func (w *world) checkpoint() journal.Checkpoint {
	w.Helper()
	c, ok, err := w.maker.Make(w.Context(), "acme")
	check(w, err)
	if !ok {
		w.Fatal("no checkpoint")
	}
	return c
}

// fill makes a tenant with some history.
func (w *world) fill() {
	w.Helper()
	w.events("tenant", "acme", 2)
	w.events("kb", "handbook", 3)
	w.events("kb", "gone", 3)
	w.accesses("n#1", 3)
	w.checkpoint()
	w.erase("kb", "gone")
	w.events("kb", "gone", 2)
	w.events("kb", "handbook", 2)
	w.accesses("n#1", 2)
	w.checkpoint()
	w.accesses("n#2", 3)
	key := journal.Identity{Kind: "kb", Tenant: "acme", ID: "handbook"}.String()
	check(w, w.SaveSnapshot(w.Context(), w.fences[key], journal.Snapshot{Seq: 5, State: []byte("state"), Hash: w.chains[key].Hash}))
	w.checkpoint()
	if n := w.checkpoint(); n.Number != 3 {
		w.Fatalf("checkpoint %d, though nothing had changed", n.Number)
	}
}

// export gives the lines of an export.
func (w *world) export(data bool) []byte {
	w.Helper()
	var out bytes.Buffer
	check(w, trail.Export(w.Context(), w, w.signer.Public(), "acme", data, lines(&out)))
	return out.Bytes()
}

// lines writes items as an export has them.
func lines(out *bytes.Buffer) func(trail.Item) error {
	enc := json.NewEncoder(out)
	return func(i trail.Item) error { return enc.Encode(i) }
}

func (w *world) verify() *trail.Report {
	w.Helper()
	r, err := trail.Read(bytes.NewReader(w.export(true)), w.signer.Public())
	check(w, err)
	return r
}

func (w *world) wantGood() *trail.Report {
	w.Helper()
	r := w.verify()
	if !r.Good() {
		w.Fatalf("problems: %v", r.Problems)
	}
	return r
}

func TestI1_WholeAuditIsVerifiedFromAnExport(t *testing.T) {
	each(t, func(w *world) {
		w.fill()
		r := w.wantGood()
		if r.Journals != 3 || r.Events != 2+5+2 || r.Streams != 2 || r.Accesses != 8 || r.Checkpoints != 3 || r.Last != 3 || r.Unchained != 0 ||
			len(r.Erased) != 1 || r.Erased[0] != (trail.Erasure{Chain: "journal/kb/gone", Seq: 3}) || r.Uncovered != 0 {
			w.Fatalf("%+v", r)
		}
		w.events("kb", "handbook", 2)
		if r := w.wantGood(); r.Uncovered != 2 {
			w.Fatalf("two events came after the checkpoint: %+v", r)
		}
		// Without the data it is as good, and holds none.
		bare := w.export(false)
		if bytes.Contains(bare, []byte(`"data"`)) {
			w.Fatal("an export without data has some")
		}
		again, err := trail.Read(bytes.NewReader(bare), w.signer.Public())
		check(w, err)
		if !again.Good() {
			w.Fatal(again.Problems)
		}
		// Who has another key is told so.
		text, err := trail.NewKeyPEM()
		check(w, err)
		other, err := trail.ParseSigner(text)
		check(w, err)
		foreign, err := trail.Read(bytes.NewReader(bare), other.Public())
		check(w, err)
		if foreign.Good() || !strings.Contains(foreign.Problems[0].What, "unknown key") {
			w.Fatal(foreign.Problems)
		}
		// A signer with a new key still vouches for what the earlier one signed.
		public, err := w.signer.Public().PEM()
		check(w, err)
		both, err := trail.ParseSigner(append(text, public...))
		check(w, err)
		w.signer, w.maker.Signer = both, both
		w.checkpoint()
		w.wantGood()
	})
}

func TestI1_ManyCheckpointsAddUp(t *testing.T) {
	each(t, func(w *world) {
		w.fill()
		for range 140 {
			w.events("kb", "handbook", 1)
			w.checkpoint()
		}
		if r := w.wantGood(); r.Checkpoints != 143 {
			w.Fatalf("%+v", r)
		}
	})
}

func TestI1_CutOrChangedExportIsNoticed(t *testing.T) {
	dir := t.TempDir()
	s, err := embedded.Open(t.Context(), embedded.Config{Dir: filepath.Join(dir, "data")})
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "data", "granary.db"))
	check(t, err)
	w := newWorld(t, s, db, true)
	w.fill()
	lines := bytes.SplitAfter(bytes.TrimSuffix(w.export(true), []byte("\n")), []byte("\n"))
	read := func(what string, lines [][]byte) {
		t.Helper()
		r, err := trail.Read(bytes.NewReader(bytes.Join(lines, nil)), w.signer.Public())
		if err == nil && r.Good() {
			t.Errorf("%s: nothing is noticed", what)
		}
	}
	for i := range lines {
		read(fmt.Sprintf("without line %d: %s", i, lines[i]), append(append([][]byte{}, lines[:i]...), lines[i+1:]...))
		read(fmt.Sprintf("line %d twice: %s", i, lines[i]), append(append([][]byte{}, lines[:i+1]...), lines[i:]...))
		if i > 0 {
			read(fmt.Sprintf("cut behind line %d", i), lines[:i])
			swapped := append([][]byte{}, lines...)
			swapped[i-1], swapped[i] = append(bytes.TrimSuffix(swapped[i], []byte("\n")), '\n'), swapped[i-1]
			read(fmt.Sprintf("lines %d and %d change places: %s", i-1, i, lines[i]), swapped)
		}
	}
}

func FuzzRead(f *testing.F) {
	text, err := trail.NewKeyPEM()
	check(f, err)
	signer, err := trail.ParseSigner(text)
	check(f, err)
	f.Add([]byte(`{"header":{"format":"granary audit 1","tenant":"t"}}{"journal":{"kind":"kb","id":"k","head":1}}{"event":{"seq":1,"hash":"AA=="}}{"journal_end":{"kind":"kb","id":"k"}}{"stream":{"stream":"s","seq":1}}{"access":{"seq":1}}{"checkpoint":{"number":1,"body":"e30="}}{"unreadable":{}}{"end":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := trail.Read(bytes.NewReader(b), signer.Public())
		if err == nil && r.Good() && !bytes.Contains(b, []byte("end")) {
			t.Fatal("what is no export is good")
		}
	})
}
