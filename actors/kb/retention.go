package kb

import (
	"container/heap"
	"time"
)

// RetentionBasis says what a document's age is counted from. The numbers equal
// those of granary.v1.RetentionBasis.
type RetentionBasis uint8

// The bases; the zero value means creation.
const (
	FromCreation    RetentionBasis = 1
	FromLastVersion RetentionBasis = 2
)

// Retention is how long a knowledge base keeps its documents. It holds for those
// that are there too: a shorter one erases at once what is older.
type Retention struct {
	MaxAge time.Duration  `json:"max_age,omitempty"` // 0: for ever
	From   RetentionBasis `json:"from,omitempty"`
}

// Bounds of what may be asked for.
const (
	MinRetention = time.Second
	MaxRetention = 100 * 366 * 24 * time.Hour
)

// Validate reports what is wrong with a retention.
func (r Retention) Validate() error {
	switch {
	case r.From > FromLastVersion:
		return retentionError("retention.from", "is not creation or last version")
	case r.MaxAge == 0 && r.From == 0:
		return nil
	case r.MaxAge < MinRetention || r.MaxAge > MaxRetention:
		return retentionError("retention.max_age", "is not between one second and a hundred years")
	}
	return nil
}

func retentionError(field, what string) error {
	e := Errorf(CodeInvalidArgument, ReasonRequestInvalid, "%s %s", field, what)
	e.Fields = []FieldViolation{{Field: field, Description: what}}
	return e
}

// ExpiryOf is when a document's time is over: the earlier of its own end and the
// one the retention sets. The zero time: never.
func (r Retention) ExpiryOf(d *Document) time.Time {
	own := d.ExpireAt
	if r.MaxAge == 0 {
		return own
	}
	from := d.Created
	if r.From == FromLastVersion {
		from = d.versionTime()
	}
	end := from.Add(r.MaxAge)
	if own.IsZero() || end.Before(own) {
		return end
	}
	return own
}

// ExpiredAt reports whether the document's time is over.
func (r Retention) ExpiredAt(d *Document, now time.Time) bool {
	end := r.ExpiryOf(d)
	return !end.IsZero() && !end.After(now)
}

// versionTime is when the newest version was added. Documents that were stored
// before it was noted count from their last change: never too early.
func (d *Document) versionTime() time.Time {
	if d.VersionAt.IsZero() {
		return d.Updated
	}
	return d.VersionAt
}

// Retention is how long documents are kept.
func (k *KB) Retention() Retention { return k.retention }

// Expired reports whether the document's time is over.
func (k *KB) Expired(d *Document, now time.Time) bool {
	return d != nil && k.retention.ExpiredAt(d, now)
}

// NextExpiry is when the next document's time is over; the zero time: never.
func (k *KB) NextExpiry() time.Time {
	for len(k.expiring) > 0 {
		e := k.expiring[0]
		if k.expires(e) {
			return e.at
		}
		heap.Pop(&k.expiring)
	}
	return time.Time{}
}

// Expire decides the deletion of documents whose time is over, of limit at most.
func (k *KB) Expire(now time.Time, limit int) []Event {
	if k.phase != PhaseActive {
		return nil
	}
	var events []Event
	var taken []expiry
	seen := make(map[string]bool) // a time that was left and came back is noted twice
	for len(events) < limit {
		at := k.NextExpiry()
		if at.IsZero() || at.After(now) {
			break
		}
		e := heap.Pop(&k.expiring).(expiry)
		if seen[e.id] {
			continue
		}
		seen[e.id], taken = true, append(taken, e)
		events = append(events, &DocumentDeleteRequested{ID: e.id, Expired: true})
	}
	// Decided is not applied: until it is, they are still due.
	for _, e := range taken {
		heap.Push(&k.expiring, e)
	}
	return events
}

// expiry is when a document's time is over. One that is not true any more is
// dropped when it comes up.
type expiry struct {
	at time.Time
	id string
}

// expires reports whether e is true of a document.
func (k *KB) expires(e expiry) bool {
	d := k.Document(e.id)
	return d != nil && d.State != StateDeleting && k.retention.ExpiryOf(d).Equal(e.at)
}

// schedule notes when a document's time is over, after old became now.
func (k *KB) schedule(old, now *Document) {
	if now == nil || now.State == StateDeleting {
		return
	}
	at := k.retention.ExpiryOf(now)
	if at.IsZero() || old != nil && k.retention.ExpiryOf(old).Equal(at) {
		return
	}
	heap.Push(&k.expiring, expiry{at, now.ID})
	if len(k.expiring) > 2*len(k.docs)+64 {
		k.reschedule()
	}
}

// reschedule makes the order of expiry anew: the retention changed, or too much
// of it is not true any more.
func (k *KB) reschedule() {
	k.expiring = nil
	for _, d := range k.docs {
		if at := k.retention.ExpiryOf(d); !at.IsZero() && d.State != StateDeleting {
			k.expiring = append(k.expiring, expiry{at, d.ID})
		}
	}
	heap.Init(&k.expiring)
}

// expiries is a heap, the earliest first.
type expiries []expiry

func (h expiries) Len() int { return len(h) }
func (h expiries) Less(i, j int) bool {
	return h[i].at.Before(h[j].at) || h[i].at.Equal(h[j].at) && h[i].id < h[j].id
}
func (h expiries) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *expiries) Push(x any)   { *h = append(*h, x.(expiry)) }

func (h *expiries) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = expiry{}
	*h = old[:len(old)-1]
	return last
}
