package kb

import (
	"fmt"
	"time"
)

// applyDocument folds an event about a document.
func (k *KB) applyDocument(seq int64, at time.Time, e Event) error {
	switch e := e.(type) {
	case *DocumentAdded:
		return k.applyAdded(seq, at, e)
	case *DocumentStarted:
		return k.applyStarted(seq, at, e)
	case *DocumentFetched:
		return k.change(seq, at, e.ID, e.Version, StateParsing, func(d *Document) {
			d.Source = e.Source
			if e.MediaType != "" && d.MediaType == "" {
				d.MediaType = e.MediaType
			}
			if e.Name != "" && d.Name == "" {
				d.Name = e.Name
			}
		})
	case *DocumentChunked:
		return k.change(seq, at, e.ID, e.Version, StateEmbedding, func(d *Document) { applyChunked(d, e) })
	case *DocumentIndexed:
		return k.applyIndexed(seq, at, e)
	case *DocumentPaused:
		return k.change(seq, at, e.ID, e.Version, StateQueued, func(d *Document) { d.Running = false })
	case *DocumentRetried:
		return k.change(seq, at, e.ID, e.Version, StateQueued, func(d *Document) {
			d.Running, d.Failures, d.RetryAt, d.Error = false, d.Failures+1, e.RetryAt, &e.Error
			if e.Progressed {
				d.Failures = 1
			}
		})
	case *DocumentFailed:
		return k.change(seq, at, e.ID, e.Version, StateFailed, func(d *Document) {
			endRun(d)
			d.Error = &e.Error
		})
	case *DocumentCancelled:
		return k.change(seq, at, e.ID, e.Version, StateCancelled, endRun)
	case *DocumentDeleteRequested:
		return k.change(seq, at, e.ID, 0, StateDeleting, func(d *Document) {
			d.Erasure = &Erasure{By: e.By, At: at, Seq: seq, Expired: e.Expired, Garbage: GarbageBetween(d, nil)}
			endRun(d)
		})
	case *DocumentErasing:
		return k.applyDocErasing(seq, at, e)
	case *DocumentDeleted:
		return k.applyDeleted(e.ID)
	}
	return fmt.Errorf("unknown event")
}

// applyStarted moves the document to the stage its durable work allows. That may
// be an earlier one than the former run reached, so it goes through the queue.
func (k *KB) applyStarted(seq int64, at time.Time, e *DocumentStarted) error {
	if old := k.Document(e.ID); old != nil && !old.State.Pending() || !e.Stage.Processing() {
		return fmt.Errorf("document %q cannot start at %s", e.ID, e.Stage)
	}
	if err := k.change(seq, at, e.ID, e.Version, StateQueued, func(*Document) {}); err != nil {
		return err
	}
	return k.change(seq, at, e.ID, e.Version, e.Stage, func(d *Document) { startRun(d, e) })
}

// startRun counts the run; one that finds the former still running knows that
// the former ended with nobody to tell.
func startRun(d *Document, e *DocumentStarted) {
	if d.Running {
		d.Crashes++
	}
	if d.Attempt != e.Attempt {
		d.Chunked, d.Model = 0, ""
	}
	d.Running, d.Attempt, d.RetryAt = true, e.Attempt, time.Time{}
	d.Runs++
}

// endRun ends a version without success. Its attempt is over: what it wrote is
// garbage from here on.
func endRun(d *Document) {
	d.Running, d.RetryAt = false, time.Time{}
	d.Attempt, d.Chunked, d.Model = "", 0, ""
	if d.Live != nil && !d.Live.Embedded {
		// A version that failed or was cancelled before it was whole is not
		// found: half a result that never completes would mislead.
		d.Live = nil
	}
}

func applyChunked(d *Document, e *DocumentChunked) {
	d.Chunked, d.Content, d.Attempt, d.Model = e.Chunks, e.Content, e.Attempt, e.Model
	if d.Live != nil && d.Live.Embedded {
		return // the former version stays until this one is whole
	}
	d.Live = nil
	if e.Chunks > 0 {
		d.Live = &Live{Version: d.Version, Attempt: e.Attempt, Chunks: e.Chunks, Content: e.Content, Blob: d.Source.Blob}
	}
}

func (k *KB) applyIndexed(seq int64, at time.Time, e *DocumentIndexed) error {
	to := StateReady
	if e.Chunks == 0 {
		to = StateReadyEmpty
	}
	return k.change(seq, at, e.ID, e.Version, to, func(d *Document) {
		d.Running, d.RetryAt, d.Error = false, time.Time{}, nil
		d.Attempt, d.Chunked, d.Model, d.Content = e.Attempt, e.Chunks, e.Model, e.Content
		d.Live = &Live{Version: e.Version, Attempt: e.Attempt, Chunks: e.Chunks, Embedded: true,
			Model: e.Model, Content: e.Content, Blob: d.Source.Blob}
	})
}

func (k *KB) applyAdded(seq int64, at time.Time, e *DocumentAdded) error {
	old := k.Document(e.ID)
	if old == nil {
		d := &Document{ID: e.ID, Created: at, CreatedSeq: seq}
		fillVersion(d, e, at)
		d.Updated, d.UpdatedSeq = at, seq
		k.insert(d)
		return nil
	}
	if e.Version != old.Version+1 {
		return fmt.Errorf("version %d follows %d", e.Version, old.Version)
	}
	return k.change(seq, at, e.ID, 0, StateQueued, func(d *Document) { fillVersion(d, e, at) })
}

func fillVersion(d *Document, e *DocumentAdded, at time.Time) {
	d.VersionAt, d.ExpireAt = at, e.ExpireAt
	d.Name, d.MediaType, d.Metadata, d.OnDuplicate = e.Name, e.MediaType, copyMetadata(e.Metadata), e.OnDuplicate
	d.Chunking, d.Version, d.Source, d.State = e.Chunking, e.Version, e.Source, StateQueued
	d.Attempt, d.Chunked, d.Model, d.Runs, d.Failures, d.Crashes = "", 0, "", 0, 0, 0
	d.Running, d.RetryAt, d.Error, d.Content = false, time.Time{}, nil, Content{}
}

// change replaces a document by a changed copy in state to. version 0 means any.
func (k *KB) change(seq int64, at time.Time, id string, version int64, to DocumentState, edit func(*Document)) error {
	old := k.Document(id)
	if old == nil {
		return fmt.Errorf("document %q is not there", id)
	}
	if version != 0 && version != old.Version {
		return fmt.Errorf("document %q is at version %d, the event at %d", id, old.Version, version)
	}
	if !CanMove(old.State, to) {
		return fmt.Errorf("document %q cannot go from %s to %s", id, old.State, to)
	}
	d := old.clone()
	edit(d)
	d.State, d.Updated, d.UpdatedSeq = to, at, seq
	k.replace(d)
	k.account(old, d)
	return nil
}

func (k *KB) applyDeleted(id string) error {
	d := k.Document(id)
	if d == nil || d.State != StateDeleting {
		return fmt.Errorf("document %q is not being deleted", id)
	}
	k.account(d, nil)
	k.remove(d)
	return nil
}

// account keeps counters and the duplicate maps in step with one document's change.
func (k *KB) account(old, now *Document) {
	if old != nil {
		k.counts[old.State]--
		k.bytes -= old.Source.Size
		k.chunks -= old.liveChunks()
	}
	if now != nil {
		k.counts[now.State]++
		k.bytes += now.Source.Size
		k.chunks += now.liveChunks()
	}
	k.schedule(old, now)
	if k.lookup == nil || old.owns() == now.owns() {
		return // most changes: disown may have to look at every document
	}
	if old != nil {
		k.disown(old)
	}
	if now != nil {
		k.lookup.own(now)
	}
}

func (d *Document) liveChunks() int64 {
	if d.Live == nil || d.State == StateDeleting {
		return 0
	}
	return int64(d.Live.Chunks)
}
