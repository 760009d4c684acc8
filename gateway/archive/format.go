// Package archive is the format in which knowledge bases leave Granary and come in:
// a tar file that any tool can open, written and read as a stream with bounded
// memory. docs/archive-format.md is its specification. Standard library only.
//
// Entries come in this order: granary.json, then for each page of documents their
// sources/{sha256} and documents/{number}.jsonl, and manifest.json at the end. An
// archive without its manifest is cut off. A reader believes nothing: names, order,
// types, sizes, hashes and numbers are checked, and only then does it say that the
// archive is good. The archive of a tenant (tenant.go) has such archives as parts.
package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Names of entries.
const (
	headerName   = "granary.json"
	manifestName = "manifest.json"
	sourceDir    = "sources/"
	documentDir  = "documents/"
)

// Format and Version are in every header. Archives of tenants have a version of
// their own: those of version 1 had nothing but tenant.json and knowledge bases.
const (
	Format        = "granary-archive"
	Version       = 1
	TenantVersion = 2
)

// PageSize is the most documents of one entry.
const PageSize = 500

// ErrInvalid is an archive that is not one, or was changed or cut off.
var ErrInvalid = errors.New("archive: not valid")

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// Header says what an archive holds.
type Header struct {
	Format        string        `json:"format"`
	Version       int           `json:"version"`
	Created       time.Time     `json:"created"`
	Revision      int64         `json:"revision"` // of the knowledge base
	KnowledgeBase KnowledgeBase `json:"knowledge_base"`
}

// KnowledgeBase are the settings of one. Config and Retention are protobuf JSON.
type KnowledgeBase struct {
	ID          string          `json:"id"`
	DisplayName string          `json:"display_name,omitempty"`
	Description string          `json:"description,omitempty"`
	Workspace   string          `json:"workspace,omitempty"`
	Config      json.RawMessage `json:"config,omitempty"`
	Retention   json.RawMessage `json:"retention,omitempty"`
}

// Document is one line of a page: what is needed to add it again.
type Document struct {
	ID          string            `json:"id"`
	DisplayName string            `json:"display_name,omitempty"`
	MediaType   string            `json:"media_type,omitempty"` // as declared
	Metadata    map[string]string `json:"metadata,omitempty"`
	OnDuplicate string            `json:"on_duplicate,omitempty"`
	Chunking    json.RawMessage   `json:"chunking,omitempty"` // protobuf JSON
	SHA256      string            `json:"sha256,omitempty"`   // of sources/{sha256}; "" for a URL not fetched yet
	Size        int64             `json:"size,omitempty"`
	URL         string            `json:"url,omitempty"`
	ExpireTime  time.Time         `json:"expire_time,omitzero"` // end in force when it was exported

	// For people: not read back.
	Version    int64     `json:"version,omitempty"`
	State      string    `json:"state,omitempty"`
	CreateTime time.Time `json:"create_time,omitzero"`
	UpdateTime time.Time `json:"update_time,omitzero"`
}

// Manifest is the last entry.
type Manifest struct {
	Version     int     `json:"version"`
	Documents   int64   `json:"documents"`
	Sources     int64   `json:"sources"`
	SourceBytes int64   `json:"source_bytes"`
	Erased      int64   `json:"erased"` // documents that were erased while they were exported, and left out
	SourceNames string  `json:"source_names_sha256"`
	Entries     []Entry `json:"entries"` // all but sources, which are named by their hash, and this one
}

// Entry is a file of the archive.
type Entry struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}
