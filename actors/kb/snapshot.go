package kb

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// image is the stored form of a knowledge base's state.
type image struct {
	Format        int         `json:"format"`
	Phase         Phase       `json:"phase"`
	UID           string      `json:"uid,omitempty"`
	DisplayName   string      `json:"display_name,omitempty"`
	Description   string      `json:"description,omitempty"`
	Config        Config      `json:"config,omitzero"`
	ConfigVersion int64       `json:"config_version,omitempty"`
	Workspace     string      `json:"workspace,omitempty"`
	Retention     Retention   `json:"retention,omitzero"`
	Listed        bool        `json:"listed,omitempty"`
	Revision      int64       `json:"revision"`
	FirstSeq      int64       `json:"first_seq,omitempty"`
	Importing     string      `json:"importing,omitempty"`
	Erasure       *Erasure    `json:"erasure,omitempty"`
	Created       time.Time   `json:"created,omitzero"`
	Updated       time.Time   `json:"updated,omitzero"`
	Documents     []*Document `json:"documents,omitempty"`
}

const imageFormat = 1

// Freeze captures the state so that another goroutine may encode it while this
// one goes on: it copies pointers to documents, which are immutable.
func (k *KB) Freeze() func() ([]byte, error) {
	im := image{Format: imageFormat, Phase: k.phase, UID: k.uid, DisplayName: k.name, Description: k.descr,
		Config: k.config, ConfigVersion: k.configVersion, Workspace: k.workspace, Retention: k.retention, Listed: k.listed, Revision: k.revision, FirstSeq: k.firstSeq, Importing: k.importing, Erasure: k.erasure,
		Created: k.created, Updated: k.updated, Documents: slices.Collect(k.All)}
	return func() ([]byte, error) {
		data, err := json.Marshal(im)
		if err != nil {
			return nil, fmt.Errorf("kb: encode snapshot: %w", err)
		}
		return data, nil
	}
}

// Restore reads a snapshot made by Freeze.
func Restore(id string, data []byte) (*KB, error) {
	var im image
	if err := json.Unmarshal(data, &im); err != nil {
		return nil, fmt.Errorf("kb: decode snapshot: %w", err)
	}
	if im.Format != imageFormat {
		return nil, fmt.Errorf("kb: snapshot format %d is unknown to this release", im.Format)
	}
	k := &KB{id: id, phase: im.Phase, uid: im.UID, name: im.DisplayName, descr: im.Description, config: im.Config,
		configVersion: im.ConfigVersion, workspace: im.Workspace, retention: im.Retention, listed: im.Listed, revision: im.Revision, firstSeq: im.FirstSeq, importing: im.Importing, erasure: im.Erasure, created: im.Created, updated: im.Updated}
	if len(im.Documents) > 0 {
		k.docs = make([]*Document, 0, len(im.Documents))
	}
	if len(im.Documents) > fewDocs {
		k.lookup = newLookup(len(im.Documents))
	}
	last := int64(0)
	for _, d := range im.Documents {
		if d == nil || k.Document(d.ID) != nil || d.State == StateNone || d.State > StateDeleting || d.CreatedSeq <= last {
			return nil, fmt.Errorf("kb: snapshot of %q: its documents are not in order", id)
		}
		last = d.CreatedSeq
		k.insert(d)
	}
	return k, nil
}
