package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/proto"

	"granary.dev/granary/actors/kb"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	// maxUpload is the most bytes the API takes for one document.
	maxUpload = 64 << 20
	// uploadPart is one message of a streamed upload, the most the API takes.
	uploadPart = 1 << 20
	// slowestUpload, in bytes a second, is what the time limit of an upload allows for.
	slowestUpload = 64 << 10
)

// addition is what the server answered to an added document.
type addition struct {
	document  *granaryv1.Document
	duplicate bool
	response  proto.Message
}

// add adds a source, trying again where that is safe: each try has the same
// request id. Streaming is left for parts where the way to the server does not
// carry it.
func (s *session) add(ctx context.Context, spec *granaryv1.DocumentSpec, src source) (addition, error) {
	if src.err != nil {
		return addition{}, src.err
	}
	if src.url != "" {
		return s.create(ctx, &granaryv1.CreateDocumentRequest{
			Spec: spec, Source: &granaryv1.CreateDocumentRequest_Url{Url: src.url},
		})
	}
	size, err := src.size()
	if err != nil {
		return addition{}, err
	}
	if size > maxUpload {
		return addition{}, &failure{
			reason: kb.ReasonUploadTooLarge, message: fmt.Sprintf("%d bytes are more than the %d a document may have", size, maxUpload),
		}
	}
	if !s.cannotStream.Load() {
		var added addition
		err := s.retry(ctx, func(ctx context.Context) (err error) {
			added, err = s.stream(ctx, spec, src, size)
			return err
		})
		if !errors.Is(err, errNoStreaming) {
			return added, err
		}
		s.cannotStream.Store(true)
	}
	return s.addInParts(ctx, spec, src)
}

func (src source) open() (io.ReadCloser, error) {
	if src.file == "" {
		return io.NopCloser(bytes.NewReader(src.data)), nil
	}
	return os.Open(src.file)
}

func (src source) size() (int64, error) {
	if src.file == "" {
		return int64(len(src.data)), nil
	}
	info, err := os.Stat(src.file)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// readStdin reads all of standard input, which cannot be read twice, for
// retries.
func readStdin(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxUpload+1))
	if err == nil && len(data) > maxUpload {
		err = &failure{reason: kb.ReasonUploadTooLarge, message: fmt.Sprintf("more than %d bytes", maxUpload)}
	}
	return data, err
}

// errNoStreaming says that a streamed request did not get through as such.
var errNoStreaming = errors.New("the server takes no streamed upload")

// stream sends a source by UploadDocument.
func (s *session) stream(ctx context.Context, spec *granaryv1.DocumentSpec, src source, size int64) (addition, error) {
	body, err := src.open()
	if err != nil {
		return addition{}, err
	}
	defer func() { _ = body.Close() }()
	// Ending ctx, on any return, abandons an unfinished stream: half a file is never taken for one.
	ctx, cancel := context.WithTimeout(ctx, s.timeout+time.Duration(size/slowestUpload)*time.Second)
	defer cancel()
	ctx, _ = connect.NewClientContext(ctx)
	stream, err := s.docs.UploadDocument(ctx)
	if err != nil {
		return addition{}, err
	}
	err = stream.Send(&granaryv1.UploadDocumentRequest{Part: &granaryv1.UploadDocumentRequest_Spec{Spec: spec}})
	part := make([]byte, min(uploadPart, size+1))
	for err == nil {
		n, readErr := io.ReadFull(body, part)
		if n > 0 {
			err = stream.Send(&granaryv1.UploadDocumentRequest{Part: &granaryv1.UploadDocumentRequest_Data{Data: part[:n]}})
		}
		if errors.Is(readErr, io.EOF) || errors.Is(readErr, io.ErrUnexpectedEOF) {
			break
		}
		if readErr != nil {
			return addition{}, readErr
		}
	}
	// io.EOF means that the server answered early; its answer says why.
	if err != nil && !errors.Is(err, io.EOF) {
		return addition{}, err
	}
	res, err := stream.CloseAndReceive()
	if err != nil {
		if refusedStreaming(ctx, err) {
			err = errNoStreaming
		}
		return addition{}, err
	}
	return addition{res.GetDocument(), res.GetDuplicate(), res}, nil
}

// refusedStreaming reports whether an upload failed for being streamed: the
// method is not there, or something on the way wants to know the length first.
func refusedStreaming(ctx context.Context, err error) bool {
	var rpc *connect.Error
	if !errors.As(err, &rpc) {
		return false
	}
	if rpc.Code() == connect.CodeUnimplemented {
		return true
	}
	info, ok := connecthttp.ClientInfoForContext(ctx)
	if !ok {
		return false
	}
	switch info.ResponseStatus() {
	case http.StatusLengthRequired, http.StatusUnsupportedMediaType, http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return true
	}
	return false
}

// addInParts sends a source by AppendUpload and creates the document of it.
func (s *session) addInParts(ctx context.Context, spec *granaryv1.DocumentSpec, src source) (addition, error) {
	body, err := src.open()
	if err != nil {
		return addition{}, err
	}
	defer func() { _ = body.Close() }()
	token := ""
	part := make([]byte, uploadPart)
	for last := false; !last; {
		n, readErr := io.ReadFull(body, part)
		switch {
		case errors.Is(readErr, io.EOF), errors.Is(readErr, io.ErrUnexpectedEOF):
			last = true
		case readErr != nil:
			return addition{}, readErr
		}
		if n == 0 && token != "" {
			break
		}
		err := s.retry(ctx, func(ctx context.Context) error {
			res, err := call(ctx, s, s.docs.AppendUpload, &granaryv1.AppendUploadRequest{UploadToken: token, Data: part[:n]})
			if err == nil {
				token = res.GetUploadToken()
			}
			return err
		})
		if err != nil {
			return addition{}, err
		}
	}
	return s.create(ctx, &granaryv1.CreateDocumentRequest{
		Spec: spec, Source: &granaryv1.CreateDocumentRequest_UploadToken{UploadToken: token},
	})
}

func (s *session) create(ctx context.Context, req *granaryv1.CreateDocumentRequest) (addition, error) {
	var added addition
	err := s.retry(ctx, func(ctx context.Context) error {
		res, err := call(ctx, s, s.docs.CreateDocument, req)
		if err == nil {
			added = addition{res.GetDocument(), res.GetDuplicate(), res}
		}
		return err
	})
	return added, err
}
