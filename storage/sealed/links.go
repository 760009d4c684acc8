package sealed

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/internal/codec"
)

// Links of journals' chains are hashes of plaintext: who has guessed an event could
// make sure. They are covered with a pad that only who has the store's own keys can
// compute, one for each event of each grain; a link needs no proof beyond that, since
// a chain proves itself. The store's keys, not the tenant's: a grain whose tenant is
// destroyed must still find its place, and a chain is checked after its data is gone.

// cover covers or uncovers a link.
func (s *Store) cover(id journal.Identity, seq int64, link []byte) []byte {
	h := hmac.New(sha256.New, s.own.hashKey)
	h.Write(grainPlace("link", id, number(seq))) // never fails
	pad := h.Sum(nil)
	subtle.XORBytes(pad, pad, link)
	return pad
}

// sealLink gives a link as it is stored: a mark and the covered hash. What is no
// hash is kept as it is.
func (s *Store) sealLink(id journal.Identity, seq int64, link []byte) []byte {
	if len(link) != journal.HashSize {
		return link
	}
	return append([]byte{codec.SealedMark}, s.cover(id, seq, link)...)
}

func (s *Store) openLink(id journal.Identity, seq int64, stored []byte) []byte {
	if len(stored) != journal.HashSize+1 || !codec.Sealed(stored) {
		return stored
	}
	return s.cover(id, seq, stored[1:])
}

// Owner implements journal.Store.
func (s *Store) Owner(ctx context.Context, id journal.Identity) (journal.Owner, error) {
	o, err := s.Inner.Owner(ctx, id)
	s.openOwner(&o)
	return o, err
}

// Owners implements journal.Directory.
func (s *Store) Owners(ctx context.Context, q journal.OwnerQuery) ([]journal.Owner, error) {
	list, err := s.Inner.Owners(ctx, q)
	for i := range list {
		s.openOwner(&list[i])
	}
	return list, err
}

func (s *Store) openOwner(o *journal.Owner) {
	o.Hash = s.openLink(o.Identity, o.Head, o.Hash)
	o.Anchor = s.openLink(o.Identity, o.Erased, o.Anchor)
}
