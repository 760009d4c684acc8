package kb

import (
	"fmt"
	"net/url"
	"regexp"
	"time"
)

var (
	kbIDPattern  = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	docIDPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$`)
)

// ValidID reports whether id may name a knowledge base.
func ValidID(id string) bool { return kbIDPattern.MatchString(id) }

// ValidDocumentID reports whether id may name a document.
func ValidDocumentID(id string) bool { return docIDPattern.MatchString(id) }

// Exists fails unless the knowledge base can be read and written.
func (k *KB) Exists() error {
	if k.phase != PhaseActive {
		return k.NoKnowledgeBase()
	}
	return nil
}

// NoKnowledgeBase is the answer for a knowledge base that does not exist, or
// that the caller may not know of: both read alike.
func (k *KB) NoKnowledgeBase() *Error {
	return Errorf(CodeNotFound, ReasonKnowledgeBaseNotFound, "knowledge base %q does not exist", k.id).
		With("knowledge_base", k.id)
}

// Patch is what people say of a knowledge base.
type Patch struct {
	DisplayName string
	Description string
	Config      Config
	Retention   Retention
}

// Create decides a new incarnation.
func (k *KB) Create(uid string, p Patch) ([]Event, error) {
	switch k.phase {
	case PhaseActive:
		return nil, Errorf(CodeAlreadyExists, ReasonKnowledgeBaseExists, "knowledge base %q exists", k.id).
			With("knowledge_base", k.id)
	case PhaseDeleting, PhaseDeleted:
		return nil, Errorf(CodeUnavailable, ReasonUnavailable, "knowledge base %q is being deleted; try again", k.id).
			After(time.Second)
	}
	if !ValidID(k.id) {
		return nil, Errorf(CodeInvalidArgument, ReasonRequestInvalid, "%q is not a knowledge base id", k.id)
	}
	if err := p.Retention.Validate(); err != nil {
		return nil, err
	}
	return []Event{&Created{UID: uid, DisplayName: p.DisplayName, Description: p.Description, Config: p.Config, Retention: p.Retention}}, nil
}

// Update decides a change of description, configuration or retention along mask paths.
func (k *KB) Update(etag string, p Patch, mask []string) ([]Event, error) {
	if err := k.Exists(); err != nil {
		return nil, err
	}
	if err := checkEtag(etag, k.Etag()); err != nil {
		return nil, err
	}
	if len(mask) == 0 {
		return nil, Errorf(CodeInvalidArgument, ReasonFieldMaskInvalid, "update_mask is empty")
	}
	e := &Updated{DisplayName: k.name, Description: k.descr, Config: k.config, ConfigVersion: k.configVersion + 1, Retention: k.retention}
	for _, path := range mask {
		switch path {
		case "display_name":
			e.DisplayName = p.DisplayName
		case "description":
			e.Description = p.Description
		case "retention":
			if err := p.Retention.Validate(); err != nil {
				return nil, err
			}
			e.Retention = p.Retention
		default:
			set, ok := configFields[path]
			if !ok {
				return nil, Errorf(CodeInvalidArgument, ReasonFieldMaskInvalid, "update_mask: %q cannot be changed", path).
					With("path", path)
			}
			set(&e.Config, &p.Config)
		}
	}
	return []Event{e}, nil
}

// Move decides the workspace of a knowledge base; nothing when it is in it.
func (k *KB) Move(etag, workspace string) ([]Event, error) {
	if err := k.Exists(); err != nil {
		return nil, err
	}
	if err := checkEtag(etag, k.Etag()); err != nil {
		return nil, err
	}
	workspace = WorkspaceOr(workspace)
	if !ValidID(workspace) {
		return nil, Errorf(CodeInvalidArgument, ReasonRequestInvalid, "%q is not a workspace id", workspace)
	}
	if workspace == k.Workspace() {
		return nil, nil
	}
	return []Event{&Placed{Workspace: workspace}}, nil
}

func checkEtag(got, want string) error {
	if got != "" && got != want {
		return Errorf(CodeAborted, ReasonEtagMismatch, "the etag does not match: somebody changed it meanwhile")
	}
	return nil
}

// Delete decides the deletion of the whole knowledge base.
func (k *KB) Delete(etag string) ([]Event, error) {
	if err := k.Exists(); err != nil {
		return nil, err
	}
	if err := checkEtag(etag, k.Etag()); err != nil {
		return nil, err
	}
	return []Event{&DeleteRequested{}}, nil
}

// AddRequest is what [KB.Add] needs.
type AddRequest struct {
	ID          string // chosen by the caller, or ""
	NewID       string // used when ID is empty
	Name        string
	MediaType   string
	Metadata    map[string]string
	Source      Source
	OnDuplicate OnDuplicate
	Chunking    *ChunkingConfig
	Limits      Limits
	ExpireAt    time.Time     // end of its time; the zero time: none of its own
	TTL         time.Duration // the same, from now; 0: none
	Now         time.Time
	// Granted is how many bytes the knowledge base may hold, out of its tenant's storage;
	// nil: as many as Limits allow.
	Granted *int64
	// Distinct: a document of its own, whoever has the same source.
	Distinct bool
}

// Add decides what becomes of a document: queued, the next version of one that
// is there, or nothing because it is there. existing is set in the last case.
func (k *KB) Add(r AddRequest) (events []Event, id string, existing *Document, err error) {
	if err := k.Exists(); err != nil {
		return nil, "", nil, err
	}
	if err := r.check(); err != nil {
		return nil, "", nil, err
	}
	named, same := k.Document(r.ID), k.sameSource(r.Source)
	if r.Distinct {
		same = nil
	}
	if named != nil && (named.State == StateDeleting || k.Expired(named, r.Now)) {
		// Not even "it is there" is true of it any more.
		return nil, "", nil, stateError(named, "is being deleted")
	}
	if k.Expired(same, r.Now) {
		same = nil
	}
	if named != nil && !named.has(r.Source) {
		// Other bytes under a known id: its next version, whoever else has them.
		if r.OnDuplicate == DuplicateFail {
			return nil, "", nil, duplicateError(named, "the document id is taken")
		}
		return k.nextVersion(r, named)
	}
	if named != nil {
		same = named
	}
	if same == nil {
		return k.addNew(r)
	}
	switch r.OnDuplicate {
	case DuplicateFail:
		return nil, "", nil, duplicateError(same, "a document with the same source is there")
	case DuplicateNewVersion:
		return k.nextVersion(r, same)
	}
	if same.State == StateFailed || same.State == StateCancelled {
		// Sending the same bytes again is how people retry.
		return k.nextVersion(r, same)
	}
	return nil, same.ID, same, nil
}

func (r *AddRequest) check() error {
	if r.ID != "" && !ValidDocumentID(r.ID) {
		return Errorf(CodeInvalidArgument, ReasonRequestInvalid, "%q is not a document id", r.ID)
	}
	if err := r.checkExpiry(); err != nil || r.Source.URL == "" {
		return err
	}
	u, err := url.Parse(r.Source.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil {
		return Errorf(CodeInvalidArgument, ReasonURLNotValid, "the URL must be http or https, with a host and without credentials")
	}
	return nil
}

// checkExpiry refuses an end that has passed, and makes a lifetime one.
func (r *AddRequest) checkExpiry() error {
	switch {
	case r.TTL != 0 && (r.TTL < MinRetention || r.TTL > MaxRetention):
		return retentionError("spec.ttl", "is not between one second and a hundred years")
	case r.TTL != 0:
		r.ExpireAt = r.Now.Add(r.TTL)
	case !r.ExpireAt.IsZero() && !r.ExpireAt.After(r.Now):
		return retentionError("spec.expire_time", "has passed")
	}
	return nil
}

// has reports whether the document's newest version has this source.
func (d *Document) has(s Source) bool {
	if s.SHA256 != "" {
		return d.Source.SHA256 == s.SHA256
	}
	return s.URL != "" && d.Source.URL == s.URL
}

func (k *KB) sameSource(s Source) *Document {
	if s.SHA256 != "" {
		return k.ownerOfHash(s.SHA256)
	}
	return k.ownerOfURL(s.URL)
}

func (k *KB) addNew(r AddRequest) ([]Event, string, *Document, error) {
	if err := k.checkLimits(r, nil); err != nil {
		return nil, "", nil, err
	}
	id := r.ID
	if id == "" {
		id = r.NewID
	}
	return []Event{&DocumentAdded{ID: id, Version: 1, Name: r.Name, MediaType: r.MediaType, Metadata: r.Metadata,
		Source: r.Source, OnDuplicate: r.OnDuplicate, Chunking: r.Chunking, ExpireAt: r.ExpireAt}}, id, nil, nil
}

// nextVersion decides the next version of d from a new request.
func (k *KB) nextVersion(r AddRequest, d *Document) ([]Event, string, *Document, error) {
	if err := k.checkLimits(r, d); err != nil {
		return nil, "", nil, err
	}
	var events []Event
	if d.State.Pending() {
		events = append(events, &DocumentCancelled{ID: d.ID, Version: d.Version})
	}
	name := r.Name
	if name == "" {
		name = d.Name
	}
	events = append(events, &DocumentAdded{ID: d.ID, Version: d.Version + 1, Name: name, MediaType: r.MediaType,
		Metadata: r.Metadata, Source: r.Source, OnDuplicate: r.OnDuplicate, Chunking: r.Chunking, ExpireAt: r.ExpireAt})
	return events, d.ID, nil, nil
}

// checkLimits refuses a document too many, or bytes too many. A next version of
// old (nil: a new document) is no further document, and its bytes count back.
func (k *KB) checkLimits(r AddRequest, old *Document) error {
	if old == nil && int64(len(k.docs)) >= r.Limits.DocumentsPerKB {
		return Errorf(CodeResourceExhausted, ReasonDocumentLimit,
			"knowledge base %q holds %d documents, the most its tier allows", k.id, len(k.docs)).
			With("limit", fmt.Sprint(r.Limits.DocumentsPerKB))
	}
	return k.checkStorage(old, r.Source.Size, r.Limits, r.Granted)
}

// CheckStorage fails if there is no room for size bytes as the source of document id:
// with STORAGE_LIMIT, or with a *StorageShort if the tenant may grant more. Ask it before
// [KB.Fetched]: the size of a URL's bytes was not known when [KB.Add] checked the limits.
func (k *KB) CheckStorage(id string, size int64, limits Limits, granted *int64) error {
	return k.checkStorage(k.Document(id), size, limits, granted)
}

// StorageShort says how many bytes the knowledge base needs beyond what it was granted.
type StorageShort struct{ More int64 }

// Error implements error.
func (e *StorageShort) Error() string {
	return fmt.Sprintf("kb: %d bytes more must be granted", e.More)
}

// checkStorage weighs what the knowledge base holds: of each document the source of its
// newest version, until the document is erased.
func (k *KB) checkStorage(old *Document, size int64, limits Limits, granted *int64) error {
	held, grows := k.bytes, size
	if old != nil {
		held, grows = held-old.Source.Size, size-old.Source.Size
	}
	if size > limits.StorageBytes-held {
		return StorageLimitError(limits.StorageBytes, k.bytes, grows)
	}
	if granted != nil && grows > 0 && held+size > *granted {
		return &StorageShort{More: held + size - *granted}
	}
	return nil
}

// StorageLimitError refuses bytes for which the tenant has no room.
func StorageLimitError(limit, used, requested int64) *Error {
	return Errorf(CodeResourceExhausted, ReasonStorageLimit,
		"the tenant holds %d bytes; %d more are more than its limit of %d allows", used, requested, limit).
		With("limit", fmt.Sprint(limit)).With("used", fmt.Sprint(used)).With("requested", fmt.Sprint(requested))
}

func duplicateError(d *Document, why string) error {
	return Errorf(CodeAlreadyExists, ReasonDocumentDuplicate, "%s: %q (%s)", why, d.ID, d.Name).With("document", d.ID)
}

func stateError(d *Document, why string) error {
	return Errorf(CodeFailedPrecondition, ReasonDocumentState, "document %q %s (state %s)", d.ID, why, d.State).
		With("document", d.ID).With("state", d.State.String())
}

// Find looks a document up.
func (k *KB) Find(id string) (*Document, error) {
	if err := k.Exists(); err != nil {
		return nil, err
	}
	d := k.Document(id)
	if d == nil || d.State == StateDeleting {
		return nil, NoDocument(k.id, id)
	}
	return d, nil
}

// NoDocument says that a document is not there.
func NoDocument(kbID, id string) error {
	return Errorf(CodeNotFound, ReasonDocumentNotFound, "document %q does not exist in knowledge base %q", id, kbID).
		With("document", id)
}

// Reprocess decides a new version from the source that is there.
func (k *KB) Reprocess(id string, chunking *ChunkingConfig) ([]Event, error) {
	d, err := k.Find(id)
	if err != nil {
		return nil, err
	}
	if !d.State.Terminal() {
		return nil, stateError(d, "is being processed")
	}
	if chunking == nil {
		chunking = d.Chunking
	}
	return []Event{&DocumentAdded{ID: d.ID, Version: d.Version + 1, Name: d.Name, MediaType: d.MediaType,
		Metadata: d.Metadata, Source: d.Source, OnDuplicate: d.OnDuplicate, Chunking: chunking, ExpireAt: d.ExpireAt}}, nil
}

// Cancel decides the end of a version that is queued or being processed.
func (k *KB) Cancel(id string) ([]Event, error) {
	d, err := k.Find(id)
	if err != nil {
		return nil, err
	}
	if !d.State.Pending() {
		return nil, stateError(d, "is not being processed")
	}
	return []Event{&DocumentCancelled{ID: id, Version: d.Version}}, nil
}

// DeleteDocument decides the deletion of a document in any state.
func (k *KB) DeleteDocument(id string) ([]Event, error) {
	if _, err := k.Find(id); err != nil {
		return nil, err
	}
	return []Event{&DocumentDeleteRequested{ID: id}}, nil
}
