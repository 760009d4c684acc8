package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// cleanupTime bounds the deletion of a blob after its request is answered.
const cleanupTime = 5 * time.Second

// CreateDocument implements the service.
func (s documents) CreateDocument(ctx context.Context, req *v1.CreateDocumentRequest) (*v1.CreateDocumentResponse, error) {
	add, err := s.newAddition(ctx, "spec.knowledge_base", req.GetSpec())
	if err != nil {
		return nil, err
	}
	add.validateOnly = req.GetValidateOnly()
	var upload uploadToken
	var body io.Reader
	switch source := req.GetSource().(type) {
	case *v1.CreateDocumentRequest_Url:
		if err := validURL(source.Url); err != nil {
			return nil, err
		}
		result, err := s.send(ctx, add, &nodev1.SourceRef{Url: source.Url})
		return createResponse(result, err)
	case *v1.CreateDocumentRequest_Text:
		if add.spec.GetMediaType() == "" {
			add.spec.MediaType = "text/plain"
		}
		body = strings.NewReader(source.Text)
	case *v1.CreateDocumentRequest_Data:
		body = bytes.NewReader(source.Data)
	case *v1.CreateDocumentRequest_UploadToken:
		if upload, err = s.uploads.open(callOf(ctx).principal, source.UploadToken, s.now()); err != nil {
			return nil, err
		}
		parts := &partsReader{ctx: ctx, blobs: s.cfg.Blobs, tenant: callOf(ctx).principal.Tenant, parts: upload.Parts}
		defer func() { _ = parts.Close() }()
		body = parts
	default:
		return nil, invalid(kb.ReasonRequestInvalid, "source", "A source is required.")
	}
	result, err := s.add(ctx, add, body)
	if err == nil && !add.validateOnly && !add.keyed {
		// A keyed request may come again and must then find its parts, to be
		// recognised as the same; those of an unkeyed one are used up.
		s.deleteBlobs(ctx, upload.ids()...)
	}
	return createResponse(result, err)
}

func createResponse(r *nodev1.AddDocumentResult, err error) (*v1.CreateDocumentResponse, error) {
	if err != nil {
		return nil, err
	}
	return &v1.CreateDocumentResponse{Document: r.GetDocument(), Duplicate: r.GetDuplicate()}, nil
}

// addition is a document on its way to its knowledge base.
type addition struct {
	owner        string // id of the knowledge base
	spec         *v1.DocumentSpec
	key          string
	keyed        bool
	validateOnly bool
}

// newAddition checks what can be checked before a byte is stored.
func (s documents) newAddition(ctx context.Context, field string, spec *v1.DocumentSpec) (addition, error) {
	owner, full, err := parseKnowledgeBase(field, spec.GetKnowledgeBase())
	if err != nil {
		return addition{}, err
	}
	a := addition{owner: owner, spec: spec, key: spec.GetRequestId()}
	spec.KnowledgeBase, spec.RequestId = full, ""
	h, err := header(ctx, a.key)
	if err != nil {
		return addition{}, err
	}
	a.keyed = h.GetIdempotencyKey() != ""
	return a, nil
}

// add stores body as a blob and offers it to the knowledge base.
func (s documents) add(ctx context.Context, a addition, body io.Reader) (*nodev1.AddDocumentResult, error) {
	if a.validateOnly {
		h := sha256.New()
		size, err := io.Copy(h, body)
		if err != nil {
			return nil, err
		}
		return s.send(ctx, a, &nodev1.SourceRef{SizeBytes: size, Sha256: hex.EncodeToString(h.Sum(nil))})
	}
	blob, err := s.store(ctx, body)
	if err != nil {
		return nil, err
	}
	return s.offer(ctx, a, blob)
}

// offer sends a stored blob to the knowledge base, and deletes it again when the
// knowledge base says that it does not take it. Also after an answer that the
// document was there already it stays for the store's collection: deleting a blob
// that was claimed after all would lose a document, keeping one costs a day of disk.
func (s documents) offer(ctx context.Context, a addition, blob journal.BlobInfo) (*nodev1.AddDocumentResult, error) {
	result, err := s.send(ctx, a, &nodev1.SourceRef{Blob: blob.ID, SizeBytes: blob.Size, Sha256: blob.SHA256})
	if definite(err) {
		s.deleteBlobs(ctx, blob.ID)
	}
	return result, err
}

func (s documents) send(ctx context.Context, a addition, source *nodev1.SourceRef) (*nodev1.AddDocumentResult, error) {
	// After a long upload the question itself is an ordinary one.
	ctx, cancel := context.WithTimeout(ctx, defaultUnaryTime)
	defer cancel()
	reply, err := s.askKnowledgeBase(ctx, a.owner, &nodev1.KnowledgeBaseCall{
		Operation: &nodev1.KnowledgeBaseCall_AddDocument{AddDocument: &nodev1.AddDocument{
			Spec: a.spec, Source: source, ValidateOnly: a.validateOnly,
		}},
	}, a.key)
	if err != nil {
		return nil, err
	}
	if reply.GetAddDocument() == nil {
		return nil, errReply
	}
	return reply.GetAddDocument(), nil
}

// store streams body into a new blob of the caller's tenant.
func (s documents) store(ctx context.Context, body io.Reader) (journal.BlobInfo, error) {
	w, err := s.cfg.Blobs.CreateBlob(ctx, callOf(ctx).principal.Tenant)
	if err != nil {
		return journal.BlobInfo{}, err
	}
	defer w.Abort()
	if _, err := io.Copy(w, body); err != nil {
		return journal.BlobInfo{}, err
	}
	return w.Commit(ctx)
}

// deleteBlobs is a courtesy to the disk: what it misses is collected within a day.
func (s documents) deleteBlobs(ctx context.Context, ids ...string) {
	if len(ids) == 0 {
		return
	}
	c := callOf(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	var failed []error
	for _, id := range ids {
		failed = append(failed, s.cfg.Blobs.DeleteBlob(ctx, c.principal.Tenant, id))
	}
	if err := errors.Join(failed...); err != nil {
		s.log.WarnContext(ctx, "blobs not deleted; they are collected later", slog.String("request_id", c.requestID), slog.Any("error", err))
	}
}

// validURL checks the form only. Where the address leads is checked by the one
// who dials it, on every hop.
func validURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return invalid(kb.ReasonURLNotValid, "url", "The URL cannot be parsed.")
	case !strings.EqualFold(u.Scheme, "http") && !strings.EqualFold(u.Scheme, "https"):
		return invalid(kb.ReasonURLNotValid, "url", "The URL is not http or https.")
	case u.Hostname() == "" || u.Opaque != "":
		return invalid(kb.ReasonURLNotValid, "url", "The URL names no host.")
	case u.User != nil:
		return invalid(kb.ReasonURLNotValid, "url", "The URL carries credentials, which would be stored and shown.")
	}
	return nil
}
