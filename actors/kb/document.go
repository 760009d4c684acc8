package kb

import (
	"maps"
	"time"
)

// DocumentState is where a document version stands. The numbers equal those of
// granary.v1.DocumentState.
type DocumentState uint8

// The states; see the package documentation for the transitions.
const (
	StateNone DocumentState = iota
	StateQueued
	StateFetching
	StateParsing
	StateChunking
	StateEmbedding
	StateIndexing
	StateReady
	StateReadyEmpty
	StateFailed
	StateCancelled
	StateDeleting
)

var stateNames = [...]string{"NONE", "QUEUED", "FETCHING", "PARSING", "CHUNKING", "EMBEDDING",
	"INDEXING", "READY", "READY_EMPTY", "FAILED", "CANCELLED", "DELETING"}

// String gives the name used in the API.
func (s DocumentState) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "UNKNOWN"
}

// States lists all states a document can be in.
func States() []DocumentState {
	out := make([]DocumentState, 0, len(stateNames)-1)
	for s := StateQueued; s <= StateDeleting; s++ {
		out = append(out, s)
	}
	return out
}

// Pending reports whether work is owed: queued or being processed.
func (s DocumentState) Pending() bool { return s >= StateQueued && s <= StateIndexing }

// Processing reports whether a pipeline stage runs.
func (s DocumentState) Processing() bool { return s >= StateFetching && s <= StateIndexing }

// Terminal reports whether the version rests until somebody asks for more.
func (s DocumentState) Terminal() bool { return s >= StateReady && s <= StateCancelled }

// CanMove reports whether a document may go from one state to another.
func CanMove(from, to DocumentState) bool {
	switch {
	case from == StateNone:
		return to == StateQueued
	case from == StateDeleting:
		return false
	case to == StateDeleting, from.Terminal() && to == StateQueued:
		return true
	case !from.Pending():
		return false
	case to == StateQueued, to == StateFailed, to == StateCancelled:
		return true
	case to == StateReady, to == StateReadyEmpty:
		return from >= StateParsing // a URL's bytes are there first
	case to.Processing():
		// Forward, or the same stage again. Back goes only through the queue.
		return to >= from
	}
	return false
}

// OnDuplicate says what to do when a live document has the same source hash.
type OnDuplicate uint8

// The numbers equal those of granary.v1.OnDuplicate.
const (
	DuplicateReturn     OnDuplicate = 1
	DuplicateNewVersion OnDuplicate = 2
	DuplicateFail       OnDuplicate = 3
)

// Source is where a document version's bytes come from.
type Source struct {
	Blob   string `json:"blob,omitempty"` // id in the blob store; "" for a URL not fetched yet
	Size   int64  `json:"size,omitempty"` // bytes
	SHA256 string `json:"sha256,omitempty"`
	URL    string `json:"url,omitempty"`
}

// DocumentError is why a version failed, or why it waits.
type DocumentError struct {
	Reason    string `json:"reason"`
	Message   string `json:"message,omitempty"`
	Stage     string `json:"stage,omitempty"`
	Retryable bool   `json:"retryable,omitempty"`
}

// Live is what searches see of a document: the committed attempt of one version.
type Live struct {
	Version  int64  `json:"version"`
	Attempt  string `json:"attempt"`
	Chunks   int    `json:"chunks"`
	Embedded bool   `json:"embedded,omitempty"` // vectors complete; else found by keywords only
	Model    string `json:"model,omitempty"`
	Content
	Blob string `json:"blob,omitempty"`
}

// Content is what parsing told about a version.
type Content struct {
	MediaType string   `json:"media_type,omitempty"`
	Language  string   `json:"language,omitempty"`
	Title     string   `json:"title,omitempty"`
	Pages     int      `json:"pages,omitempty"`
	Warnings  []string `json:"warnings,omitempty"`
}

// Document is one document with its newest version and what searches see of it.
// Values are immutable once in a [KB]; Apply replaces them.
type Document struct {
	ID          string            `json:"id"`
	Name        string            `json:"name,omitempty"` // display name, usually a file name
	MediaType   string            `json:"media_type,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Chunking    *ChunkingConfig   `json:"chunking,omitempty"` // override for this document
	Version     int64             `json:"version"`
	Source      Source            `json:"source"`
	Attempt     string            `json:"attempt,omitempty"`  // current attempt of the newest version
	Chunked     int               `json:"chunked,omitempty"`  // chunks the current attempt has durably written; 0 before
	Model       string            `json:"model,omitempty"`    // embedding model of the current attempt
	Runs        int               `json:"runs,omitempty"`     // processing runs of this version
	Failures    int               `json:"failures,omitempty"` // runs that ended in a retryable error
	Crashes     int               `json:"crashes,omitempty"`  // runs that ended with nobody to tell
	State       DocumentState     `json:"state"`
	OnDuplicate OnDuplicate       `json:"on_duplicate,omitempty"`
	Running     bool              `json:"running,omitempty"` // a run started and has not ended
	RetryAt     time.Time         `json:"retry_at,omitzero"`
	Error       *DocumentError    `json:"error,omitempty"`
	Content     Content           `json:"content"`
	Live        *Live             `json:"live,omitempty"`
	Created     time.Time         `json:"created"`
	VersionAt   time.Time         `json:"version_at,omitzero"` // when the newest version was added
	ExpireAt    time.Time         `json:"expire_at,omitzero"`  // end of its time, by its own setting
	Updated     time.Time         `json:"updated"`
	Erasure     *Erasure          `json:"erasure,omitempty"` // while it is being deleted
	CreatedSeq  int64             `json:"created_seq"`
	UpdatedSeq  int64             `json:"updated_seq"`
}

// clone copies the document so that the copy can be changed.
func (d *Document) clone() *Document {
	c := *d
	return &c
}

// Due reports whether a run should start now.
func (d *Document) Due(now time.Time) bool {
	return d.State.Pending() && !d.RetryAt.After(now)
}

// copyMetadata gives a map of one's own, nil when empty.
func copyMetadata(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return maps.Clone(m)
}
