package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"granary.dev/granary/actors/journal"
)

const (
	// partRows and partBytes bound what one operation of a bulk write inserts.
	partRows  = 128
	partBytes = 256 << 10
)

// PutChunks implements journal.ChunkStore. The chunks are written in parts
// under a new generation and replace the attempt's old ones in one commit; each
// part looks at the fence in its own transaction.
// A second PutChunks or a deletion of the same attempt supersedes one that is
// still being written, which then fails with journal.ErrUnavailable; nothing
// of it was visible.
func (s *Store) PutChunks(ctx context.Context, f journal.Fence, a journal.Attempt, chunks []journal.Chunk) error {
	if err := errors.Join(checkWriter(f, a.Scope), checkAttempt(a, chunks)); err != nil {
		return err
	}
	current := func(t *txn) error { return checkFence(t, f) }
	if len(chunks) == 0 {
		_, err := s.deleteAttempt(ctx, a.Scope, a.ID, current)
		return err
	}
	p := &chunkPut{attempt: a}
	for rest := chunks; len(rest) > 0; {
		part, cost := cutPart(rest)
		rest = rest[len(part):]
		err := s.write(ctx, a.Tenant, cost, func(t *txn) error {
			if err := current(t); err != nil {
				return err
			}
			if p.gen == 0 {
				p.gen = s.newGen()
			}
			return p.part(t, part, len(part) == len(chunks), len(rest) == 0)
		})
		if errors.Is(err, journal.ErrFenced) && p.begun {
			return s.withdraw(ctx, p, err)
		}
		if err != nil {
			return err // rows already written are collected with the attempt
		}
	}
	if !p.leftovers {
		return nil
	}
	_, err := s.purgeAttempt(context.WithoutCancel(ctx), a.Scope, a.ID,
		purge{below: p.gen, pending: p.gen})
	return err
}

// withdraw removes the parts of a writer that lost its grain; readers never saw
// them. A failure loses nothing: the attempt is listed, and collected.
func (s *Store) withdraw(ctx context.Context, p *chunkPut, why error) error {
	a := p.attempt
	_, err := s.purgeAttempt(context.WithoutCancel(ctx), a.Scope, a.ID, purge{below: p.gen + 1, keep: p.seen, pending: p.gen})
	if err != nil {
		return fmt.Errorf("%w (rows of attempt %s remain until they are collected: %w)", why, a.ID, err)
	}
	return why
}

// checkWriter refuses a fence that can say nothing about the scope.
func checkWriter(f journal.Fence, sc journal.Scope) error {
	if err := errors.Join(checkIdentity(f.Identity), checkScope(sc)); err != nil {
		return err
	}
	if f.Identity.Tenant != sc.Tenant {
		return errors.New("embedded: the fence is of another tenant than the scope")
	}
	return nil
}

func checkAttempt(a journal.Attempt, chunks []journal.Chunk) error {
	if err := checkKeys("attempt", a.ID, "document", a.Document); err != nil {
		return err
	}
	seen := make(map[int]struct{}, len(chunks))
	for _, c := range chunks {
		if _, twice := seen[c.Ordinal]; twice || c.Ordinal < 0 {
			return fmt.Errorf("embedded: ordinal %d of attempt %s is negative or there twice", c.Ordinal, a.ID)
		}
		seen[c.Ordinal] = struct{}{}
	}
	return nil
}

// cutPart takes as many chunks as one operation may write, at least one.
func cutPart(chunks []journal.Chunk) (part []journal.Chunk, cost int) {
	for n, c := range chunks {
		size := 256 + len(c.Text)
		if n > 0 && (n == partRows || cost+size > partBytes) {
			return chunks[:n], cost
		}
		cost += size
	}
	return chunks, cost
}

// chunkPut is one PutChunks under way.
type chunkPut struct {
	attempt   journal.Attempt
	gen       int64
	begun     bool
	seen      int64 // the generation readers saw when it began, 0: none
	leftovers bool  // rows of older generations may exist
}

// part writes one part. The first announces the generation, the last makes it visible.
func (p *chunkPut) part(t *txn, chunks []journal.Chunk, whole, last bool) error {
	a := p.attempt
	if !p.begun {
		if err := p.begin(t); err != nil {
			return err
		}
	} else if err := p.stillMine(t); err != nil {
		return err
	}
	for _, c := range chunks {
		headings, err := packHeadings(c.Headings)
		if err != nil {
			return err
		}
		err = t.exec(`
			INSERT INTO chunks (tenant, uid, attempt, gen, ordinal, hash, model, start_at, end_at,
			                    page, kind, language, headings, text)
			VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)`,
			a.Tenant, a.UID, a.ID, p.gen, c.Ordinal, c.Hash, c.Model, c.Start, c.End,
			c.Page, int64(c.Kind), c.Language, headings, c.Text)
		if err != nil {
			return err
		}
	}
	p.begun = true // last: a part that fails is rolled back, and the put ends with it
	if !last {
		return nil
	}
	pending := p.gen
	if whole && !p.leftovers {
		pending = 0 // written at once and nothing to remove: no trace for the collection
	}
	return t.exec(`
		UPDATE attempts SET document = ?4, version = ?5, gen = ?6, pending = ?7
		WHERE tenant = ?1 AND uid = ?2 AND attempt = ?3`,
		a.Tenant, a.UID, a.ID, a.Document, a.Version, p.gen, pending)
}

func (p *chunkPut) begin(t *txn) error {
	a := p.attempt
	known, err := t.row(`SELECT gen FROM attempts WHERE tenant = ?1 AND uid = ?2 AND attempt = ?3`,
		[]any{a.Tenant, a.UID, a.ID}, &p.seen)
	if err != nil {
		return err
	}
	p.leftovers = known
	return t.exec(`
		INSERT INTO attempts (tenant, uid, attempt, document, version, gen, pending)
		VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6)
		ON CONFLICT (tenant, uid, attempt) DO UPDATE SET pending = excluded.pending`,
		a.Tenant, a.UID, a.ID, a.Document, a.Version, p.gen)
}

func (p *chunkPut) stillMine(t *txn) error {
	a := p.attempt
	var one int
	mine, err := t.row(`SELECT 1 FROM attempts WHERE tenant = ?1 AND uid = ?2 AND attempt = ?3 AND pending = ?4`,
		[]any{a.Tenant, a.UID, a.ID, p.gen}, &one)
	if err == nil && !mine {
		err = fmt.Errorf("%w: attempt %s was written anew or deleted meanwhile", journal.ErrUnavailable, a.ID)
	}
	return err
}

func packHeadings(h []string) (string, error) {
	if len(h) == 0 {
		return "", nil
	}
	b, err := json.Marshal(h)
	return string(b), err
}

func unpackHeadings(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	var h []string
	if err := json.Unmarshal([]byte(s), &h); err != nil {
		return nil, fmt.Errorf("%w: headings of a chunk: %w", journal.ErrCorrupt, err)
	}
	return h, nil
}
