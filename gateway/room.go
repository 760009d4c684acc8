package gateway

import (
	"context"
	"time"

	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

const (
	// roomFirst is how much of an upload travels before anybody asks for room: a document
	// that is there already may be sent again, and small ones are decided when they are here.
	roomFirst = 1 << 20
	// roomTimeout bounds the question. Without an answer the upload goes on: whether there
	// is room is decided when it is whole.
	roomTimeout = 3 * time.Second
)

// room asks an upload's knowledge base whether there is room for what has come so far,
// whenever that has doubled: so little more travels than fits.
type room struct {
	s    documents
	add  addition
	next int64
}

func (s documents) room(a addition) *room { return &room{s: s, add: a, next: roomFirst} }

// check refuses an upload that cannot be taken.
func (r *room) check(ctx context.Context, size int64) error {
	if size < r.next {
		return nil
	}
	r.next = 2 * size
	ctx, cancel := context.WithTimeout(ctx, roomTimeout)
	defer cancel()
	_, err := r.s.askKnowledgeBase(ctx, r.add.owner, &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Storage{
		Storage: &nodev1.StorageCall{Check: size, Document: r.add.spec.GetDocumentId()}}}, r.add.key)
	return onlyRefused(err)
}

// tenantRoom asks the tenant, for an upload whose knowledge base is not named yet.
func (s documents) tenantRoom(ctx context.Context, size int64) error {
	if size < roomFirst {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, roomTimeout)
	defer cancel()
	_, err := s.askTenant(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_CheckStorage{CheckStorage: &nodev1.CheckStorage{Bytes: size}}}, "")
	return onlyRefused(err)
}

// onlyRefused passes on that there is no room, or nothing that could have any.
func onlyRefused(err error) error {
	if definite(err) && !kb.Is(err, kb.ReasonUnknownOperation) {
		return err
	}
	return nil
}
