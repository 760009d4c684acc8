//go:build unix

package sealed_test

import (
	"bytes"
	"context"
	"database/sql"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // tests change tables behind the store's back
	_ "modernc.org/sqlite"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/sealed"
)

// db opens the tables behind the store's back.
func (w *world) db(t testing.TB) *sql.DB {
	t.Helper()
	path := url.URL{Path: filepath.Join(w.dir, "granary.db")}
	driver, source := "sqlite", "file:"+path.EscapedPath()+"?_pragma=busy_timeout(5000)"
	if w.url != "" {
		driver, source = "pgx", w.url
	}
	db, err := sql.Open(driver, source)
	check(t, err)
	t.Cleanup(func() { check(t, db.Close()) })
	return db
}

// exec changes rows behind the store's back, and fails if it changed none.
func (w *world) exec(t testing.TB, query string) {
	t.Helper()
	db := w.db(t)
	for q := range strings.SplitSeq(query, ";") {
		res, err := db.Exec(q)
		check(t, err)
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			t.Fatalf("%s changed nothing: %v", q, err)
		}
	}
	check(t, db.Close())
}

func grain(tenant, id string) journal.Identity {
	return journal.Identity{Kind: "kb", Tenant: tenant, ID: id}
}

func acquire(t testing.TB, s journal.Store, id journal.Identity) journal.Fence {
	t.Helper()
	f, _, err := s.Acquire(t.Context(), id, journal.Claim{Node: "n"})
	check(t, err)
	return f
}

// planted is what a tenant says that must never be readable below encryption.
type planted struct {
	f       journal.Fence
	scope   journal.Scope
	key     journal.IdempotencyKey
	blobs   []journal.BlobInfo
	secrets map[string][]byte
}

// secretHash stands for the SHA-256 of what somebody else may guess.
const secretHash = "5ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2"

// vector is one whose bytes are told from any others.
var vector = []float32{1.0000101, 2.0000202, 3.0000303, 4.0000405}

// secretOf tells of a tenant what nobody may know; long enough to be packed.
func secretOf(tenant, what string) []byte {
	return []byte("SECRET-of-" + tenant + "-in-" + what)
}

// plant writes one of everything that a knowledge base keeps.
func plant(t testing.TB, s *sealed.Store, tenant, kb string) *planted {
	t.Helper()
	ctx := t.Context()
	p := &planted{f: acquire(t, s, grain(tenant, kb)), scope: journal.Scope{Tenant: tenant, UID: "uid-" + kb}, secrets: map[string][]byte{}}
	say := func(what string) []byte {
		p.secrets[what] = secretOf(tenant, what)
		return p.secrets[what]
	}
	p.key = journal.IdempotencyKey{Principal: "alice", Method: "m", Key: string(say("request-key"))}
	p.secrets["link"] = bytes.Repeat([]byte("LNK!"), journal.HashSize/4)
	check(t, s.Append(ctx, p.f, journal.Batch{
		Events: []journal.Event{{Seq: 1, Time: time.Now(), Type: "t", Data: say("event")},
			{Seq: 2, Time: time.Now(), Type: "t", Data: say("other-event"), Hash: p.secrets["link"]}},
		Idempotency: []journal.Idempotency{{IdempotencyKey: p.key, RequestHash: string(say("request-hash")), Response: say("response"),
			Expires: time.Now().Add(time.Hour)}},
		SetDeadLetters: []journal.DeadLetter{{Key: "d", Name: string(say("name")), Reason: "QUARANTINED", Since: time.Now()}},
	}))
	check(t, s.SaveSnapshot(ctx, p.f, journal.Snapshot{Seq: 2, State: say("snapshot"), Hash: p.secrets["link"]}),
		s.SaveIndex(ctx, p.f, bytes.Repeat(say("index"), 20_000)))
	p.secrets["hash"] = []byte(secretHash)
	a := journal.Attempt{Scope: p.scope, Document: "d", Version: 1, ID: "a"}
	check(t, s.PutChunks(ctx, p.f, a, []journal.Chunk{
		{Ordinal: 0, Text: string(say("text")), Headings: []string{string(say("heading"))}, Language: "qq", Hash: secretHash},
		{Ordinal: 1, Text: string(say("other-text")), Hash: "h1"},
	}), s.PutVectors(ctx, p.f, p.scope, "m", []journal.Vectors{{Hash: secretHash, Data: [][]float32{vector}}, {Hash: "h1", Data: [][]float32{{9, 9}}}}))
	for _, n := range []int{1, 100, 20_000} {
		p.blobs = append(p.blobs, putBlob(t, s, tenant, bytes.Repeat(say("blob"), n)))
	}
	for _, b := range p.blobs {
		p.secrets["sha256 "+b.ID] = []byte(b.SHA256)
	}
	return p
}

func putBlob(t testing.TB, s journal.BlobStore, tenant string, data []byte) journal.BlobInfo {
	t.Helper()
	w, err := s.CreateBlob(t.Context(), tenant)
	check(t, err)
	defer w.Abort()
	_, err = w.Write(data)
	check(t, err)
	info, err := w.Commit(t.Context())
	check(t, err)
	return info
}

func readBlob(ctx context.Context, s journal.BlobStore, tenant, id string) ([]byte, error) {
	r, _, err := s.OpenBlob(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// reads are all ways of reading what was planted, by what they read.
func (p *planted) reads(ctx context.Context, s *sealed.Store) map[string]func() error {
	id := p.f.Identity
	out := map[string]func() error{
		"event": func() error { _, err := s.Events(ctx, id, 0, 10); return err },
		"response": func() error {
			_, ok, err := s.FindIdempotency(ctx, p.f, p.key)
			if err == nil && !ok {
				return journal.ErrNotFound
			}
			return err
		},
		"snapshot": func() error { _, err := s.LoadSnapshot(ctx, id); return err },
		"index":    func() error { _, err := s.LoadIndex(ctx, id); return err },
		"chunks":   func() error { _, err := s.Chunks(ctx, p.scope, "a", -1, 10); return err },
		"chunk by reference": func() error {
			_, err := s.ChunksByRef(ctx, p.scope, []journal.ChunkRef{{Attempt: "a", Ordinal: 0}})
			return err
		},
		"vectors": func() error { _, err := s.VectorsByHash(ctx, p.scope, "m", []string{secretHash, "h1"}); return err },
	}
	for i, size := range []string{"small blob", "blob", "large blob"} {
		out[size] = func() error { _, err := readBlob(ctx, s, p.scope.Tenant, p.blobs[i].ID); return err }
	}
	return out
}
