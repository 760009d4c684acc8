package kb

import (
	"encoding/json"
	"fmt"
	"time"
)

// Event is a decided change. Its type name is stored and never changes meaning.
type Event interface{ Type() string }

// Events of a knowledge base.
type (
	// Created opens a new incarnation of a knowledge base.
	Created struct {
		UID         string    `json:"uid"`
		DisplayName string    `json:"display_name,omitempty"`
		Description string    `json:"description,omitempty"`
		Config      Config    `json:"config"`
		Retention   Retention `json:"retention,omitzero"`
		Importing   string    `json:"importing,omitempty"` // hash of the archive that is read into it
	}
	// Imported says that all of the archive is in.
	Imported struct{}
	// Registered says that the tenant lists this knowledge base.
	Registered struct{}
	// Updated replaces the descriptive fields and the configuration.
	Updated struct {
		DisplayName   string    `json:"display_name,omitempty"`
		Description   string    `json:"description,omitempty"`
		Config        Config    `json:"config"`
		ConfigVersion int64     `json:"config_version"`
		Retention     Retention `json:"retention,omitzero"`
	}
	// Placed puts the knowledge base into a workspace; without one it is in [DefaultWorkspace].
	Placed struct {
		Workspace string `json:"workspace"`
	}
	// DeleteRequested fences the knowledge base: from here on nothing is found.
	DeleteRequested struct {
		By string `json:"by,omitempty"` // who asked
	}
	// Deleted says that all bulk data is erased and the name is free.
	Deleted struct {
		Receipt string `json:"receipt,omitempty"` // name of the proof
	}
)

// Events of a document.
type (
	// DocumentAdded queues a document, or a new version of one that is there.
	DocumentAdded struct {
		ID          string            `json:"id"`
		Version     int64             `json:"version"`
		Name        string            `json:"name,omitempty"`
		MediaType   string            `json:"media_type,omitempty"`
		Metadata    map[string]string `json:"metadata,omitempty"`
		Source      Source            `json:"source"`
		OnDuplicate OnDuplicate       `json:"on_duplicate,omitempty"`
		Chunking    *ChunkingConfig   `json:"chunking,omitempty"`
		ExpireAt    time.Time         `json:"expire_at,omitzero"` // end of its time, by its own setting
	}
	// DocumentStarted says that a run begins, at the stage its durable work allows.
	DocumentStarted struct {
		ID      string        `json:"id"`
		Version int64         `json:"version"`
		Attempt string        `json:"attempt"`
		Stage   DocumentState `json:"stage"`
	}
	// DocumentFetched says that a URL's bytes are stored.
	DocumentFetched struct {
		ID        string `json:"id"`
		Version   int64  `json:"version"`
		Source    Source `json:"source"`
		MediaType string `json:"media_type,omitempty"`
		Name      string `json:"name,omitempty"`
	}
	// DocumentChunked says that the attempt's chunks are durably written. The first
	// version of a document is found by keywords from here on.
	DocumentChunked struct {
		ID      string  `json:"id"`
		Version int64   `json:"version"`
		Attempt string  `json:"attempt"`
		Chunks  int     `json:"chunks"`
		Model   string  `json:"model"`
		Content Content `json:"content"`
	}
	// DocumentIndexed commits the attempt: READY, or READY_EMPTY without chunks.
	DocumentIndexed struct {
		ID      string  `json:"id"`
		Version int64   `json:"version"`
		Attempt string  `json:"attempt"`
		Chunks  int     `json:"chunks"`
		Model   string  `json:"model"`
		Content Content `json:"content"`
	}
	// DocumentPaused says that the owner stops in an orderly way; the next one goes on.
	DocumentPaused struct {
		ID      string `json:"id"`
		Version int64  `json:"version"`
	}
	// DocumentRetried says that a run failed and another is planned.
	DocumentRetried struct {
		ID      string        `json:"id"`
		Version int64         `json:"version"`
		Error   DocumentError `json:"error"`
		RetryAt time.Time     `json:"retry_at"`
		// Progressed: the run made some of its work durable first, so that the
		// count of failures starts anew.
		Progressed bool `json:"progressed,omitempty"`
	}
	// DocumentFailed ends a version without success.
	DocumentFailed struct {
		ID      string        `json:"id"`
		Version int64         `json:"version"`
		Error   DocumentError `json:"error"`
	}
	// DocumentCancelled ends a version by request.
	DocumentCancelled struct {
		ID      string `json:"id"`
		Version int64  `json:"version"`
	}
	// DocumentDeleteRequested fences the document: it is found no more.
	DocumentDeleteRequested struct {
		ID      string `json:"id"`
		Expired bool   `json:"expired,omitempty"` // its time was over
		By      string `json:"by,omitempty"`      // who asked
	}
	// DocumentDeleted says that its bulk data is erased.
	DocumentDeleted struct {
		ID      string `json:"id"`
		Receipt string `json:"receipt,omitempty"` // name of the proof
	}
)

// Events of a tenant.
type (
	// TenantConfigured replaces the tenant's default configuration.
	TenantConfigured struct {
		Config  Config `json:"config"`
		Version int64  `json:"version"`
	}
	// KBRegistered lists a knowledge base.
	KBRegistered struct {
		ID          string    `json:"id"`
		UID         string    `json:"uid"`
		DisplayName string    `json:"display_name,omitempty"`
		Workspace   string    `json:"workspace,omitempty"`
		Created     time.Time `json:"created"`
	}
	// KBUnregistered takes it off the list.
	KBUnregistered struct {
		ID  string `json:"id"`
		UID string `json:"uid"`
	}
)

// Type names; see [Event].
func (*Created) Type() string                 { return "kb.created" }
func (*Registered) Type() string              { return "kb.registered" }
func (*Imported) Type() string                { return "kb.imported" }
func (*Updated) Type() string                 { return "kb.updated" }
func (*Placed) Type() string                  { return "kb.placed" }
func (*DeleteRequested) Type() string         { return "kb.delete_requested" }
func (*Deleted) Type() string                 { return "kb.deleted" }
func (*DocumentAdded) Type() string           { return "document.added" }
func (*DocumentStarted) Type() string         { return "document.started" }
func (*DocumentFetched) Type() string         { return "document.fetched" }
func (*DocumentChunked) Type() string         { return "document.chunked" }
func (*DocumentIndexed) Type() string         { return "document.indexed" }
func (*DocumentPaused) Type() string          { return "document.paused" }
func (*DocumentRetried) Type() string         { return "document.retried" }
func (*DocumentFailed) Type() string          { return "document.failed" }
func (*DocumentCancelled) Type() string       { return "document.cancelled" }
func (*DocumentDeleteRequested) Type() string { return "document.delete_requested" }
func (*DocumentDeleted) Type() string         { return "document.deleted" }
func (*TenantConfigured) Type() string        { return "tenant.configured" }
func (*KBRegistered) Type() string            { return "tenant.kb_registered" }
func (*KBUnregistered) Type() string          { return "tenant.kb_unregistered" }

// newEvent makes an empty event of a stored type; nil for an unknown one.
func newEvent(typ string) Event { //nolint:cyclop // one flat table
	switch typ {
	case "kb.created":
		return &Created{}
	case "kb.imported":
		return &Imported{}
	case "kb.registered":
		return &Registered{}
	case "kb.updated":
		return &Updated{}
	case "kb.placed":
		return &Placed{}
	case "kb.delete_requested":
		return &DeleteRequested{}
	case "kb.erasing":
		return &Erasing{}
	case "document.erasing":
		return &DocumentErasing{}
	case "kb.deleted":
		return &Deleted{}
	case "document.added":
		return &DocumentAdded{}
	case "document.started":
		return &DocumentStarted{}
	case "document.fetched":
		return &DocumentFetched{}
	case "document.chunked":
		return &DocumentChunked{}
	case "document.indexed":
		return &DocumentIndexed{}
	case "document.paused":
		return &DocumentPaused{}
	case "document.retried":
		return &DocumentRetried{}
	case "document.failed":
		return &DocumentFailed{}
	case "document.cancelled":
		return &DocumentCancelled{}
	case "document.delete_requested":
		return &DocumentDeleteRequested{}
	case "document.deleted":
		return &DocumentDeleted{}
	case "tenant.configured":
		return &TenantConfigured{}
	case "tenant.kb_registered":
		return &KBRegistered{}
	case "tenant.kb_unregistered":
		return &KBUnregistered{}
	}
	return newTenantEvent(typ)
}

// EncodeEvent gives the stored form of an event.
func EncodeEvent(e Event) (typ string, data []byte, err error) {
	data, err = json.Marshal(e)
	if err != nil {
		return "", nil, fmt.Errorf("kb: encode %s: %w", e.Type(), err)
	}
	return e.Type(), data, nil
}

// DecodeEvent reads the stored form. An unknown type was written by a newer
// release and is an error: guessing would lose state.
func DecodeEvent(typ string, data []byte) (Event, error) {
	e := newEvent(typ)
	if e == nil {
		return nil, fmt.Errorf("kb: event type %q is unknown to this release", typ)
	}
	if err := json.Unmarshal(data, e); err != nil {
		return nil, fmt.Errorf("kb: decode %s: %w", typ, err)
	}
	return e, nil
}

// Subject is the id of the document an event is about, "" when it is about none.
func Subject(e Event) string {
	switch e := e.(type) {
	case *DocumentAdded:
		return e.ID
	case *DocumentStarted:
		return e.ID
	case *DocumentFetched:
		return e.ID
	case *DocumentChunked:
		return e.ID
	case *DocumentIndexed:
		return e.ID
	case *DocumentPaused:
		return e.ID
	case *DocumentRetried:
		return e.ID
	case *DocumentFailed:
		return e.ID
	case *DocumentCancelled:
		return e.ID
	case *DocumentDeleteRequested:
		return e.ID
	case *DocumentErasing:
		return e.ID
	case *DocumentDeleted:
		return e.ID
	}
	return ""
}
