package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway/archive"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// archives serves granary.v1.ArchiveService. A node holds a page of documents and a
// piece of a source of each archive, never the whole.
type archives struct{ *Gateway }

const (
	exportPiece = 256 << 10 // bytes of one message of an export
	exportPage  = 100       // documents asked for at a time
)

// ExportKnowledgeBase implements the service.
func (s archives) ExportKnowledgeBase(ctx context.Context, req *v1.ExportKnowledgeBaseRequest, stream granaryv1connect.ArchiveServiceExportKnowledgeBaseServerStream) error {
	id, _, err := parseKnowledgeBase("name", req.GetName())
	if err != nil {
		return err
	}
	e := &exporter{Gateway: s.Gateway, ctx: ctx, id: id}
	first, err := e.page()
	if err != nil {
		return err
	}
	defer e.end()
	connectionOf(ctx).streaming()
	out, done := packed(req.GetCompression(), func(b []byte) error {
		return connectionOf(ctx).send(func() error { return stream.Send(&v1.ExportKnowledgeBaseResponse{Data: b}) })
	})
	h, err := e.header(first)
	if err != nil {
		return err
	}
	w, err := archive.NewWriter(out, h)
	if err != nil {
		return err
	}
	erased, err := e.write(w, first)
	if err != nil {
		return err
	}
	return errors.Join(w.Close(erased), done())
}

// ExportTenant implements the service.
func (s archives) ExportTenant(ctx context.Context, req *v1.ExportTenantRequest, stream granaryv1connect.ArchiveServiceExportTenantServerStream) error {
	reply, err := s.askTenant(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_Get{Get: &v1.GetTenantRequest{}}}, "")
	if err != nil {
		return err
	}
	tenant, err := protojson.Marshal(reply.GetTenant())
	if err != nil {
		return err
	}
	connectionOf(ctx).streaming()
	out, done := packed(req.GetCompression(), func(b []byte) error {
		return connectionOf(ctx).send(func() error { return stream.Send(&v1.ExportTenantResponse{Data: b}) })
	})
	who, err := s.exportAccess(ctx)
	if err != nil {
		return err
	}
	w, err := archive.NewTenantWriter(out, s.now().UTC(), tenant, who)
	if err != nil {
		return err
	}
	list := &v1.ListKnowledgeBasesRequest{PageSize: 1000}
	for {
		reply, err := s.askTenant(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_List{List: list}}, "")
		if err != nil {
			return err
		}
		for _, k := range reply.GetList().GetKnowledgeBases() {
			if err := s.exportPart(ctx, w, k.GetName()); err != nil {
				return err
			}
		}
		if list.PageToken = reply.GetList().GetNextPageToken(); list.GetPageToken() == "" {
			return errors.Join(w.Close(), done())
		}
	}
}

// exportPart writes one knowledge base into a tenant's archive. One that was deleted
// since it was listed has no part.
func (s archives) exportPart(ctx context.Context, w *archive.TenantWriter, name string) error {
	id, _, err := parseKnowledgeBase("name", name)
	if err != nil {
		return err
	}
	e := &exporter{Gateway: s.Gateway, ctx: ctx, id: id}
	first, err := e.page()
	if gone, ok := errors.AsType[*kb.Error](err); ok && gone.Reason == kb.ReasonKnowledgeBaseNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	defer e.end()
	h, err := e.header(first)
	if err != nil {
		return err
	}
	part, err := w.KnowledgeBase(h)
	if err != nil {
		return err
	}
	erased, err := e.write(part, first)
	if err != nil {
		return err
	}
	return w.End(part, erased)
}

// packed gives what an archive is written to, and what ends it.
func packed(c v1.Compression, send func([]byte) error) (io.Writer, func() error) {
	out := bufio.NewWriterSize(sender(send), exportPiece)
	if c == v1.Compression_COMPRESSION_NONE {
		return out, out.Flush
	}
	z, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil { // only of options that do not go together
		return out, func() error { return err }
	}
	return z, func() error { return errors.Join(z.Close(), out.Flush()) }
}

// sender makes messages of what is written.
type sender func([]byte) error

func (f sender) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), exportPiece)
		if err := f(rest[:n:n]); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// exporter reads one knowledge base as it was at one revision.
type exporter struct {
	*Gateway
	ctx    context.Context
	id     string
	export string
	after  int64
}

func (e *exporter) page() (*nodev1.ExportPage, error) {
	return e.ask(e.ctx, &nodev1.ReadExport{Export: e.export, After: e.after, Limit: exportPage})
}

func (e *exporter) ask(ctx context.Context, r *nodev1.ReadExport) (*nodev1.ExportPage, error) {
	ctx, cancel := context.WithTimeout(ctx, defaultUnaryTime)
	defer cancel()
	reply, err := e.askKnowledgeBase(ctx, e.id, &nodev1.KnowledgeBaseCall{Operation: &nodev1.KnowledgeBaseCall_ReadExport{ReadExport: r}}, "")
	if err != nil {
		return nil, err
	}
	p := reply.GetExportPage()
	if p == nil {
		return nil, errReply
	}
	e.export = p.GetExport()
	if n := len(p.GetDocuments()); n > 0 {
		e.after = p.GetDocuments()[n-1].GetCreatedRevision()
	}
	return p, nil
}

// end lets the knowledge base forget the export; it would by itself.
func (e *exporter) end() {
	ctx := context.WithoutCancel(e.ctx)
	if _, err := e.ask(ctx, &nodev1.ReadExport{Export: e.export, End: true}); err != nil {
		e.log.DebugContext(ctx, "export not ended", slog.Any("error", err))
	}
}

func (e *exporter) header(first *nodev1.ExportPage) (archive.Header, error) {
	k := first.GetKnowledgeBase()
	h := archive.Header{Created: e.now().UTC(), Revision: first.GetRevision(), KnowledgeBase: archive.KnowledgeBase{ID: e.id,
		DisplayName: k.GetDisplayName(), Description: k.GetDescription(), Workspace: k.GetWorkspace()}}
	var err error
	if h.KnowledgeBase.Config, err = message(k.GetConfig()); err != nil {
		return h, err
	}
	h.KnowledgeBase.Retention, err = message(k.GetRetention())
	return h, err
}

// message is protobuf JSON of a part of an archive; nil for none.
func message(m proto.Message) (json.RawMessage, error) {
	if !m.ProtoReflect().IsValid() {
		return nil, nil
	}
	return protojson.Marshal(m)
}

// write writes all documents, each page after its sources, and tells how many were
// erased before their source was sent.
func (e *exporter) write(w *archive.Writer, page *nodev1.ExportPage) (erased int64, err error) {
	for {
		var lines []archive.Document
		for _, d := range page.GetDocuments() {
			there, err := e.source(w, d.GetSource())
			if err != nil {
				return erased, err
			}
			if !there {
				erased++
				continue
			}
			line, err := archived(d)
			if err != nil {
				return erased, err
			}
			lines = append(lines, line)
		}
		if err := w.Documents(lines); err != nil {
			return erased, err
		}
		if page.GetLast() {
			return erased, nil
		}
		if page, err = e.page(); err != nil {
			return erased, err
		}
	}
}

// source writes a document's source unless the archive has it; false when it is erased.
func (e *exporter) source(w *archive.Writer, s *nodev1.SourceRef) (there bool, err error) {
	if s.GetBlob() == "" || w.Has(s.GetSha256()) {
		return true, nil
	}
	body, info, err := e.cfg.Blobs.OpenBlob(e.ctx, callOf(e.ctx).principal.Tenant, s.GetBlob())
	if errors.Is(err, journal.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = body.Close() }()
	return true, w.Source(info.SHA256, info.Size, body)
}

// archived is a document's line.
func archived(d *nodev1.ExportDocument) (archive.Document, error) {
	spec, source, doc := d.GetSpec(), d.GetSource(), d.GetDocument()
	out := archive.Document{ID: spec.GetDocumentId(), DisplayName: spec.GetDisplayName(), MediaType: spec.GetMediaType(), Metadata: spec.GetMetadata(),
		SHA256: source.GetSha256(), Size: source.GetSizeBytes(), URL: source.GetUrl(), Version: doc.GetVersion(), State: doc.GetState().String(),
		CreateTime: doc.GetCreateTime().AsTime(), UpdateTime: doc.GetUpdateTime().AsTime()}
	if spec.GetOnDuplicate() != v1.OnDuplicate_ON_DUPLICATE_UNSPECIFIED {
		out.OnDuplicate = spec.GetOnDuplicate().String()
	}
	if source.GetBlob() == "" {
		out.SHA256, out.Size = "", 0
	}
	if doc.GetExpireTime() != nil {
		out.ExpireTime = doc.GetExpireTime().AsTime()
	}
	if spec.GetChunking() == nil {
		return out, nil
	}
	var err error
	out.Chunking, err = message(spec.GetChunking())
	return out, err
}

// maxImportTime is how long an import may take.
const maxImportTime = 6 * time.Hour
