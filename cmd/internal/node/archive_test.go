package node_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"granary.dev/granary/cmd/internal/nodetest"
	"granary.dev/granary/gateway/archive"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func exportKB(t *testing.T, c *nodetest.Clients, name string, how granaryv1.Compression) []byte {
	t.Helper()
	stream, err := c.Archives.ExportKnowledgeBase(t.Context(), &granaryv1.ExportKnowledgeBaseRequest{Name: name, Compression: how})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	var b bytes.Buffer
	for {
		msg, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return b.Bytes()
		}
		if err != nil {
			t.Fatalf("export: %v", err)
		}
		b.Write(msg.GetData())
	}
}

func importKB(t *testing.T, c *nodetest.Clients, id, request string, data []byte) (*granaryv1.ImportKnowledgeBaseResponse, error) {
	t.Helper()
	stream, err := c.Archives.ImportKnowledgeBase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&granaryv1.ImportKnowledgeBaseRequest{Part: &granaryv1.ImportKnowledgeBaseRequest_Spec{
		Spec: &granaryv1.ImportSpec{KnowledgeBaseId: id, RequestId: request}}})
	for len(data) > 0 && err == nil {
		n := min(len(data), 1000)
		err = stream.Send(&granaryv1.ImportKnowledgeBaseRequest{Part: &granaryv1.ImportKnowledgeBaseRequest_Data{Data: data[:n]}})
		data = data[n:]
	}
	return stream.CloseAndReceive()
}

// content is what an archive holds, but for what its specification excepts.
type content struct {
	kb      archive.KnowledgeBase
	docs    []archive.Document
	sources map[string]string
}

func (c *content) Header(h archive.Header) error {
	c.kb, c.sources = h.KnowledgeBase, make(map[string]string)
	c.kb.ID = ""
	return nil
}

func (c *content) Source(sha string, _ int64, r io.Reader) error {
	data, err := io.ReadAll(r)
	c.sources[sha] = string(data)
	return err
}

func (c *content) Document(d archive.Document) error {
	d.Version, d.CreateTime, d.UpdateTime, d.State = 0, time.Time{}, time.Time{}, ""
	c.docs = append(c.docs, d)
	return nil
}

func contentOf(t *testing.T, data []byte) *content {
	t.Helper()
	c := &content{}
	if _, err := archive.Read(bytes.NewReader(data), archive.Limits{Documents: 1000, SourceSize: 1 << 20, SourceBytes: 1 << 24}, c); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(c.docs, func(a, b archive.Document) int { return strings.Compare(a.ID, b.ID) })
	return c
}

// I3: what is exported, imported into another server and exported there is the same,
// and is found alike.
func TestExportImportRoundTrip_I3(t *testing.T) {
	from, to := nodetest.Start(t), nodetest.Start(t)
	_, err := from.KBs.CreateKnowledgeBase(t.Context(), &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: "notes", DisplayName: "Notes",
		Description: "of all", Retention: &granaryv1.Retention{MaxAge: durationpb.New(1000 * time.Hour)}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		name := fmt.Sprintf("d%02d.md", i)
		from.Settle(t, from.AddText(t, "notes", name, fmt.Sprintf("# Chapter %d\n\nThe keeper number %d of the lighthouse writes about storms.", i, i)).GetName())
	}
	whole := exportKB(t, from.Clients, "notes", granaryv1.Compression_COMPRESSION_NONE)
	packed := exportKB(t, from.Clients, "notes", granaryv1.Compression_COMPRESSION_ZSTD)
	if len(packed) >= len(whole) || packed[0] != 0x28 {
		t.Errorf("compressed it has %d bytes of %d", len(packed), len(whole))
	}
	first, err := importKB(t, to.Clients, "copy", "request-1", packed)
	if err != nil || first.GetDocuments() != 12 {
		t.Fatalf("import: %v, %v", first, err)
	}
	again, err := importKB(t, to.Clients, "copy", "request-1", packed)
	if err != nil || again.GetKnowledgeBase().GetUid() != first.GetKnowledgeBase().GetUid() {
		t.Errorf("the same request again: %v, %v", again, err)
	}
	list, err := to.Documents.ListDocuments(t.Context(), &granaryv1.ListDocumentsRequest{Parent: "copy", PageSize: 100})
	if err != nil || len(list.GetDocuments()) != 12 {
		t.Fatalf("%d documents, %v", len(list.GetDocuments()), err)
	}
	for _, d := range list.GetDocuments() {
		to.Settle(t, d.GetName())
	}
	a, b := contentOf(t, whole), contentOf(t, exportKB(t, to.Clients, "copy", granaryv1.Compression_COMPRESSION_NONE))
	if !reflect.DeepEqual(a, b) {
		t.Errorf("exported\n%+v, imported and exported again\n%+v", a, b)
	}
	for _, query := range []string{"keeper number 7", "storms at the lighthouse", "chapter 3"} {
		x, y := search(t, from, "notes", query), search(t, to, "copy", query)
		if a, b := names(x), names(y); len(a) == 0 || !slices.Equal(a, b) {
			t.Errorf("%q finds %v there and %v here", query, a, b)
		}
	}
}

// names are what is found, best first.
func names(r *granaryv1.SearchResponse) (out []string) {
	for _, h := range r.GetHits() {
		out = append(out, h.GetDisplayName())
	}
	return out
}

// I3: a failed import leaves nothing.
func TestFailedImportLeavesNothing_I3(t *testing.T) {
	s := nodetest.Start(t)
	s.CreateKB(t, "notes")
	s.Settle(t, s.AddText(t, "notes", "a.md", strings.Repeat("Some words about a lighthouse. ", 50)).GetName())
	data := exportKB(t, s.Clients, "notes", granaryv1.Compression_COMPRESSION_NONE)
	packed := exportKB(t, s.Clients, "notes", granaryv1.Compression_COMPRESSION_ZSTD)
	for name, bad := range map[string][]byte{
		"nothing": nil, "cut off": data[:len(data)/2], "cut off, packed": packed[:len(packed)/2],
		"other bytes": bytes.Replace(data, []byte("lighthouse"), []byte("lightboats"), 1), "noise": bytes.Repeat([]byte("noise"), 1000),
		"packed noise": append([]byte{0x28, 0xb5, 0x2f, 0xfd}, bytes.Repeat([]byte("noise"), 1000)...),
	} {
		if _, err := importKB(t, s.Clients, "copy", "", bad); err == nil || reason(t, err) != "ARCHIVE_INVALID" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := importKB(t, s.Clients, "notes", "", data); err == nil || reason(t, err) != "KNOWLEDGE_BASE_EXISTS" {
		t.Errorf("into one that is there: %v", err)
	}
	list, err := s.KBs.ListKnowledgeBases(t.Context(), &granaryv1.ListKnowledgeBasesRequest{})
	if err != nil || len(list.GetKnowledgeBases()) != 1 {
		t.Errorf("knowledge bases: %v, %v", list, err)
	}
}
