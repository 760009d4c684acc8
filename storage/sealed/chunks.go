package sealed

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/internal/codec"
)

// unsealedHash begins the hashes of chunks from before there were keys, as callers see
// them. Their vectors are kept under the hash as it is, those of all others under a
// keyed one, and the two must not be taken for each other.
const unsealedHash = "unsealed:"

// storedHash is what the store keeps in place of a chunk's hash.
func (k *keys) storedHash(hash string) string {
	if plain, ok := strings.CutPrefix(hash, unsealedHash); ok {
		return plain
	}
	return k.hash("chunk", hash)
}

func chunkPlace(s journal.Scope, attempt string, ordinal int) []byte {
	return place("chunk", s.Tenant, s.UID, attempt, number(int64(ordinal)))
}

// PutChunks implements journal.ChunkStore.
func (s *Store) PutChunks(ctx context.Context, f journal.Fence, a journal.Attempt, chunks []journal.Chunk) error {
	if len(chunks) == 0 || a.Tenant == "" {
		return s.Inner.PutChunks(ctx, f, a, chunks)
	}
	k, err := s.keysOf(ctx, a.Tenant)
	if err != nil {
		return err
	}
	out := make([]journal.Chunk, len(chunks))
	for i, c := range chunks {
		body, err := s.seal(k, encodeChunk(&c), false, chunkPlace(a.Scope, a.ID, c.Ordinal))
		if err != nil {
			return err
		}
		c.Text, c.Headings, c.Language, c.Hash = string(body), nil, "", k.storedHash(c.Hash)
		out[i] = c
	}
	return s.Inner.PutChunks(ctx, f, a, out)
}

// encodeChunk is what is sealed of a chunk: hash, language, headings, and the text,
// which needs no length.
func encodeChunk(c *journal.Chunk) []byte {
	n := len(c.Hash) + len(c.Language) + len(c.Text) + 16
	for _, h := range c.Headings {
		n += len(h) + 3
	}
	b := appendText(make([]byte, 0, n), c.Hash)
	b = appendText(b, c.Language)
	b = binary.AppendUvarint(b, uint64(len(c.Headings)))
	for _, h := range c.Headings {
		b = appendText(b, h)
	}
	return append(b, c.Text...)
}

func decodeChunk(c *journal.Chunk, b []byte) bool {
	hash, b, ok := cutText(b)
	if !ok {
		return false
	}
	language, b, ok := cutText(b)
	if !ok {
		return false
	}
	count, used := binary.Uvarint(b)
	if used <= 0 || count > uint64(len(b)) {
		return false
	}
	b = b[used:]
	var headings []string
	for range count {
		var h []byte
		if h, b, ok = cutText(b); !ok {
			return false
		}
		headings = append(headings, string(h))
	}
	c.Hash, c.Language, c.Headings, c.Text = string(hash), string(language), headings, string(b)
	return true
}

// openChunk unseals a chunk read.
func (s *Store) openChunk(ctx context.Context, sc journal.Scope, attempt string, c *journal.Chunk) error {
	if !sealedString(c.Text) {
		if _, err := s.unseal(ctx, sc.Tenant, []byte(c.Text), chunkPlace(sc, attempt, c.Ordinal)); err != nil {
			return fmt.Errorf("chunk %d of attempt %s: %w", c.Ordinal, attempt, err)
		}
		c.Hash = unsealedHash + c.Hash
		return nil
	}
	b, err := s.unseal(ctx, sc.Tenant, []byte(c.Text), chunkPlace(sc, attempt, c.Ordinal))
	if err == nil && !decodeChunk(c, b) {
		err = s.unreadable(sc.Tenant, "chunk", errForm)
	}
	if err != nil {
		return fmt.Errorf("chunk %d of attempt %s: %w", c.Ordinal, attempt, err)
	}
	return nil
}

func sealedString(s string) bool { return s != "" && s[0] == codec.SealedMark }

// Chunks implements journal.ChunkStore.
func (s *Store) Chunks(ctx context.Context, sc journal.Scope, attempt string, after, limit int) ([]journal.Chunk, error) {
	list, err := s.Inner.Chunks(ctx, sc, attempt, after, limit)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if err := s.openChunk(ctx, sc, attempt, &list[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// ChunksByRef implements journal.ChunkStore.
func (s *Store) ChunksByRef(ctx context.Context, sc journal.Scope, refs []journal.ChunkRef,
) (map[journal.ChunkRef]journal.Chunk, error) {
	found, err := s.Inner.ChunksByRef(ctx, sc, refs)
	if err != nil {
		return nil, err
	}
	for ref, c := range found {
		if err := s.openChunk(ctx, sc, ref.Attempt, &c); err != nil {
			return nil, err
		}
		found[ref] = c
	}
	return found, nil
}

func vectorPlace(sc journal.Scope, model, stored string, space uint8) []byte {
	return place("vectors", sc.Tenant, sc.UID, model, stored, number(int64(space)))
}

// PutVectors implements journal.ChunkStore.
func (s *Store) PutVectors(ctx context.Context, f journal.Fence, sc journal.Scope, model string, v []journal.Vectors) error {
	if len(v) == 0 || sc.Tenant == "" {
		return s.Inner.PutVectors(ctx, f, sc, model, v)
	}
	k, err := s.keysOf(ctx, sc.Tenant)
	if err != nil {
		return err
	}
	out := make([]journal.Vectors, len(v))
	for i := range v {
		if v[i].Hash == "" {
			return fmt.Errorf("sealed: vectors without the hash of their chunk")
		}
		plain, err := s.codec.PackVectors(v[i].Data)
		if err != nil {
			return fmt.Errorf("vectors of chunk %s: %w", v[i].Hash, err)
		}
		out[i] = journal.Vectors{Hash: k.storedHash(v[i].Hash), Space: v[i].Space}
		if out[i].Sealed, err = s.seal(k, plain, false, vectorPlace(sc, model, out[i].Hash, v[i].Space)); err != nil {
			return err
		}
	}
	return s.Inner.PutVectors(ctx, f, sc, model, out)
}

// VectorsByHash implements journal.ChunkStore.
func (s *Store) VectorsByHash(ctx context.Context, sc journal.Scope, model string, hashes []string,
) (map[string]journal.Vectors, error) {
	if len(hashes) == 0 || sc.Tenant == "" {
		return s.Inner.VectorsByHash(ctx, sc, model, hashes)
	}
	stored, err := s.storedHashes(ctx, sc.Tenant, hashes)
	if err != nil {
		return nil, err
	}
	found, err := s.Inner.VectorsByHash(ctx, sc, model, stored)
	if err != nil {
		return nil, err
	}
	out := make(map[string]journal.Vectors, len(found))
	for i, h := range stored {
		v, ok := found[h]
		if !ok {
			continue
		}
		if err := s.openVectors(ctx, sc, model, &v); err != nil {
			return nil, err
		}
		v.Hash = hashes[i]
		out[v.Hash] = v
	}
	return out, nil
}

// storedHashes is storedHash of all; of a tenant without keys there is nothing under
// a keyed one.
func (s *Store) storedHashes(ctx context.Context, tenant string, hashes []string) ([]string, error) {
	k, err := s.ring.of(ctx, tenant)
	if err != nil && !isNoKeys(err) {
		return nil, s.failed(failKeys, tenant, "keys", err)
	}
	out := make([]string, len(hashes))
	for i, h := range hashes {
		if k != nil {
			out[i] = k.storedHash(h)
		} else {
			out[i] = strings.TrimPrefix(h, unsealedHash)
		}
	}
	return out, nil
}

func (s *Store) openVectors(ctx context.Context, sc journal.Scope, model string, v *journal.Vectors) error {
	if v.Sealed == nil {
		_, err := s.unseal(ctx, sc.Tenant, []byte{0}, vectorPlace(sc, model, v.Hash, v.Space))
		return err
	}
	plain, err := s.unseal(ctx, sc.Tenant, v.Sealed, vectorPlace(sc, model, v.Hash, v.Space))
	if err == nil {
		if v.Data, err = s.codec.UnpackVectors(plain); err != nil {
			err = s.unreadable(sc.Tenant, "vectors", fmt.Errorf("%w: %w", errForm, err))
		}
	}
	v.Sealed = nil
	return err
}
