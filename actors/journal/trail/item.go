package trail

import (
	"time"

	"granary.dev/granary/actors/journal"
)

// Format names the format of an export: lines of JSON, each one Item.
const Format = "granary audit 1"

// Item is one line of an export; one field is set. An export is: the header, the
// checkpoints, then each journal (its row, its events, how far it was at the end) and
// each stream (its head, its records), then the end.
type Item struct {
	Header     *Header     `json:"header,omitempty"`
	Checkpoint *Checkpoint `json:"checkpoint,omitempty"`
	Journal    *Journal    `json:"journal,omitempty"`
	Event      *Event      `json:"event,omitempty"`
	JournalEnd *Journal    `json:"journal_end,omitempty"`
	Stream     *Stream     `json:"stream,omitempty"`
	Access     *Access     `json:"access,omitempty"`
	Unreadable *Unreadable `json:"unreadable,omitempty"`
	End        *End        `json:"end,omitempty"`
}

// Header begins an export.
type Header struct {
	Format     string    `json:"format"`
	Tenant     string    `json:"tenant"` // the scope, see [journal.AuditScope]
	Time       time.Time `json:"time"`
	PublicKeys string    `json:"public_keys"` // PEM; who verifies should have them from elsewhere
	// Checkpoints is the number of the last checkpoint, Hash is its hash.
	Checkpoints int64  `json:"checkpoints"`
	Hash        []byte `json:"hash,omitempty"`
}

// Checkpoint is a signed checkpoint.
type Checkpoint struct {
	Number    int64  `json:"number"`
	Body      []byte `json:"body"`
	KeyID     string `json:"key_id"`
	Signature []byte `json:"signature"`
}

// Journal is the owner row of a grain, before and after its events.
type Journal struct {
	Kind   string `json:"kind"`
	ID     string `json:"id"`
	Head   int64  `json:"head"`
	Hash   []byte `json:"hash,omitempty"`
	Erased int64  `json:"erased,omitempty"`
	Anchor []byte `json:"anchor,omitempty"`
	// Former: events up to there were of a former tenant of the name.
	Former int64 `json:"former,omitempty"`
	// Snapshot is the place of the stored snapshot, and the hash it says stands there.
	Snapshot     int64  `json:"snapshot,omitempty"`
	SnapshotHash []byte `json:"snapshot_hash,omitempty"`
}

// Event is an event of the journal before it.
type Event struct {
	Seq        int64     `json:"seq"`
	Time       time.Time `json:"time"`
	Type       string    `json:"type"`
	Principal  string    `json:"principal,omitempty"`
	Remote     string    `json:"remote,omitempty"`
	RequestID  string    `json:"request_id,omitempty"`
	Data       []byte    `json:"data,omitempty"`
	DataSHA256 []byte    `json:"data_sha256,omitempty"` // instead of the data, in an export without it
	Hash       []byte    `json:"hash,omitempty"`
}

// Stream is the head of a stream of accesses, before its records.
type Stream struct {
	Stream string `json:"stream"`
	Seq    int64  `json:"seq"`
	Hash   []byte `json:"hash"`
}

// Access is a record of the stream before it.
type Access struct {
	Seq        int64     `json:"seq"`
	Time       time.Time `json:"time"`
	Phase      string    `json:"phase,omitempty"`
	Principal  string    `json:"principal,omitempty"`
	Credential string    `json:"credential,omitempty"`
	KeyID      string    `json:"key_id,omitempty"`
	Method     string    `json:"method,omitempty"`
	Resource   string    `json:"resource,omitempty"`
	Remote     string    `json:"remote,omitempty"`
	RequestID  string    `json:"request_id,omitempty"`
	Code       string    `json:"code"`
	Reason     string    `json:"reason,omitempty"`
	DurationUS int64     `json:"duration_us"`
	Count      int64     `json:"count"`
	Hash       []byte    `json:"hash"`
}

// Unreadable is a row that does not open: its seal or its checksum does not hold.
type Unreadable struct {
	Chain string `json:"chain"`
	Seq   int64  `json:"seq"`
}

// End ends an export. An export without it was cut.
type End struct {
	Items int64 `json:"items"` // before this one
}

func exportEvent(e journal.Event, data bool) *Event {
	out := &Event{Seq: e.Seq, Time: e.Time, Type: e.Type, Principal: e.Principal, Remote: e.Remote, RequestID: e.RequestID, Hash: e.Hash}
	if data {
		out.Data = e.Data
	} else {
		out.DataSHA256 = journal.DataHash(e.Data)
	}
	return out
}

func (e *Event) link(prev []byte, id journal.Identity) []byte {
	data := e.DataSHA256
	if data == nil {
		data = journal.DataHash(e.Data)
	}
	return journal.LinkData(prev, id, journal.Event{Seq: e.Seq, Time: e.Time, Type: e.Type, Principal: e.Principal, Remote: e.Remote,
		RequestID: e.RequestID}, data)
}

func exportAccess(a journal.Access) *Access {
	return &Access{Seq: a.Seq, Time: a.Time, Phase: a.Phase, Principal: a.Principal, Credential: a.Credential, KeyID: a.KeyID,
		Method: a.Method, Resource: a.Resource, Remote: a.Remote, RequestID: a.RequestID, Code: a.Code, Reason: a.Reason,
		DurationUS: a.Duration.Microseconds(), Count: a.Count, Hash: a.Hash}
}

func (a *Access) link(prev []byte, tenant, stream string) []byte {
	return journal.LinkAccess(prev, journal.Access{Tenant: tenant, Stream: stream, Seq: a.Seq, Time: a.Time, Phase: a.Phase,
		Principal: a.Principal, Credential: a.Credential, KeyID: a.KeyID, Method: a.Method, Resource: a.Resource, Remote: a.Remote,
		RequestID: a.RequestID, Code: a.Code, Reason: a.Reason, Duration: time.Duration(a.DurationUS) * time.Microsecond, Count: a.Count})
}

func exportJournal(o journal.Owner) *Journal {
	return &Journal{Kind: o.Identity.Kind, ID: o.Identity.ID, Head: o.Head, Hash: o.Hash, Erased: o.Erased, Anchor: o.Anchor, Former: o.Former}
}
