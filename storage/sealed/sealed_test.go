//go:build unix

package sealed_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/sealed"
)

// I2: what tenants keep is in no file of the data folder and in no table.
func TestI2_NothingIsStoredInPlain(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		s := w.open(t)
		p := plant(t, s, "acme", "handbook")
		var floats []byte
		for _, x := range vector {
			floats = binary.LittleEndian.AppendUint32(floats, math.Float32bits(x))
		}
		p.secrets["vector"] = floats
		for what, read := range p.reads(t.Context(), s) {
			if err := read(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		check(t, s.Close())
		dump := w.dump(t)
		if len(dump) < 100_000 || !bytes.Contains(dump, []byte("handbook")) {
			t.Fatalf("the dump of %d bytes shows nothing", len(dump))
		}
		for what, secret := range p.secrets {
			for form, b := range map[string][]byte{"plain": secret, "hex": []byte(hex.EncodeToString(secret)),
				"base64": []byte(strings.TrimRight(base64.StdEncoding.EncodeToString(secret[:len(secret)/3*3]), "="))} {
				if bytes.Contains(dump, b) {
					t.Errorf("%s is stored in %s", what, form)
				}
			}
		}
	})
}

// dump gives all bytes below: files, or the rows of all tables.
func (w *world) dump(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	if w.dir != "" {
		err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			out.WriteString(path)
			out.Write(data)
			return err
		})
		check(t, err)
		return out.Bytes()
	}
	db := w.db(t)
	rows, err := db.Query(`SELECT tablename FROM pg_tables WHERE schemaname = 'public'`)
	check(t, err)
	var tables []string
	for rows.Next() {
		var name string
		check(t, rows.Scan(&name))
		tables = append(tables, name)
	}
	check(t, rows.Err())
	for _, table := range tables {
		rows, err := db.Query(`SELECT t::text FROM "` + table + `" t`)
		check(t, err)
		for rows.Next() {
			var row string
			check(t, rows.Scan(&row))
			out.WriteString(row) // bytea in hex
			if blob, err := hex.DecodeString(strings.Trim(row, `()"\x`)); err == nil {
				out.Write(blob)
			}
		}
		check(t, rows.Err())
	}
	return out.Bytes()
}

// forgery is a change of rows that a reader must notice.
type forgery struct {
	name, query string
	read        string // what of planted.reads meets it
	only        string // one kind of store
}

func forgeries() []forgery {
	move := func(table, columns, to, from string) string {
		return fmt.Sprintf("UPDATE %[1]s SET (%[2]s) = (SELECT %[2]s FROM %[1]s WHERE %[4]s) WHERE %[3]s", table, columns, to, from)
	}
	mine := "tenant = 'acme' AND id = 'handbook'"
	scope := "tenant = 'acme' AND uid = 'uid-handbook'"
	return []forgery{
		{name: "event of another seq", read: "event", query: move("events", "data", mine+" AND seq = 1", mine+" AND seq = 2")},
		{name: "event of another knowledge base", read: "event", query: move("events", "data", mine+" AND seq = 1", "tenant = 'acme' AND id = 'other' AND seq = 1")},
		{name: "event of another tenant", read: "event", query: move("events", "data", mine+" AND seq = 1", "tenant = 'rival' AND id = 'handbook' AND seq = 1")},
		{name: "event of another type", read: "event", query: "UPDATE events SET type = 'forged' WHERE " + mine + " AND seq = 2"},
		{name: "event in plain", read: "event", query: "UPDATE events SET data = CAST('{}' AS PLAIN) WHERE " + mine + " AND seq = 1"},
		{name: "empty event", read: "event", query: "UPDATE events SET data = CAST('' AS PLAIN) WHERE " + mine + " AND seq = 1"},
		{name: "snapshot of another knowledge base", read: "snapshot", query: move("snapshots", "state, state_sum", mine, "tenant = 'acme' AND id = 'other'")},
		{name: "response of another tenant", read: "response", query: move("idempotency", "response", mine, "tenant = 'rival' AND id = 'handbook'")},
		{name: "index of another knowledge base", read: "index", query: move("index_parts", "data", mine+" AND part = 0", "tenant = 'acme' AND id = 'other' AND part = 0") + ";" +
			move("indexes", "sum", mine, "tenant = 'acme' AND id = 'other'")},
		{name: "chunk of another place", read: "chunks", query: move("chunks", "text", scope+" AND ordinal = 0", scope+" AND ordinal = 1")},
		{name: "chunk of another knowledge base", read: "chunk by reference", query: move("chunks", "text", scope+" AND ordinal = 0",
			"tenant = 'acme' AND uid = 'uid-other' AND ordinal = 0")},
		{name: "chunk of another tenant", read: "chunks", query: move("chunks", "text", scope+" AND ordinal = 0",
			"tenant = 'rival' AND uid = 'uid-handbook' AND ordinal = 0")},
		{name: "chunk in plain", read: "chunks", query: "UPDATE chunks SET text = CAST('forged' AS TEXTTYPE) WHERE " + scope + " AND ordinal = 0"},
		{name: "vectors of another chunk", read: "vectors", query: move("vectors", "data", scope, scope+" ORDER BY hash LIMIT 1")},
		{name: "vectors of another space", read: "vectors", query: "UPDATE vectors SET space = 3 WHERE " + scope},
		{name: "note of another blob", read: "small blob", query: "UPDATE blobs SET note = (SELECT note FROM blobs WHERE id = 'BLOB1') WHERE id = 'BLOB0'"},
		{name: "no note", read: "small blob", query: "UPDATE blobs SET note = NULL WHERE id = 'BLOB0'"},
		{name: "bytes of another blob", read: "small blob", only: "embedded", query: "UPDATE blobs SET data = (SELECT data FROM blobs WHERE id = 'BLOB1') WHERE id = 'BLOB0'"},
		{name: "blob cut off", read: "large blob", only: "postgres", query: "UPDATE blob_parts SET data = substr(data, 1, 65573) WHERE id = 'BLOB2' AND part = 0"},
		{name: "frames in another order", read: "large blob", only: "postgres",
			query: "UPDATE blob_parts SET data = substr(data, 65574, 65573) || substr(data, 1, 65573) || substr(data, 131147) WHERE id = 'BLOB2' AND part = 0"},
		{name: "bytes of another blob", read: "small blob", only: "postgres", query: "UPDATE blob_parts SET data = (SELECT data FROM blob_parts WHERE id = 'BLOB1') WHERE id = 'BLOB0'"},
		{name: "more after the blob", read: "small blob", only: "postgres", query: "UPDATE blob_parts SET data = data || data WHERE id = 'BLOB0'"},
	}
}

// I2, I13: a value that was changed, or put where another was, does not open; the
// grain's other values do, and so do all others.
func TestI2_ForgedRowsAreNoticed(t *testing.T) {
	for _, f := range forgeries() {
		onEach(t, func(t *testing.T, w *world) {
			kind, plain, text := "embedded", "BLOB", "TEXT"
			if w.url != "" {
				kind, plain, text = "postgres", "bytea", "bytea"
			}
			if f.only != "" && f.only != kind {
				return
			}
			t.Run(f.name, func(t *testing.T) {
				s := w.open(t)
				p := plant(t, s, "acme", "handbook")
				others := []*planted{plant(t, s, "acme", "other"), plant(t, s, "rival", "handbook")}
				r := strings.NewReplacer("AS PLAIN", "AS "+plain, "AS TEXTTYPE", "AS "+text, "BLOB0", p.blobs[0].ID, "BLOB1", p.blobs[1].ID, "BLOB2", p.blobs[2].ID)
				w.exec(t, r.Replace(f.query))
				for what, read := range p.reads(t.Context(), s) {
					if err := read(); what == f.read && !errors.Is(err, journal.ErrCorrupt) {
						t.Errorf("%s: %v", what, err)
					}
				}
				for _, o := range others {
					for what, read := range o.reads(t.Context(), s) {
						if err := read(); err != nil {
							t.Errorf("%s of %s: %v", what, o.f.Identity, err)
						}
					}
				}
				if st := s.Stats(); st.Failures() == 0 {
					t.Errorf("nothing was counted: %+v", st)
				}
			})
		})
	}
}

// F4: a dead letter whose name does not open is listed without it.
func TestF4_ForgedNameDoesNotHideOtherDeadLetters(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		s := w.open(t)
		plant(t, s, "acme", "a")
		plant(t, s, "acme", "b")
		w.exec(t, "UPDATE dead_letters SET name = (SELECT name FROM dead_letters WHERE id = 'b') WHERE id = 'a'")
		list, err := s.DeadLetters(t.Context(), journal.DeadLetterRow{}, 10)
		check(t, err)
		if len(list) != 2 || list[0].Name != "(unreadable)" || list[1].Name != string(secretOf("acme", "name")) {
			t.Fatalf("got %+v", list)
		}
	})
}

// I2: another master key than the store's is refused, and changes nothing.
func TestI2_WrongMasterKeyIsRefused(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		s := w.open(t)
		p := plant(t, s, "acme", "handbook")
		check(t, s.Close())
		before := w.dump(t)
		inner := w.inner(t)
		_, err := sealed.Open(t.Context(), inner, sealed.Config{Master: newMaster(t), Lone: true})
		if !errors.Is(err, sealed.ErrMasterKey) || !strings.Contains(err.Error(), w.master.IDs()[0]) {
			t.Fatalf("got %v", err)
		}
		check(t, inner.Close())
		if w.url != "" && !bytes.Equal(before, w.dump(t)) {
			t.Fatal("a refused start changed something")
		}
		s = w.open(t)
		for what, read := range p.reads(t.Context(), s) {
			if err := read(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// I2: secrets print as [redacted], whatever prints them.
func TestI2_SecretsDoNotPrint(t *testing.T) {
	text, err := sealed.NewMasterKey()
	check(t, err)
	m, err := sealed.FixedMaster(text)
	check(t, err)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		for _, secret := range []any{text, m} {
			if got := fmt.Sprintf(verb, secret); got != "[redacted]" {
				t.Errorf("%s of %T prints %s", verb, secret, got)
			}
		}
	}
	for _, bad := range []sealed.Secret{nil, sealed.Secret("# nothing\n"), sealed.Secret("SECRETSECRET\n"), append(text, text...)} {
		_, err := sealed.FixedMaster(bad)
		if !errors.Is(err, sealed.ErrMasterKey) || strings.Contains(err.Error(), "SECRETSECRET") || strings.Contains(err.Error(), strings.TrimSpace(string(text))) {
			t.Errorf("got %v", err)
		}
	}
}

// I2: what was written before there were keys stays readable, and nothing that is
// written after is in plain; tenants that came later have nothing in plain at all.
func TestI2_RowsFromBeforeEncryptionAreRead(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		inner := w.inner(t)
		old := acquire(t, inner, grain("old", "k"))
		scope := journal.Scope{Tenant: "old", UID: "u"}
		check(t, inner.Append(ctx, old, journal.Batch{Events: []journal.Event{{Seq: 1, Type: "t", Data: []byte("{}")}}}),
			inner.SaveSnapshot(ctx, old, journal.Snapshot{Seq: 1, State: []byte("{}")}),
			inner.PutChunks(ctx, old, journal.Attempt{Scope: scope, Document: "d", ID: "a"}, []journal.Chunk{{Text: "old text", Hash: "h"}}),
			inner.PutVectors(ctx, old, scope, "m", []journal.Vectors{{Hash: "h", Data: [][]float32{vector}}}))
		blob := putBlob(t, inner, "old", []byte("old blob"))
		s := w.over(t, inner, sealed.Config{Lone: true})
		for round := range 2 { // before and after the tenant has keys
			events, err := s.Events(ctx, old.Identity, 0, 10)
			check(t, err)
			snap, err := s.LoadSnapshot(ctx, old.Identity)
			check(t, err)
			chunks, err := s.Chunks(ctx, scope, "a", -1, 10)
			check(t, err)
			vectors, err := s.VectorsByHash(ctx, scope, "m", []string{chunks[0].Hash, "h"})
			check(t, err)
			data, err := readBlob(ctx, s, "old", blob.ID)
			check(t, err)
			if string(events[0].Data) != "{}" || string(snap.State) != "{}" || chunks[0].Text != "old text" || string(data) != "old blob" ||
				len(vectors[chunks[0].Hash].Data) != 1 {
				t.Fatalf("round %d: %+v, %+v, %+v, %+v, %q", round, events, snap, chunks, vectors, data)
			}
			if round == 0 {
				check(t, s.Append(ctx, old, journal.Batch{Head: 1, Events: []journal.Event{{Seq: 2, Type: "t", Data: []byte("new")}}}))
			}
		}
		// The same chunk of a new version has a hash of its own: its vectors are made anew.
		check(t, s.PutChunks(ctx, old, journal.Attempt{Scope: scope, Document: "d", ID: "b"}, []journal.Chunk{{Text: "old text", Hash: "h"}}))
		if known, err := s.VectorsByHash(ctx, scope, "m", []string{"h"}); err != nil || len(known) != 0 {
			t.Fatalf("vectors from before count for a sealed chunk: %v, %v", known, err)
		}
		check(t, s.PutVectors(ctx, old, scope, "m", []journal.Vectors{{Hash: "h", Data: [][]float32{vector}}}))
		for attempt, want := range map[string]int{"a": 1, "b": 1} {
			if n, embedded, err := s.CountChunks(ctx, scope, attempt, "m"); err != nil || n != 1 || embedded != want {
				t.Fatalf("attempt %s: %d chunks, %d with vectors, %v", attempt, n, embedded, err)
			}
		}
		plant(t, s, "new", "k")
		w.setPlain(t, "new")
		if _, err := s.Events(ctx, grain("new", "k"), 0, 10); !errors.Is(err, journal.ErrCorrupt) {
			t.Fatalf("an unsealed event of a tenant that has none: %v", err)
		}
	})
}

// setPlain puts plain data in place of all of a tenant's events.
func (w *world) setPlain(t *testing.T, tenant string) {
	t.Helper()
	plain := "CAST('{}' AS BLOB)"
	if w.url != "" {
		plain = "CAST('{}' AS bytea)"
	}
	w.exec(t, "UPDATE events SET data = "+plain+" WHERE tenant = '"+tenant+"'")
}
