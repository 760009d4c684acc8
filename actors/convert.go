package actors

import (
	"errors"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// kbName and docName are resource names as clients see them.
func kbName(id string) string        { return "knowledgeBases/" + id }
func docName(kbID, id string) string { return kbName(kbID) + "/documents/" + id }

// docID takes the document id out of a resource name.
func docID(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// errorProto turns an error into its wire form; what is not ours becomes INTERNAL.
func errorProto(err error) *nodev1.Error {
	e, ok := errors.AsType[*kb.Error](err)
	if !ok {
		return &nodev1.Error{Code: int32(kb.CodeInternal), Reason: kb.ReasonInternal, Message: "internal error"}
	}
	out := &nodev1.Error{Code: int32(e.Code), Reason: e.Reason, Message: e.Message, Metadata: e.Metadata}
	for _, f := range e.Fields {
		out.Fields = append(out.Fields, &nodev1.FieldViolation{Field: f.Field, Description: f.Description})
	}
	if e.RetryAfter > 0 {
		out.RetryAfter = durationpb.New(e.RetryAfter)
	}
	return out
}

// fromError is the inverse of errorProto.
func fromError(p *nodev1.Error) error {
	e := &kb.Error{Code: kb.Code(p.GetCode()), Reason: p.GetReason(), Message: p.GetMessage(), Metadata: p.GetMetadata(),
		RetryAfter: p.GetRetryAfter().AsDuration()}
	for _, f := range p.GetFields() {
		e.Fields = append(e.Fields, kb.FieldViolation{Field: f.GetField(), Description: f.GetDescription()})
	}
	return e
}

func number[F, T ~int | ~int32](p *F) *T {
	if p == nil {
		return nil
	}
	v := T(*p)
	return &v
}

func enum[F ~int32, T ~uint8](p *F) *T {
	if p == nil || *p < 0 {
		return nil
	}
	v := T(*p)
	return &v
}

func enumProto[F ~uint8, T ~int32](p *F) *T {
	if p == nil {
		return nil
	}
	v := T(*p)
	return &v
}

func chunkingOf(c *granaryv1.ChunkingConfig) kb.ChunkingConfig {
	if c == nil {
		return kb.ChunkingConfig{}
	}
	return kb.ChunkingConfig{TargetWords: number[int32, int](c.TargetWords), MaxWords: number[int32, int](c.MaxWords),
		OverlapSentences: number[int32, int](c.OverlapSentences)}
}

func retrievalOf(r *granaryv1.RetrievalConfig) kb.RetrievalConfig {
	if r == nil {
		return kb.RetrievalConfig{}
	}
	return kb.RetrievalConfig{Mode: enum[granaryv1.SearchMode, kb.SearchMode](r.Mode), TopN: number[int32, int](r.TopN),
		KeywordWeight: r.KeywordWeight, Fusion: enum[granaryv1.Fusion, kb.Fusion](r.Fusion), MinScore: r.MinScore,
		Candidates: number[int32, int](r.Candidates)}
}

func configOf(c *granaryv1.Config) kb.Config {
	if c == nil {
		return kb.Config{}
	}
	out := kb.Config{Chunking: chunkingOf(c.GetChunking()), Retrieval: retrievalOf(c.GetRetrieval())}
	if e := c.GetEmbedding(); e != nil {
		out.Embedding.Model = e.Model
	}
	return out
}

func configProto(c kb.Config) *granaryv1.Config {
	return &granaryv1.Config{
		Chunking: &granaryv1.ChunkingConfig{TargetWords: number[int, int32](c.Chunking.TargetWords),
			MaxWords: number[int, int32](c.Chunking.MaxWords), OverlapSentences: number[int, int32](c.Chunking.OverlapSentences)},
		Embedding: &granaryv1.EmbeddingConfig{Model: c.Embedding.Model},
		Retrieval: &granaryv1.RetrievalConfig{Mode: enumProto[kb.SearchMode, granaryv1.SearchMode](c.Retrieval.Mode),
			TopN: number[int, int32](c.Retrieval.TopN), KeywordWeight: c.Retrieval.KeywordWeight,
			Fusion: enumProto[kb.Fusion, granaryv1.Fusion](c.Retrieval.Fusion), MinScore: c.Retrieval.MinScore,
			Candidates: number[int, int32](c.Retrieval.Candidates)},
	}
}

func effectiveProto(e kb.Effective, own, tenant int64) *granaryv1.EffectiveConfig {
	out := &granaryv1.EffectiveConfig{ConfigVersion: own, TenantVersion: tenant,
		Sources: make(map[string]granaryv1.ConfigLayer, len(e.Sources))}
	for path, layer := range e.Sources {
		out.Sources[path] = granaryv1.ConfigLayer(layer)
	}
	out.Config = configProto(kb.Config{
		Chunking:  kb.ChunkingConfig{TargetWords: &e.TargetWords, MaxWords: &e.MaxWords, OverlapSentences: &e.OverlapSentences},
		Embedding: kb.EmbeddingConfig{Model: &e.Model},
		Retrieval: kb.RetrievalConfig{Mode: &e.Mode, TopN: &e.TopN, KeywordWeight: &e.KeywordWeight, Fusion: &e.Fusion,
			MinScore: &e.MinScore, Candidates: &e.Candidates},
	})
	return out
}

func limitsProto(l kb.Limits) *granaryv1.TenantLimits {
	return &granaryv1.TenantLimits{ConcurrentProcessing: l.ConcurrentProcessing, DocumentsPerKnowledgeBase: l.DocumentsPerKB,
		StorageBytes: l.StorageBytes, ApiCallsPerHour: l.APICallsPerHour, VectorOperationsPerMinute: l.VectorOperationsPerMinute}
}

func limitsOf(l *granaryv1.TenantLimits) kb.Limits {
	return kb.Limits{ConcurrentProcessing: l.GetConcurrentProcessing(), DocumentsPerKB: l.GetDocumentsPerKnowledgeBase(),
		StorageBytes: l.GetStorageBytes(), APICallsPerHour: l.GetApiCallsPerHour(),
		VectorOperationsPerMinute: l.GetVectorOperationsPerMinute()}
}

func documentErrorProto(e *kb.DocumentError, retry time.Time) *granaryv1.DocumentError {
	if e == nil {
		return nil
	}
	return &granaryv1.DocumentError{Reason: e.Reason, Message: e.Message, Stage: e.Stage, Retryable: e.Retryable, RetryTime: timestamp(retry)}
}

// documentProto is a document as clients see it; p is the passing state of its run, or nil.
func documentProto(kbID string, d *kb.Document, p *progress) *granaryv1.Document {
	out := &granaryv1.Document{
		Name: docName(kbID, d.ID), DisplayName: d.Name, Version: d.Version, State: granaryv1.DocumentState(d.State),
		MediaType: firstOf(d.Content.MediaType, d.MediaType), Language: d.Content.Language, Title: d.Content.Title,
		SizeBytes: d.Source.Size, Sha256: d.Source.SHA256, SourceUrl: d.Source.URL, Pages: int32(d.Content.Pages),
		ChunkCount: int32(d.Chunked), Attempts: int32(d.Runs), Error: documentErrorProto(d.Error, d.RetryAt),
		Metadata: d.Metadata, Warnings: d.Content.Warnings, CreateTime: timestamp(d.Created), UpdateTime: timestamp(d.Updated),
		Revision: d.UpdatedSeq,
	}
	if d.State == kb.StateReady {
		out.EmbeddedChunkCount, out.Progress = out.ChunkCount, 1
	}
	if d.Live != nil && d.State != kb.StateDeleting {
		out.SearchableVersion = d.Live.Version
		out.KeywordSearchable = !d.Live.Embedded
	}
	if p != nil && d.State.Processing() && p.version == d.Version {
		out.State, out.Progress = granaryv1.DocumentState(p.state), p.fraction
		out.WaitReason, out.WaitUntil = p.wait.reason, timestamp(p.wait.until)
		if p.state == kb.StateEmbedding {
			out.EmbeddedChunkCount = int32(p.fraction * float64(d.Chunked))
		}
	}
	return out
}

// eventProto is a journal entry as clients see it.
func eventProto(kbID string, seq int64, at time.Time, principal, requestID string, ev kb.Event) *granaryv1.Event {
	out := &granaryv1.Event{Revision: seq, Time: timestamp(at), Type: ev.Type(), Principal: principal, RequestId: requestID}
	detail := func(kv ...string) {
		out.Details = make(map[string]string, len(kv)/2)
		for i := 0; i < len(kv); i += 2 {
			if kv[i+1] != "" {
				out.Details[kv[i]] = kv[i+1]
			}
		}
	}
	about := func(id string, version int64, s kb.DocumentState) {
		out.Document, out.Version, out.State = docName(kbID, id), version, granaryv1.DocumentState(s)
	}
	switch e := ev.(type) {
	case *kb.Created:
		detail("uid", e.UID, "display_name", e.DisplayName)
	case *kb.Updated:
		detail("display_name", e.DisplayName, "config_version", itoa(e.ConfigVersion))
	case *kb.DocumentAdded:
		about(e.ID, e.Version, kb.StateQueued)
		detail("display_name", e.Name, "sha256", e.Source.SHA256, "source_url", e.Source.URL)
	case *kb.DocumentStarted:
		about(e.ID, e.Version, e.Stage)
	case *kb.DocumentFetched:
		about(e.ID, e.Version, kb.StateParsing)
		detail("sha256", e.Source.SHA256, "size_bytes", itoa(e.Source.Size))
	case *kb.DocumentChunked:
		about(e.ID, e.Version, kb.StateEmbedding)
		detail("chunks", itoa(int64(e.Chunks)), "model", e.Model)
	case *kb.DocumentIndexed:
		state := kb.StateReady
		if e.Chunks == 0 {
			state = kb.StateReadyEmpty
		}
		about(e.ID, e.Version, state)
		detail("chunks", itoa(int64(e.Chunks)), "model", e.Model)
	case *kb.DocumentPaused:
		about(e.ID, e.Version, kb.StateQueued)
	case *kb.DocumentRetried:
		about(e.ID, e.Version, kb.StateQueued)
		out.Error = documentErrorProto(&e.Error, e.RetryAt)
	case *kb.DocumentFailed:
		about(e.ID, e.Version, kb.StateFailed)
		out.Error = documentErrorProto(&e.Error, time.Time{})
	case *kb.DocumentCancelled:
		about(e.ID, e.Version, kb.StateCancelled)
	case *kb.DocumentDeleteRequested:
		about(e.ID, 0, kb.StateDeleting)
		if e.Expired {
			detail("reason", "EXPIRED")
		}
	case *kb.DocumentErasing:
		about(e.ID, 0, kb.StateDeleting)
		detail("chunks", itoa(e.Counts.Chunks), "vectors", itoa(e.Counts.Vectors), "blobs", itoa(e.Counts.Blobs))
	case *kb.DocumentDeleted:
		about(e.ID, 0, kb.StateNone)
		detail("receipt", e.Receipt)
	}
	return out
}
