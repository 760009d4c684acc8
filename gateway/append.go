package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// minPartBytes is the least a part but the last may have. It bounds the number
// of parts, and with it the token's size.
const minPartBytes = 64 << 10

func (g *Gateway) tooLarge() *kb.Error {
	return invalid(kb.ReasonUploadTooLarge, "data", "A document has at most %d bytes.", g.cfg.MaxUpload).
		With("max_bytes", strconv.FormatInt(g.cfg.MaxUpload, 10))
}

// AppendUpload implements the service. Each part is an unclaimed blob of its own
// and the token is all there is of an upload, so that any node takes the next part.
func (s documents) AppendUpload(ctx context.Context, req *v1.AppendUploadRequest) (*v1.AppendUploadResponse, error) {
	p := callOf(ctx).principal
	upload := s.uploads.start(p, s.now())
	if token := req.GetUploadToken(); token != "" {
		var err error
		if upload, err = s.uploads.open(p, token, s.now()); err != nil {
			return nil, err
		}
	}
	if len(req.GetData()) > 0 {
		if n := len(upload.Parts); n > 0 && upload.Parts[n-1].Size < minPartBytes {
			return nil, invalid(kb.ReasonUploadInvalid, "upload_token",
				"Part %d has fewer than %d bytes, so it was the last.", n, minPartBytes)
		}
		if upload.size()+int64(len(req.GetData())) > s.cfg.MaxUpload {
			return nil, s.tooLarge()
		}
		if err := s.tenantRoom(ctx, upload.size()+int64(len(req.GetData()))); err != nil {
			return nil, err
		}
		blob, err := s.store(ctx, bytes.NewReader(req.GetData()))
		if err != nil {
			return nil, err
		}
		upload.Parts = append(upload.Parts, newPart(blob))
	}
	token, err := s.uploads.seal(upload)
	if err != nil {
		return nil, err
	}
	return &v1.AppendUploadResponse{UploadToken: token, SizeBytes: upload.size()}, nil
}

// partsReader reads the parts of an upload as one stream, one open at a time.
type partsReader struct {
	ctx    context.Context
	blobs  Blobs
	tenant string
	parts  []uploadPart
	open   io.ReadCloser
	left   int64 // bytes the open part still owes
}

// Read implements io.Reader.
func (r *partsReader) Read(p []byte) (int, error) {
	for {
		if r.open == nil {
			if len(r.parts) == 0 {
				return 0, io.EOF
			}
			if err := r.next(); err != nil {
				return 0, err
			}
		}
		n, err := r.open.Read(p)
		r.left -= int64(n)
		if errors.Is(err, io.EOF) {
			if r.left != 0 {
				return n, errors.New("gateway: a part of an upload has not the size its token says")
			}
			if err = r.Close(); err != nil {
				return n, err
			}
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

func (r *partsReader) next() error {
	part := r.parts[0]
	body, info, err := r.blobs.OpenBlob(r.ctx, r.tenant, part.id())
	if errors.Is(err, journal.ErrNotFound) {
		return invalid(kb.ReasonUploadInvalid, "upload_token", "The parts of this upload are gone: it was used, or is too old.")
	}
	if err != nil {
		return err
	}
	r.parts, r.open, r.left = r.parts[1:], body, part.Size
	if info.Size != part.Size {
		return errors.New("gateway: a part of an upload has not the size its token says")
	}
	return nil
}

// Close closes the open part, if any.
func (r *partsReader) Close() error {
	if r.open == nil {
		return nil
	}
	err := r.open.Close()
	r.open = nil
	return err
}
