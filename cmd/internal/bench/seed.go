package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/chunk"
)

const (
	seededKB = "handbook"
	seeders  = 64
)

func tenantName(n int) string { return fmt.Sprintf("tenant-%06d", n) }

// seededText is a chunk of a tenant's document.
func seededText(tenant, n int) string {
	return fmt.Sprintf("Paragraph %d of the handbook of tenant %d says how the service answers a request, which key signs the token, "+
		"how long a report is kept, and whom to ask when the answer is missing. %s.", n, tenant, marker(tenant*chunksPerKB+n))
}

// seed writes tenants with one knowledge base of one finished document each,
// as the grains would have, past them: that is faster by an order of magnitude.
func seed(ctx context.Context, store *watchedStore, tenants int) error {
	return inParallel(seeders, tenants, func(n int) error {
		uid := uuid.NewString()
		now := time.Now().UTC()
		err := seedJournal(ctx, store, journal.Identity{Kind: actors.KindTenant, Tenant: tenantName(n), ID: tenantName(n)},
			&kb.KBRegistered{ID: seededKB, UID: uid, Created: now})
		if err != nil {
			return err
		}
		scope := journal.Scope{Tenant: tenantName(n), UID: uid}
		doc, attempt := uuid.Must(uuid.NewV7()).String(), uuid.NewString()
		kbID := journal.Identity{Kind: actors.KindKB, Tenant: tenantName(n), ID: seededKB}
		fence, _, err := store.Acquire(ctx, kbID, journal.Claim{Node: "seed"})
		if err != nil {
			return err
		}
		if err := seedChunks(ctx, store, fence, scope, doc, attempt, n); err != nil {
			return err
		}
		content := kb.Content{MediaType: "text/markdown", Language: "en", Title: "Handbook"}
		return seedJournal(ctx, store, kbID,
			&kb.Created{UID: uid, DisplayName: "Handbook"},
			&kb.Registered{},
			&kb.DocumentAdded{ID: doc, Version: 1, Name: "handbook.md", Source: kb.Source{Blob: uuid.NewString(), Size: 2000,
				SHA256: fmt.Sprintf("%064x", n)}},
			&kb.DocumentStarted{ID: doc, Version: 1, Attempt: attempt, Stage: kb.StateParsing},
			&kb.DocumentChunked{ID: doc, Version: 1, Attempt: attempt, Chunks: chunksPerKB, Model: "fixed-cost", Content: content},
			&kb.DocumentIndexed{ID: doc, Version: 1, Attempt: attempt, Chunks: chunksPerKB, Model: "fixed-cost", Content: content})
	})
}

// seedJournal writes a grain's events in one commit and gives the grain free.
func seedJournal(ctx context.Context, store *watchedStore, id journal.Identity, events ...kb.Event) error {
	fence, head, err := store.Acquire(ctx, id, journal.Claim{Node: "seed"})
	if err != nil {
		return err
	}
	b := journal.Batch{Head: head}
	var hash []byte
	for i, e := range events {
		typ, data, err := kb.EncodeEvent(e)
		if err != nil {
			return err
		}
		entry := journal.Event{Seq: head + int64(i) + 1, Time: time.Now().UTC().Truncate(time.Microsecond), Type: typ, Data: data, Principal: "seed"}
		hash = journal.Link(hash, id, entry)
		entry.Hash = hash
		b.Events = append(b.Events, entry)
	}
	return errors.Join(store.Append(ctx, fence, b), store.Release(ctx, fence))
}

func seedChunks(ctx context.Context, store *watchedStore, fence journal.Fence, scope journal.Scope, doc, attempt string, tenant int) error {
	rows := make([]journal.Chunk, chunksPerKB)
	vectors := make([]journal.Vectors, chunksPerKB)
	at := 0
	for i := range rows {
		text := seededText(tenant, i)
		c := pipeline.Chunk{Ordinal: i, Text: text, Start: at, End: at + len(text), Language: "en"}
		at = c.End + 1
		rows[i] = journal.Chunk{Ordinal: i, Text: text, Start: c.Start, End: c.End, Language: "en", Hash: chunk.Hash(c, "Handbook"), Model: "fixed-cost"}
		vectors[i] = journal.Vectors{Hash: rows[i].Hash, Data: [][]float32{vectorOf(chunk.EmbedText(c, "Handbook"))}}
	}
	return errors.Join(
		store.PutChunks(ctx, fence, journal.Attempt{Scope: scope, Document: doc, Version: 1, ID: attempt}, rows),
		store.PutVectors(ctx, fence, scope, "fixed-cost", vectors))
}

// seededQuery is a question that one of a tenant's chunks answers best.
func seededQuery(tenant int) string {
	return "how long is a report kept? " + marker(tenant*chunksPerKB+3)
}
