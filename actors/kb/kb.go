package kb

import (
	"fmt"
	"time"
)

// Phase is where a knowledge base stands.
type Phase uint8

// The phases. A name whose knowledge base was deleted is PhaseNone again.
const (
	PhaseNone Phase = iota
	PhaseActive
	PhaseDeleting
	PhaseDeleted // erased, but its journal is not yet
)

// KB is the state of one knowledge base name: the fold of its events. It is
// not safe for concurrent use; the documents it hands out are immutable.
type KB struct {
	id            string
	phase         Phase
	uid           string
	name          string
	descr         string
	config        Config
	configVersion int64  // rises with each Updated
	workspace     string // "": DefaultWorkspace
	retention     Retention
	listed        bool  // registered with the tenant
	revision      int64 // sequence number of the last applied event
	created       time.Time
	updated       time.Time

	docs   []*Document // by creation
	lookup *lookup     // nil while they are few
	counts [StateDeleting + 1]int32
	bytes  int64 // sum of the newest versions' source sizes
	chunks int64 // sum of live chunks

	importing string   // hash of the archive it is made of, until all of it is in
	firstSeq  int64    // of the event that created this incarnation
	erasure   *Erasure // the deletion of the whole
	expiring  expiries // documents by the end of their time
}

// New makes the state of a knowledge base name nothing is known of.
func New(id string) *KB { return &KB{id: id} }

// ID is the name within the tenant.
func (k *KB) ID() string { return k.id }

// UID is unique over time: a recreated knowledge base has another.
func (k *KB) UID() string { return k.uid }

// Phase is where the knowledge base stands.
func (k *KB) Phase() Phase { return k.phase }

// DisplayName is for people.
func (k *KB) DisplayName() string { return k.name }

// Description is for people.
func (k *KB) Description() string { return k.descr }

// Config is the knowledge base's own layer of settings.
func (k *KB) Config() Config { return k.config }

// ConfigVersion rises with each change of name, description or settings; 1 at creation.
func (k *KB) ConfigVersion() int64 { return k.configVersion }

// Workspace is the group the knowledge base is in.
func (k *KB) Workspace() string { return WorkspaceOr(k.workspace) }

// Importing reports whether an archive is still being read into it.
func (k *KB) Importing() bool { return k.importing != "" && k.phase == PhaseActive }

// EndImport decides that all of the archive is in.
func (k *KB) EndImport(uid string) ([]Event, error) {
	if err := k.Exists(); err != nil {
		return nil, err
	}
	switch {
	case k.uid != uid:
		return nil, k.NoKnowledgeBase()
	case k.importing == "":
		return nil, nil
	}
	return []Event{&Imported{}}, nil
}

// Listed reports whether the tenant is known to list it as it is.
func (k *KB) Listed() bool { return k.listed }

// Revision is the sequence number of the last applied event.
func (k *KB) Revision() int64 { return k.revision }

// CreatedAt is when this incarnation was created.
func (k *KB) CreatedAt() time.Time { return k.created }

// UpdatedAt is when name, description or settings last changed.
func (k *KB) UpdatedAt() time.Time { return k.updated }

// SourceBytes is the sum of the newest versions' source sizes.
func (k *KB) SourceBytes() int64 { return k.bytes }

// Chunks counts the chunks searches see.
func (k *KB) Chunks() int64 { return k.chunks }

// Len counts documents, those being deleted included.
func (k *KB) Len() int { return len(k.docs) }

// Count counts documents in a state.
func (k *KB) Count(s DocumentState) int { return int(k.counts[s]) }

// Etag changes with every change of name, description or settings.
func (k *KB) Etag() string { return fmt.Sprintf("%s-%d", k.uid, k.configVersion) }

// Pending counts documents that are owed work.
func (k *KB) Pending() int {
	n := 0
	for s := StateQueued; s <= StateIndexing; s++ {
		n += int(k.counts[s])
	}
	return n
}

// All visits every document in order of creation until yield says stop.
func (k *KB) All(yield func(*Document) bool) {
	for _, d := range k.docs {
		if d != nil && !yield(d) { // nil: deleted meanwhile
			return
		}
	}
}

// After visits the documents created after a sequence number, in order, until
// yield says stop.
func (k *KB) After(seq int64, yield func(*Document) bool) {
	for _, d := range k.docs[k.place(seq+1):] {
		if !yield(d) {
			return
		}
	}
}

// Apply folds one event into the state. An error means that the journal and
// this release disagree; the grain must not go on.
func (k *KB) Apply(seq int64, at time.Time, e Event) error {
	if seq != k.revision+1 {
		return fmt.Errorf("kb: event %d (%s) after revision %d: the journal has a gap", seq, e.Type(), k.revision)
	}
	var err error
	switch e := e.(type) {
	case *Created:
		err = k.applyCreated(seq, e, at)
	case *Registered:
		k.listed = true
	case *Imported:
		k.importing = ""
	case *Updated:
		k.listed = k.listed && k.name == e.DisplayName // else the tenant lists it under the former name
		k.applyUpdated(e, at)
	case *Placed:
		k.listed = k.listed && k.Workspace() == e.Workspace
		k.workspace, k.updated = e.Workspace, at
	case *DeleteRequested:
		k.phase, k.erasure = PhaseDeleting, &Erasure{By: e.By, At: at, Seq: seq}
	case *Erasing:
		err = k.applyErasing(e)
	case *Deleted:
		uid, first, erasure := k.uid, k.firstSeq, k.erasure
		k.clear()
		k.phase, k.uid, k.firstSeq, k.erasure = PhaseDeleted, uid, first, erasure
	default:
		err = k.applyDocument(seq, at, e)
	}
	if err != nil {
		return fmt.Errorf("kb: apply event %d (%s): %w", seq, e.Type(), err)
	}
	k.revision = seq
	return nil
}

func (k *KB) applyCreated(seq int64, e *Created, at time.Time) error {
	if k.phase == PhaseActive || k.phase == PhaseDeleting {
		return fmt.Errorf("created in phase %d", k.phase)
	}
	k.clear()
	k.phase, k.uid, k.name, k.descr = PhaseActive, e.UID, e.DisplayName, e.Description
	k.config, k.configVersion, k.created, k.updated = e.Config, 1, at, at
	k.retention, k.firstSeq, k.importing = e.Retention, seq, e.Importing
	return nil
}

func (k *KB) applyUpdated(e *Updated, at time.Time) {
	k.name, k.descr, k.config, k.configVersion, k.updated = e.DisplayName, e.Description, e.Config, e.ConfigVersion, at
	if k.retention != e.Retention {
		k.retention = e.Retention
		k.reschedule()
	}
}

// clear forgets everything but the name and the revision.
func (k *KB) clear() {
	*k = KB{id: k.id, revision: k.revision}
}

// Reset forgets everything but the name and the revision.
func (k *KB) Reset() { k.clear() }

// ResetTo makes this the state of an erased name: nothing but its revision.
func (k *KB) ResetTo(revision int64) {
	k.clear()
	k.revision = revision
}
