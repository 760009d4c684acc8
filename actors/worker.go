package actors

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/chunk"
	"granary.dev/granary/actors/pipeline/embed"
	"granary.dev/granary/actors/search"
)

// job is one run of the pipeline over one version of a document.
type job struct {
	deps    *Deps
	scope   journal.Scope
	fence   journal.Fence // of the knowledge base when the run began
	kbID    string
	doc     *kb.Document // immutable
	options chunk.Options
	place   *place
	slots   int // units the tenant may run at a time
	report  func(any)

	words      *search.Segment // keyword index of the attempt, when this run made it
	progressed bool            // this run stored vectors
	share      float64         // of the chunks that are embedded
}

// Reports of a run to its knowledge base. All carry the run they are of, so
// that a late one is told apart.
type (
	run struct {
		doc     string
		version int64
		attempt string
		epoch   int64 // of the activation: the next one may take the attempt up
	}
	stageReport struct {
		run
		state    kb.DocumentState
		fraction float64
		wait     wait
	}
	fetchedReport struct {
		run
		source    kb.Source
		mediaType string
		name      string
		decided   chan bool // true: go on
	}
	chunkedReport struct {
		run
		chunks  int
		model   string
		content kb.Content
		segment *search.Segment // words only
		decided chan bool
	}
	indexedReport struct {
		run
		chunks   int
		embedded int
		model    string
		content  kb.Content
		segment  *search.Segment // words and vectors; nil when there are no chunks
	}
	failedReport struct {
		run
		err   kb.DocumentError
		wait  time.Duration
		cause error

		progressed bool // vectors were stored before it failed
	}
)

func (r run) of() run { return r }

// worker is the child actor of one run: it starts the run's goroutine, and ends
// it when the knowledge base stops the child. A run that panics is a crash of
// the child, which the knowledge base's supervision restarts with back-off.
type worker struct {
	job    job
	end    func() // says that no run of this child will begin any more
	cancel context.CancelFunc
}

// crashed tells a worker that its run panicked.
type crashed struct{ err error }

// Receive implements actor.Actor.
func (w *worker) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		runCtx, cancel := context.WithCancel(context.Background())
		w.cancel = cancel
		self, root := ctx.Self(), ctx.ActorSystem().Root
		ended := w.job.deps.runs.begin(w.job.scope, w.job.doc.Attempt)
		go func() {
			defer ended()
			defer w.job.place.release()
			if w.job.place.enter(runCtx) != nil {
				return
			}
			w.job.guard(runCtx, func(err error) { root.Send(self, &crashed{err}) })
		}()
	case *actor.Stopped:
		w.end()
	case *crashed:
		panic(m.err) //nolint:forbidigo // the supervisor decides: this is how a child fails
	case *actor.Stopping, *actor.Restarting:
		if w.cancel != nil {
			w.cancel()
		}
	}
}

// guard runs the job, reports the error it ends with, and tells of a panic.
func (j *job) guard(ctx context.Context, crash func(error)) {
	defer func() {
		if p := recover(); p != nil {
			crash(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	err := j.process(ctx)
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.Is(err, journal.ErrFenced):
		j.report(&lostMsg{j.fence}) // nothing of the document's: its next owner goes on
	default:
		j.report(&failedReport{run: j.run(), err: documentError(err), wait: retryAfter(err), cause: err, progressed: j.progressed})
	}
}

func (j *job) run() run {
	return run{doc: j.doc.ID, version: j.doc.Version, attempt: j.doc.Attempt, epoch: j.fence.Epoch}
}

func (j *job) stage(s kb.DocumentState, fraction float64) {
	j.report(&stageReport{run: j.run(), state: s, fraction: fraction})
}

// errStopped ends a run whose knowledge base decided against it.
var errStopped = errors.New("actors: the run was stopped")

// process is the pipeline: fetch → parse → chunk → embed → index. With chunks
// durably written by an earlier run it goes on from there.
func (j *job) process(ctx context.Context) error {
	if j.doc.Chunked > 0 {
		chunks, err := j.storedChunks(ctx)
		if err != nil {
			return err
		}
		if len(chunks) == j.doc.Chunked {
			return j.finish(ctx, chunks, j.doc.Content)
		}
		// The rows are not what the journal says: make them again.
	}
	source := j.doc.Source
	if source.Blob == "" {
		var err error
		if source, err = j.fetch(ctx); err != nil {
			return stopped(err)
		}
	}
	parsed, chunks, err := j.parse(ctx, source)
	if err != nil {
		return err
	}
	content := kb.Content{MediaType: parsed.MediaType, Language: parsed.Language, Title: clip(parsed.Title, 500),
		Pages: parsed.Pages, Warnings: clipAll(parsed.Warnings)}
	stored, err := j.write(ctx, chunks, content)
	if err != nil {
		return stopped(err)
	}
	return j.finish(ctx, stored, content)
}

func stopped(err error) error {
	if errors.Is(err, errStopped) {
		return nil
	}
	return err
}

// fetch stores what the URL delivers and asks the knowledge base whether to go on.
func (j *job) fetch(ctx context.Context) (kb.Source, error) {
	j.stage(kb.StateFetching, 0)
	w, err := j.deps.Blobs.CreateBlob(ctx, j.scope.Tenant)
	if err != nil {
		return kb.Source{}, err
	}
	defer w.Abort()
	got, err := j.deps.Fetcher.Fetch(ctx, j.doc.Source.URL, w)
	if err != nil {
		return kb.Source{}, err
	}
	info, err := w.Commit(ctx)
	if err != nil {
		return kb.Source{}, err
	}
	source := kb.Source{Blob: info.ID, Size: info.Size, SHA256: info.SHA256, URL: j.doc.Source.URL}
	decided := make(chan bool, 1)
	j.report(&fetchedReport{run: j.run(), source: source, mediaType: got.MediaType, name: got.FileName, decided: decided})
	if j.doc.MediaType == "" {
		d := *j.doc
		d.MediaType, d.Name = got.MediaType, firstOf(d.Name, got.FileName)
		j.doc = &d
	}
	return source, j.await(ctx, decided)
}

// await waits for the knowledge base's decision to be committed.
func (j *job) await(ctx context.Context, decided <-chan bool) error {
	select {
	case ok := <-decided:
		if !ok {
			return errStopped
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// parse reads and cuts the source under one processing slot.
func (j *job) parse(ctx context.Context, source kb.Source) (*pipeline.Parsed, []pipeline.Chunk, error) {
	release, err := j.deps.Slots.Acquire(ctx, j.scope.Tenant, j.kbID, j.slots, Work{StageParse, source.Size})
	if err != nil {
		return nil, nil, err
	}
	defer release()
	j.stage(kb.StateParsing, 0)
	body, info, err := j.deps.Blobs.OpenBlob(ctx, j.scope.Tenant, source.Blob)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = body.Close() }()
	parsed, err := j.deps.Parser.Parse(ctx, ParseRequest{Tenant: j.scope.Tenant, Name: j.doc.Name, MediaType: j.doc.MediaType, Body: body, Size: info.Size})
	if err != nil {
		return nil, nil, err
	}
	j.stage(kb.StateChunking, 0)
	chunks, err := chunk.Split(parsed, j.options)
	return parsed, chunks, err
}

// write makes the chunks durable and reports them with their keyword index.
func (j *job) write(ctx context.Context, chunks []pipeline.Chunk, content kb.Content) ([]journal.Chunk, error) {
	rows := make([]journal.Chunk, len(chunks))
	for i, c := range chunks {
		rows[i] = journal.Chunk{Ordinal: c.Ordinal, Text: c.Text, Start: c.Start, End: c.End, Page: c.Page,
			Headings: c.Headings, Language: c.Language, Kind: uint8(c.Kind), Hash: chunk.Hash(c, content.Title),
			Model: j.deps.Embedder.Model()}
	}
	if len(rows) == 0 {
		return nil, nil
	}
	if err := j.deps.Chunks.PutChunks(ctx, j.fence, j.attempt(), rows); err != nil {
		return nil, err
	}
	segment, err := j.analyse(ctx, content, chunks)
	if err != nil {
		return nil, err
	}
	j.words = segment
	decided := make(chan bool, 1)
	j.report(&chunkedReport{run: j.run(), chunks: len(rows), model: j.deps.Embedder.Model(),
		content: content, segment: segment, decided: decided})
	return rows, j.await(ctx, decided)
}

// analyse builds the keyword index of the attempt, which is work as parsing is.
func (j *job) analyse(ctx context.Context, content kb.Content, chunks []pipeline.Chunk) (*search.Segment, error) {
	release, err := j.deps.Slots.Acquire(ctx, j.scope.Tenant, j.kbID, j.slots, analysing(chunks))
	if err != nil {
		return nil, err
	}
	defer release()
	return search.BuildSegment([]search.SegmentDoc{segmentDoc(j.doc, j.doc.Version, j.doc.Attempt, content, chunks, nil)})
}

func analysing(chunks []pipeline.Chunk) Work {
	w := Work{Stage: StageAnalyse}
	for _, c := range chunks {
		w.Bytes += int64(len(c.Text))
	}
	return w
}

// embedding is what is embedded until others may go first.
func embedding(in []embed.Input) Work {
	w := Work{Stage: StageEmbed}
	for _, i := range in {
		w.Bytes += int64(len(i.Text))
	}
	w.Bytes = min(w.Bytes, embed.TurnBytes)
	return w
}

func (j *job) attempt() journal.Attempt {
	return journal.Attempt{Scope: j.scope, Document: j.doc.ID, Version: j.doc.Version, ID: j.doc.Attempt}
}

// embedBatch is how many chunks are embedded between two checkpoints.
const embedBatch = 32

// finish embeds what is not embedded yet, checks that the attempt is whole and
// reports it.
func (j *job) finish(ctx context.Context, rows []journal.Chunk, content kb.Content) error {
	model := j.deps.Embedder.Model()
	report := &indexedReport{run: j.run(), chunks: len(rows), model: model, content: content}
	if len(rows) == 0 {
		j.report(report)
		return nil
	}
	embeddings := make([]pipeline.Embedding, len(rows))
	for from := 0; from < len(rows); from += embedBatch {
		to := min(from+embedBatch, len(rows))
		j.stage(kb.StateEmbedding, float64(from)/float64(len(rows)))
		j.share = float64(from) / float64(len(rows))
		if err := j.embed(ctx, rows[from:to], embeddings[from:to], content.Title); err != nil {
			return err
		}
	}
	j.stage(kb.StateIndexing, 0)
	var err error
	if _, report.embedded, err = j.deps.Chunks.CountChunks(ctx, j.scope, j.doc.Attempt, model); err != nil {
		return err
	}
	if report.embedded != len(rows) {
		// Somebody collected vectors between two steps; the next run makes them again.
		return &pipeline.Error{Stage: "index", Reason: "VECTORS_MISSING", Retryable: true,
			Message: fmt.Sprintf("%d of %d embeddings are stored", report.embedded, len(rows))}
	}
	if report.segment, err = j.segment(content, rows, embeddings); err != nil {
		return err
	}
	j.report(report)
	return nil
}

// segment is the attempt's whole index; the words are analysed once.
func (j *job) segment(content kb.Content, rows []journal.Chunk, e []pipeline.Embedding) (*search.Segment, error) {
	if j.words != nil {
		return j.words.WithVectors(e)
	}
	return search.BuildSegment([]search.SegmentDoc{
		segmentDoc(j.doc, j.doc.Version, j.doc.Attempt, content, pipelineChunks(rows), e)})
}

// embed fills embeddings for one batch, from the checkpoint where it can, and
// extends the checkpoint by what it had to compute.
func (j *job) embed(ctx context.Context, rows []journal.Chunk, out []pipeline.Embedding, title string) error {
	model := j.deps.Embedder.Model()
	hashes := make([]string, len(rows))
	for i, r := range rows {
		hashes[i] = r.Hash
	}
	known, err := j.deps.Chunks.VectorsByHash(ctx, j.scope, model, hashes)
	if err != nil {
		return err
	}
	var in []embed.Input
	var missing []string
	asked := make(map[string]bool)
	for _, r := range rows {
		if _, ok := known[r.Hash]; !ok && !asked[r.Hash] {
			asked[r.Hash] = true
			missing = append(missing, r.Hash)
			in = append(in, embed.Input{Text: chunk.EmbedText(pipelineChunk(r), title), Language: r.Language})
		}
	}
	if len(in) > 0 {
		fresh, err := j.compute(ctx, model, in, missing)
		if err != nil {
			return err
		}
		for _, v := range fresh {
			known[v.Hash] = v
		}
	}
	for i, r := range rows {
		v := known[r.Hash]
		out[i] = pipeline.Embedding{Space: pipeline.Space(v.Space), Vectors: v.Data}
	}
	return nil
}

// compute embeds under a processing slot and stores what it got, also when
// only a part of the batch succeeded.
func (j *job) compute(ctx context.Context, model string, in []embed.Input, hashes []string) ([]journal.Vectors, error) {
	if err := j.count(ctx); err != nil {
		return nil, err
	}
	release, err := j.deps.Slots.Acquire(ctx, j.scope.Tenant, j.kbID, j.slots, embedding(in))
	if err != nil {
		return nil, err
	}
	got, embedErr := j.deps.Embedder.Passages(embed.WithTurns(ctx, func(ctx context.Context) (err error) {
		release()
		release, err = j.deps.Slots.Acquire(ctx, j.scope.Tenant, j.kbID, j.slots, embedding(in))
		return err
	}), in)
	if release != nil { // else the wait for the next turn was ended
		release()
	}
	fresh := make([]journal.Vectors, len(got))
	for i, e := range got {
		fresh[i] = journal.Vectors{Hash: hashes[i], Space: uint8(e.Space), Data: e.Vectors}
	}
	if len(fresh) > 0 {
		if err := j.deps.Chunks.PutVectors(context.WithoutCancel(ctx), j.fence, j.scope, model, fresh); err != nil {
			return nil, err
		}
		j.progressed = true
	}
	return fresh, embedErr
}

// count takes a vector operation of the tenant's for one batch, and says so while it waits
// for one: nothing is wrong with the document.
func (j *job) count(ctx context.Context) error {
	if j.deps.Meters == nil {
		return nil
	}
	return j.deps.Meters.Wait(ctx, j.scope.Tenant, kb.MeterVectors, func(until time.Time) {
		s := &stageReport{run: j.run(), state: kb.StateEmbedding, fraction: j.share}
		if !until.IsZero() {
			s.wait = wait{kb.ReasonVectorLimit, until}
		}
		j.report(s)
	})
}

// storedChunks reads the chunks an earlier run wrote.
func (j *job) storedChunks(ctx context.Context) ([]journal.Chunk, error) {
	return readChunks(ctx, j.deps.Chunks, j.scope, j.doc.Attempt)
}
