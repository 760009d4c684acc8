package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"

	"granary.dev/granary/actors"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// large measures how long a large knowledge base takes from not being in memory
// to its first answer: once from the rows, then from its index snapshot.
func large(ctx context.Context, args []string) (err error) {
	fs := flag.NewFlagSet("large", flag.ContinueOnError)
	docs := fs.Int("docs", 1000, "documents of 10 chunks each")
	rounds := fs.Int("rounds", 5, "activations from the snapshot to time")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *docs < 1 || *rounds < 1 {
		return errors.New("-docs and -rounds must be above 0")
	}
	c := rigConfig{embedder: newFixedEmbedder(0)}
	if c.dir, err = os.MkdirTemp("", "granary-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.dir)) }()
	r, err := newRig(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close(ctx)) }()
	if err := seedLarge(ctx, r.store, *docs); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	rows, err := largeRound(ctx, r, c)
	if err != nil {
		return err
	}
	var snapshot []time.Duration
	for range *rounds {
		took, err := largeRound(ctx, r, c)
		if err != nil {
			return err
		}
		snapshot = append(snapshot, took)
	}
	row(fmt.Sprintf("P5 activate a knowledge base of %d chunks, first answer", *docs*chunksPerKB), "median "+ms(quantile(snapshot, 0.5)),
		"from its rows, without the snapshot "+ms(rows), fmt.Sprintf("%.1f ×", rows.Seconds()/quantile(snapshot, 0.5).Seconds()),
		fmt.Sprintf("%d documents, 384 dimensions, state and index from snapshots, hybrid search; %d rounds; %s", *docs, *rounds, machine()))
	return nil
}

// largeRound starts the node, times the first answer, and stops the node, which
// saves what changed.
func largeRound(ctx context.Context, r *rig, c rigConfig) (time.Duration, error) {
	if err := r.start(ctx, c); err != nil {
		return 0, err
	}
	start := time.Now()
	err := ask(ctx, r, 0)
	took := time.Since(start)
	return took, errors.Join(err, r.stop(ctx))
}

// seedLarge writes one tenant with one knowledge base of many finished documents.
func seedLarge(ctx context.Context, store *watchedStore, docs int) error {
	uid := uuid.NewString()
	scope := journal.Scope{Tenant: tenantName(0), UID: uid}
	content := kb.Content{MediaType: "text/markdown", Language: "en", Title: "Handbook"}
	events := []kb.Event{&kb.Created{UID: uid, DisplayName: "Handbook"}, &kb.Registered{}}
	type seeded struct{ doc, attempt string }
	ids := make([]seeded, docs)
	for i := range ids {
		ids[i] = seeded{uuid.Must(uuid.NewV7()).String(), uuid.NewString()}
		doc, attempt := ids[i].doc, ids[i].attempt
		events = append(events,
			&kb.DocumentAdded{ID: doc, Version: 1, Name: "handbook.md", Source: kb.Source{Blob: uuid.NewString(), Size: 2000, SHA256: fmt.Sprintf("%064x", i)}},
			&kb.DocumentStarted{ID: doc, Version: 1, Attempt: attempt, Stage: kb.StateParsing},
			&kb.DocumentChunked{ID: doc, Version: 1, Attempt: attempt, Chunks: chunksPerKB, Model: "fixed-cost", Content: content},
			&kb.DocumentIndexed{ID: doc, Version: 1, Attempt: attempt, Chunks: chunksPerKB, Model: "fixed-cost", Content: content})
	}
	kbID := journal.Identity{Kind: actors.KindKB, Tenant: tenantName(0), ID: seededKB}
	fence, _, err := store.Acquire(ctx, kbID, journal.Claim{Node: "seed"})
	if err != nil {
		return err
	}
	err = inParallel(seeders, docs, func(i int) error {
		return seedChunks(ctx, store, fence, scope, ids[i].doc, ids[i].attempt, i)
	})
	if err != nil {
		return err
	}
	return errors.Join(
		seedJournal(ctx, store, journal.Identity{Kind: actors.KindTenant, Tenant: tenantName(0), ID: tenantName(0)},
			&kb.KBRegistered{ID: seededKB, UID: uid, Created: time.Now().UTC()}),
		seedJournal(ctx, store, kbID, events...))
}
