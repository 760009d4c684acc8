// Package kb is the domain of Granary: tenants and their limits, knowledge
// bases, configuration, documents and the events that change them. Standard
// library only; no clock, network, store or goroutine: time and ids are passed in.
//
// Authority: a [KB] (and a [Tenant]) is the fold of its events ([KB.Apply]).
// Commands decide events and change nothing; whoever calls them appends the
// events to the grain's journal and applies them. Documents are replaced, never
// mutated, so that a pointer taken from [KB.Document] stays as it was.
//
// A document version moves like this; a step forward may also skip stages or
// repeat one, since only durable steps are events. Back goes only through QUEUED:
// a run that finds the former cut off (a crash) starts from there, at the stage
// the durable work allows. READY needs at least PARSING: bytes that are there.
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
// by a chunked, indexed or delete event, or by the failure or end of a version
// found by keywords only · a source hash belongs to at most one live document
// unless the caller asked for a new version or named the document · a command
// never decides an event that [KB.Apply] refuses.
package kb
