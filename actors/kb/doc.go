// Package kb is the domain of Granary: tenants and their limits, knowledge
// bases, configuration, documents and the events that change them. Standard
// library only; no clock, network, store or goroutine: time and ids are passed in.
//
// Authority: a [KB] (and a [Tenant]) is the fold of its events ([KB.Apply]).
// Commands decide events and change nothing; whoever calls them appends the
// events to the grain's journal and applies them. Documents are replaced, never
// mutated, so that a pointer taken from [KB.Document] stays as it was.
//
// A document version moves like this; every arrow from a processing state may
// also skip forward, since only durable steps are events:
//
//	          ┌──────────── retry, resume ───────────┐
//	          ▼                                      │
//	add ─▶ QUEUED ─▶ FETCHING ─▶ PARSING ─▶ CHUNKING ─▶ EMBEDDING ─▶ INDEXING ─▶ READY
//	          │          │          │           │    └──────────────────▶ READY_EMPTY
//	          └──────────┴──────────┴─────┬─────┴────────┴───────────┘
//	                                      ├─▶ FAILED      (cause kept; reprocess starts again)
//	                                      └─▶ CANCELLED   (reprocess starts again)
//
//	READY, READY_EMPTY, FAILED, CANCELLED ─ new version, reprocess ─▶ QUEUED
//	every state ─ delete ─▶ DELETING ─ erased ─▶ gone
//
// Invariants: state = fold(events) · a document is READY only with at least one
// chunk, all of them embedded · what searches see ([Document.Live]) changes only
// by a chunked, indexed or delete event · a source hash belongs to at most one
// live document unless the caller asked for a new version.
package kb
