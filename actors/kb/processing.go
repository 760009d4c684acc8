package kb

import (
	"errors"
	"time"
)

// MaxCrashes is how many runs of a version may end with nobody to tell (the
// process died) before it is quarantined: a document that takes the process
// down must not do so for ever.
const MaxCrashes = 5

// Stable reasons of document errors the domain decides itself.
const (
	ReasonQuarantined = "QUARANTINED"
	ReasonDuplicate   = "DOCUMENT_DUPLICATE"
	ReasonCrashed     = "CRASHED" // in [StageRun]: the run itself failed unexpectedly, several times
)

// StageRun is the stage of errors that belong to no step of the pipeline. A
// parser that fails on a file says CRASHED of its own.
const StageRun = "index"

// GivenUp reports whether the newest version failed although another try might
// succeed: the system stopped trying, and only a person can say that it goes on.
// A version that failed for what is wrong with it is not given up. False for nil.
func (d *Document) GivenUp() bool {
	if d == nil || d.State != StateFailed || d.Error == nil {
		return false
	}
	e := d.Error
	return e.Retryable || e.Reason == ReasonQuarantined || e.Reason == ReasonCrashed && e.Stage == StageRun
}

// ErrStale marks a report from a run that is not the document's current one. It is
// dropped; the document has moved on.
var ErrStale = errors.New("kb: report of a run that is not current")

// RetryPolicy says how long failed runs are tried again.
type RetryPolicy struct {
	Attempts int           // runs in a row, without progress, that may end in a retryable error before the version fails
	Initial  time.Duration // wait after the first failure; doubles with each
	Max      time.Duration // longest wait
}

// DefaultRetry gives up after about 20 minutes of waiting: 5 s, 10 s … 5 min.
func DefaultRetry() RetryPolicy {
	return RetryPolicy{Attempts: 10, Initial: 5 * time.Second, Max: 5 * time.Minute}
}

// Delay is the wait after the given number of failures. jitter is in [0, 1) and
// takes up to half of it away.
func (p RetryPolicy) Delay(failures int, jitter float64) time.Duration {
	d := p.Initial
	for i := 1; i < failures && d < p.Max; i++ {
		d *= 2
	}
	d = min(d, p.Max)
	return d - time.Duration(jitter*float64(d)/2)
}

// Start decides the next run of a pending document. A run goes on where the
// durable work ends: with chunks written it embeds, with bytes stored it parses.
func (k *KB) Start(id, attempt string) ([]Event, error) {
	d := k.Document(id)
	if k.phase != PhaseActive || d == nil || !d.State.Pending() {
		return nil, ErrStale
	}
	if d.Running && d.Crashes+1 >= MaxCrashes {
		return []Event{&DocumentFailed{ID: id, Version: d.Version, Error: DocumentError{
			Reason: ReasonQuarantined, Stage: stageOf(d.State),
			Message: "the server stopped each time it processed this document; reprocess it to try again",
		}}}, nil
	}
	e := &DocumentStarted{ID: id, Version: d.Version, Attempt: attempt, Stage: StateParsing}
	switch {
	case d.Attempt != "" && d.Chunked > 0:
		e.Attempt, e.Stage = d.Attempt, StateEmbedding
	case d.Source.Blob == "":
		e.Stage = StateFetching
	}
	return []Event{e}, nil
}

// stageOf names the pipeline stage of a state, as pipeline errors do.
func stageOf(s DocumentState) string {
	switch s {
	case StateFetching:
		return "fetch"
	case StateChunking:
		return "chunk"
	case StateEmbedding:
		return "embed"
	case StateIndexing:
		return "index"
	}
	return "parse"
}

// current gives the document if (version, attempt) is the run it waits for and
// the run's report moves it on to state to. A run that was paused or failed has
// ended, although its attempt may be taken up again.
func (k *KB) current(id string, version int64, attempt string, to DocumentState) (*Document, error) {
	d := k.Document(id)
	if k.phase != PhaseActive || d == nil || !d.Running || d.Version != version || d.Attempt != attempt || !CanMove(d.State, to) {
		return nil, ErrStale
	}
	return d, nil
}

// Fetched decides what the bytes of a URL mean: the source is known now, and it
// may be one that another document has.
func (k *KB) Fetched(id string, version int64, attempt string, source Source, mediaType, name string) ([]Event, error) {
	d, err := k.current(id, version, attempt, StateParsing)
	if err != nil {
		return nil, err
	}
	if source.URL == "" {
		source.URL = d.Source.URL // the URL asked for goes on being a duplicate's sign
	}
	if same := k.ownerOfHash(source.SHA256); same != nil && same.ID != id && d.OnDuplicate != DuplicateNewVersion {
		return []Event{&DocumentFailed{ID: id, Version: version, Error: DocumentError{
			Reason: ReasonDuplicate, Stage: "fetch",
			Message: "document " + same.ID + " has the same content",
		}}}, nil
	}
	return []Event{&DocumentFetched{ID: id, Version: version, Source: source, MediaType: mediaType, Name: name}}, nil
}

// ChunksWritten decides that an attempt's chunks are durable.
func (k *KB) ChunksWritten(id string, version int64, attempt string, chunks int, model string, c Content) ([]Event, error) {
	if _, err := k.current(id, version, attempt, StateEmbedding); err != nil {
		return nil, err
	}
	return []Event{&DocumentChunked{ID: id, Version: version, Attempt: attempt, Chunks: chunks, Model: model, Content: c}}, nil
}

// IndexWritten decides that an attempt is whole. An attempt with chunks of
// which one is not embedded never gets here: embedded must equal chunks.
func (k *KB) IndexWritten(id string, version int64, attempt string, chunks, embedded int, model string, c Content) ([]Event, error) {
	d, err := k.current(id, version, attempt, StateReady)
	if err != nil {
		return nil, err
	}
	if chunks != embedded || (d.Chunked > 0 && d.Chunked != chunks) {
		return nil, Errorf(CodeInternal, ReasonInternal, "attempt %s has %d chunks, %d of them written and %d embedded",
			attempt, chunks, d.Chunked, embedded)
	}
	return []Event{&DocumentIndexed{ID: id, Version: version, Attempt: attempt, Chunks: chunks, Model: model, Content: c}}, nil
}

// RunFailed decides what a failed run means: another try later, or the end.
// wait is what the failing side asked for (Retry-After), 0 when nothing.
func (k *KB) RunFailed(id string, version int64, attempt string, cause DocumentError, wait time.Duration,
	now time.Time, jitter float64, p RetryPolicy,
) ([]Event, error) {
	return k.runEnded(id, version, attempt, cause, wait, now, jitter, p, false)
}

// RunInterrupted is [KB.RunFailed] of a run that made some of its work durable
// before it failed: the count of failures starts anew. A long document whose
// embedder refuses now and then must not fail while it gets on.
func (k *KB) RunInterrupted(id string, version int64, attempt string, cause DocumentError, wait time.Duration,
	now time.Time, jitter float64, p RetryPolicy,
) ([]Event, error) {
	return k.runEnded(id, version, attempt, cause, wait, now, jitter, p, true)
}

func (k *KB) runEnded(id string, version int64, attempt string, cause DocumentError, wait time.Duration,
	now time.Time, jitter float64, p RetryPolicy, progressed bool,
) ([]Event, error) {
	d, err := k.current(id, version, attempt, StateFailed)
	if err != nil {
		return nil, err
	}
	failures := d.Failures + 1
	if progressed {
		failures = 1
	}
	if cause.Retryable && failures < p.Attempts {
		delay := max(p.Delay(failures, jitter), wait)
		return []Event{&DocumentRetried{ID: id, Version: version, Error: cause, RetryAt: now.Add(delay), Progressed: progressed}}, nil
	}
	return []Event{&DocumentFailed{ID: id, Version: version, Error: cause}}, nil
}

// Pause decides the orderly stop of all runs, so that they do not count as crashes.
func (k *KB) Pause() []Event {
	var events []Event
	for d := range k.All {
		if d.Running {
			events = append(events, &DocumentPaused{ID: d.ID, Version: d.Version})
		}
	}
	return events
}

// Garbage is bulk data no longer referred to.
type Garbage struct {
	Attempts []string `json:"attempts,omitempty"`
	Blobs    []string `json:"blobs,omitempty"`
}

// GarbageBetween tells what before refers to and after (nil: gone) does not.
func GarbageBetween(before, after *Document) Garbage {
	var g Garbage
	if before == nil {
		return g
	}
	attempts, blobs := after.refs()
	a, b := before.refs()
	for _, id := range a {
		if id != "" && id != attempts[0] && id != attempts[1] {
			g.Attempts = append(g.Attempts, id)
		}
	}
	for _, id := range b {
		if id != "" && id != blobs[0] && id != blobs[1] {
			g.Blobs = append(g.Blobs, id)
		}
	}
	return g
}

// refs lists the attempts and blobs a document needs.
func (d *Document) refs() (attempts, blobs [2]string) {
	if d == nil {
		return attempts, blobs
	}
	attempts[0], blobs[0] = d.Attempt, d.Source.Blob
	if d.Live != nil {
		attempts[1], blobs[1] = d.Live.Attempt, d.Live.Blob
		if attempts[1] == attempts[0] {
			attempts[1] = ""
		}
		if blobs[1] == blobs[0] {
			blobs[1] = ""
		}
	}
	return attempts, blobs
}
