package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway/archive"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// ImportKnowledgeBase implements the service. What can be known from the archive's
// header, and from the sizes of its sources as they come, is refused then. It is read to
// its end, and checked, before anything of it is more than a blob nobody claims; then the
// knowledge base is created, marked as being imported, and filled by the ordinary
// way of documents. It erases itself if this node does not come to the end.
func (s archives) ImportKnowledgeBase(ctx context.Context, stream granaryv1connect.ArchiveServiceImportKnowledgeBaseServerStream) (*v1.ImportKnowledgeBaseResponse, error) {
	connectionOf(ctx).reading()
	first, err := stream.Receive()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if first.GetSpec() == nil {
		return nil, invalid(kb.ReasonRequestInvalid, "spec", "The first message of an import is its spec, not data.")
	}
	im := &importer{Gateway: s.Gateway, ctx: ctx, spec: first.GetSpec(), blobs: make(map[string]journal.BlobInfo), used: make(map[string]bool), nextCheck: roomFirst}
	if im.key = im.spec.GetRequestId(); im.key == "" {
		im.key = uuid.NewString()
	}
	defer im.clean()
	if im.tenant, err = im.limits(); err != nil {
		return nil, err
	}
	summary, err := im.read(&receiver{ctx: ctx, next: func() ([]byte, error) {
		msg, err := stream.Receive()
		if err == nil && msg.GetSpec() != nil {
			err = secondSpec()
		}
		return msg.GetData(), err
	}})
	if err != nil {
		return nil, im.refusal(err)
	}
	connectionOf(ctx).streaming() // all is read; the answer takes its time
	out := &v1.ImportKnowledgeBaseResponse{Documents: im.documents, ExpiredDocuments: im.expired, SourceBytes: summary.SourceBytes}
	if out.KnowledgeBase, err = im.fill(summary.Hash); err != nil {
		return nil, err
	}
	return out, nil
}

// receiver reads the data messages of an import.
type receiver struct {
	ctx  context.Context
	next func() ([]byte, error) // of the stream
	left []byte
	err  error // of the stream
}

func secondSpec() error {
	return invalid(kb.ReasonRequestInvalid, "spec", "Only the first message of an import is a spec.")
}

func (r *receiver) Read(p []byte) (int, error) {
	for len(r.left) == 0 {
		connectionOf(r.ctx).reading()
		data, err := r.next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				r.err = err
			}
			return 0, err
		}
		r.left = data
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// unpacked tells errors of the packing from those of the stream.
type unpacked struct {
	z    io.Reader
	from *receiver
}

func (u *unpacked) Read(p []byte) (int, error) {
	n, err := u.z.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && u.from.err == nil {
		err = fmt.Errorf("%w: it cannot be unpacked, or is cut off", archive.ErrInvalid)
	}
	return n, err
}

// unpack gives what is read as a tar file, compressed or not; done ends it.
func unpack(r *receiver) (body io.Reader, done func(), err error) {
	in := bufio.NewReader(r)
	if head, err := in.Peek(len(zstdMagic)); err != nil || !bytes.Equal(head, zstdMagic) {
		return in, func() {}, nil
	}
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, nil, err
	}
	return &unpacked{z: z, from: r}, z.Close, nil
}

// importer is one import. It is the sink of its archive.
type importer struct {
	*Gateway
	ctx    context.Context
	spec   *v1.ImportSpec
	tenant *v1.TenantLimits

	key       string // identifies the request
	create    *v1.CreateKnowledgeBaseRequest
	blobs     map[string]journal.BlobInfo // sources by hash
	used      map[string]bool             // those given to a document
	copies    []string                    // blobs of further documents with the same source
	known     bool                        // the request came before: what it needs may be there already
	whole     bool                        // all that was given is claimed
	bytes     int64                       // of sources so far
	nextCheck int64                       // of them, at which room is asked for
	plan      journal.BlobWriter          // lines of documents to add
	planID    string                      // its blob
	documents int64
	expired   int64
	checked   bool // nothing is stored

	// Where a knowledge base of a tenant's archive goes, that was in a workspace.
	place func(workspace string) string
}

// limits are the tenant's: what is more than they allow need not be read to the end.
func (im *importer) limits() (*v1.TenantLimits, error) {
	reply, err := im.askTenant(im.ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_Get{Get: &v1.GetTenantRequest{}}}, "")
	return reply.GetTenant().GetLimits(), err
}

// zstdMagic begins compressed archives.
var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// read reads the archive to its end.
func (im *importer) read(r *receiver) (archive.Summary, error) {
	body, done, err := unpack(r)
	if err != nil {
		return archive.Summary{}, err
	}
	defer done()
	if err := im.begin(); err != nil {
		return archive.Summary{}, err
	}
	defer im.abort()
	summary, err := archive.Read(body, partLimits(im.tenant, im.cfg.MaxUpload), im)
	if err != nil {
		return summary, err
	}
	return summary, im.planned()
}

// partLimits bound an archive of a knowledge base.
func partLimits(t *v1.TenantLimits, source int64) archive.Limits {
	return archive.Limits{Documents: t.GetDocumentsPerKnowledgeBase(), SourceSize: source, SourceBytes: t.GetStorageBytes()}
}

// begin opens what the documents to add are noted in.
func (im *importer) begin() (err error) {
	if im.checked = im.spec.GetValidateOnly(); !im.checked {
		im.plan, err = im.cfg.Blobs.CreateBlob(im.ctx, callOf(im.ctx).principal.Tenant)
	}
	return err
}

// planned ends the plan: all is read.
func (im *importer) planned() error {
	if im.checked {
		return nil
	}
	info, err := im.plan.Commit(im.ctx)
	im.planID = info.ID
	return err
}

// abort gives a plan up that was not ended.
func (im *importer) abort() {
	if im.plan != nil {
		im.plan.Abort()
	}
}

// refusal says to the client what is wrong with its archive.
func (im *importer) refusal(err error) error {
	if errors.Is(err, archive.ErrInvalid) {
		return invalid(kb.ReasonArchiveInvalid, "data", "The archive cannot be imported: %v.", err)
	}
	return err
}

// Header implements archive.Sink.
func (im *importer) Header(h archive.Header) error {
	k := h.KnowledgeBase
	im.create = &v1.CreateKnowledgeBaseRequest{KnowledgeBaseId: im.spec.GetKnowledgeBaseId(), DisplayName: k.DisplayName, Description: k.Description,
		ValidateOnly: im.checked, Workspace: im.spec.GetWorkspace()}
	if im.place != nil {
		im.create.Workspace = im.place(k.Workspace)
	}
	if k.Config != nil {
		im.create.Config = &v1.Config{}
		if protojson.Unmarshal(k.Config, im.create.Config) != nil {
			return invalid(kb.ReasonArchiveInvalid, "data", "The settings in the archive cannot be read.")
		}
	}
	if k.Retention != nil {
		im.create.Retention = &v1.Retention{}
		if protojson.Unmarshal(k.Retention, im.create.Retention) != nil {
			return invalid(kb.ReasonArchiveInvalid, "data", "The retention in the archive cannot be read.")
		}
	}
	if err := im.valid(im.create); err != nil {
		return err
	}
	return im.probe()
}

// probe asks whether there may be such a knowledge base, before its sources come. It is
// decided when they are here. A request that came before is one that goes on.
func (im *importer) probe() error {
	create := proto.CloneOf(im.create)
	create.ValidateOnly = true
	_, err := im.ask(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_BeginImport{BeginImport: &nodev1.BeginImport{Create: create}}}, im.beginKey())
	if im.known = kb.Is(err, kb.ReasonIdempotencyMisuse); im.known {
		return nil
	}
	return onlyRefused(err)
}

// room asks for room whenever what has come so far has doubled.
func (im *importer) room(size int64) error {
	im.bytes += size
	if im.known || im.bytes < im.nextCheck {
		return nil
	}
	im.nextCheck = 2 * im.bytes
	return documents{im.Gateway}.tenantRoom(im.ctx, im.bytes)
}

// Source implements archive.Sink.
func (im *importer) Source(sha string, size int64, r io.Reader) error {
	if im.checked {
		_, err := io.Copy(io.Discard, r)
		return err
	}
	if err := im.room(size); err != nil {
		return err
	}
	info, err := documents{im.Gateway}.store(im.ctx, r)
	if err == nil {
		im.blobs[sha] = info
	}
	return err
}

var documentID = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$`)

// planLine is a document to add.
type planLine struct {
	Spec   json.RawMessage `json:"spec"`
	SHA256 string          `json:"sha256,omitempty"`
	URL    string          `json:"url,omitempty"`
}

// Document implements archive.Sink: checks the document as a request is, and plans it.
func (im *importer) Document(d archive.Document) error {
	if !d.ExpireTime.IsZero() && !d.ExpireTime.After(im.now()) {
		im.expired++
		return nil
	}
	spec := &v1.DocumentSpec{KnowledgeBase: knowledgeBasesPrefix + im.spec.GetKnowledgeBaseId(), DocumentId: d.ID, DisplayName: d.DisplayName,
		MediaType: d.MediaType, Metadata: d.Metadata, OnDuplicate: v1.OnDuplicate(v1.OnDuplicate_value[d.OnDuplicate])}
	if !d.ExpireTime.IsZero() {
		spec.Expiration = &v1.DocumentSpec_ExpireTime{ExpireTime: timestamppb.New(d.ExpireTime)}
	}
	if d.Chunking != nil {
		spec.Chunking = &v1.ChunkingConfig{}
		if protojson.Unmarshal(d.Chunking, spec.Chunking) != nil {
			return invalid(kb.ReasonArchiveInvalid, "data", "The chunking of the document %q in the archive cannot be read.", d.ID)
		}
	}
	if !documentID.MatchString(d.ID) {
		return invalid(kb.ReasonArchiveInvalid, "data", "%q is not a document id.", d.ID)
	}
	if d.URL != "" {
		if err := validURL(d.URL); err != nil {
			return err
		}
	}
	if err := im.valid(spec); err != nil {
		return err
	}
	im.documents++
	if im.checked {
		return nil
	}
	text, err := protojson.Marshal(spec)
	if err != nil {
		return err
	}
	line, err := json.Marshal(planLine{text, d.SHA256, d.URL})
	if err != nil {
		return err
	}
	_, err = im.plan.Write(append(line, '\n'))
	return err
}

// fill creates the knowledge base and adds the documents.
func (im *importer) fill(hash string) (*v1.KnowledgeBase, error) {
	begun, err := im.ask(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_BeginImport{
		BeginImport: &nodev1.BeginImport{Create: im.create, Archive: hash}}}, im.beginKey())
	if err != nil || im.checked {
		return nil, err
	}
	uid := begun.GetKnowledgeBase().GetUid()
	if err := im.addAll(uid); err != nil {
		im.undo(uid)
		return nil, err
	}
	im.whole = !im.known
	ended, err := im.ask(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_EndImport{EndImport: &nodev1.EndImport{Uid: uid}}}, im.beginKey()+"/end")
	return ended.GetKnowledgeBase(), err
}

func (im *importer) beginKey() string { return "import/" + im.key }

func (im *importer) addAll(uid string) error {
	r, _, err := im.cfg.Blobs.OpenBlob(im.ctx, callOf(im.ctx).principal.Tenant, im.planID)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	lines := bufio.NewReader(r)
	for {
		text, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := im.addLine(uid, text); err != nil {
			return err
		}
	}
}

func (im *importer) addLine(uid string, text []byte) error {
	var line planLine
	spec := &v1.DocumentSpec{}
	if err := errors.Join(json.Unmarshal(text, &line), protojson.Unmarshal(line.Spec, spec)); err != nil {
		return err
	}
	source := &nodev1.SourceRef{Url: line.URL}
	if line.SHA256 != "" {
		info, err := im.claim(line.SHA256)
		if err != nil {
			return err
		}
		source.Blob, source.SizeBytes, source.Sha256 = info.ID, info.Size, info.SHA256
	}
	_, err := im.ask(&nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_AddDocument{AddDocument: &nodev1.AddDocument{
		Spec: spec, Source: source, Distinct: true}}}, "import/"+uid+"/"+spec.GetDocumentId())
	return err
}

// claim gives a blob for one document: each has its own, to be erased with it.
func (im *importer) claim(sha string) (journal.BlobInfo, error) {
	info := im.blobs[sha]
	if !im.used[sha] {
		im.used[sha] = true
		return info, nil
	}
	r, _, err := im.cfg.Blobs.OpenBlob(im.ctx, callOf(im.ctx).principal.Tenant, info.ID)
	if err != nil {
		return journal.BlobInfo{}, err
	}
	defer func() { _ = r.Close() }()
	info, err = documents{im.Gateway}.store(im.ctx, r)
	if err == nil {
		im.copies = append(im.copies, info.ID)
	}
	return info, err
}

// ask sends a keyed operation, again and again while its owner moves.
func (im *importer) ask(m *nodev1.KnowledgeBaseCall, key string) (*nodev1.KnowledgeBaseReply, error) {
	backoff, since := watchBackoffMin, time.Now()
	for {
		ctx, cancel := context.WithTimeout(im.ctx, defaultUnaryTime)
		reply, err := im.askKeyed(ctx, im.spec.GetKnowledgeBaseId(), m, key)
		cancel()
		if err == nil || !passing(err) || im.ctx.Err() != nil || time.Since(since) > watchPatience {
			return reply, err
		}
		if err := pause(im.ctx, rand.N(backoff)+backoff/2); err != nil {
			return nil, err
		}
		backoff = min(2*backoff, watchBackoffMax)
	}
}

// undo erases what a failed import has made; if it cannot, the knowledge base does so.
func (im *importer) undo(uid string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(im.ctx), defaultUnaryTime)
	defer cancel()
	_, err := im.askKeyed(ctx, im.spec.GetKnowledgeBaseId(), &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_Delete{
		Delete: &v1.DeleteKnowledgeBaseRequest{}}}, "import/"+uid+"/undo")
	if err != nil {
		im.log.WarnContext(ctx, "a failed import was not undone; it is given up in two minutes", "error", err)
	}
}

// clean deletes the blobs that no document has claimed.
func (im *importer) clean() {
	var ids []string
	if im.planID != "" {
		ids = append(ids, im.planID)
	}
	given := slices.Clone(im.copies)
	for sha, info := range im.blobs {
		if im.used[sha] {
			given = append(given, info.ID)
		} else {
			ids = append(ids, info.ID)
		}
	}
	if !im.whole && len(given) > 0 {
		ids = append(ids, im.unclaimed(given)...)
	}
	for part := range slices.Chunk(ids, cleanupPart) {
		documents{im.Gateway}.deleteBlobs(im.ctx, part...)
	}
}

// cleanupPart is how many blobs are deleted in the time for one clean-up.
const cleanupPart = 100

// unclaimed gives those of the blobs that were meant for a document and became nobody's:
// their document was there already, or was never added.
func (im *importer) unclaimed(given []string) (out []string) {
	mine := make(map[string]bool, len(given))
	for _, id := range given {
		mine[id] = true
	}
	of := journal.Identity{Tenant: callOf(im.ctx).principal.Tenant}
	for after := ""; ; {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(im.ctx), cleanupTime)
		page, err := im.cfg.Blobs.ClaimedBlobs(ctx, of, after, 1000)
		cancel()
		if err != nil {
			im.log.WarnContext(im.ctx, "sources of an import not looked for; they are collected later", "error", err)
			return out
		}
		for _, id := range page {
			if mine[id] {
				out = append(out, id)
			}
		}
		if len(page) == 0 {
			return out
		}
		after = page[len(page)-1]
	}
}
