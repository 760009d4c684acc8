package node_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the test looks into the store behind the server's back

	"granary.dev/granary/cmd/internal/nodetest"
	"granary.dev/granary/gateway/archive"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// heavy is an archive of n documents of a mebibyte each, twice with the same source.
func heavy(t *testing.T, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, archive.Header{KnowledgeBase: archive.KnowledgeBase{ID: "heavy"}})
	if err != nil {
		t.Fatal(err)
	}
	var docs []archive.Document
	for i := range n {
		source := make([]byte, 1<<20)
		_, _ = rand.Read(source)
		sum := sha256.Sum256(source)
		sha := hex.EncodeToString(sum[:])
		if err := w.Source(sha, int64(len(source)), bytes.NewReader(source)); err != nil {
			t.Fatal(err)
		}
		for _, half := range []string{"a", "b"} {
			docs = append(docs, archive.Document{ID: fmt.Sprintf("d%d%s", i, half), DisplayName: "d.bin", SHA256: sha, Size: int64(len(source))})
		}
	}
	if err := w.Documents(docs); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(0); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sendImport sends an archive and tells how much was taken before the answer.
func sendImport(ctx context.Context, t *testing.T, c *nodetest.Clients, id, request string, data []byte) (sent int, err error) {
	t.Helper()
	stream, err := c.Archives.ImportKnowledgeBase(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&granaryv1.ImportKnowledgeBaseRequest{Part: &granaryv1.ImportKnowledgeBaseRequest_Spec{
		Spec: &granaryv1.ImportSpec{KnowledgeBaseId: id, RequestId: request}}})
	for err == nil && sent < len(data) {
		n := min(len(data)-sent, 64<<10)
		err = stream.Send(&granaryv1.ImportKnowledgeBaseRequest{Part: &granaryv1.ImportKnowledgeBaseRequest_Data{Data: data[sent : sent+n]}})
		sent += n
	}
	_, err = stream.CloseAndReceive()
	return sent, err
}

// blobsOf counts sources in the store: those of knowledge bases, and those of nobody.
func blobsOf(t *testing.T, data string) (claimed, loose int) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(data, "granary.db")+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("SELECT count(*) FILTER (WHERE owner_kind <> ''), count(*) FILTER (WHERE owner_kind = '') FROM blobs").Scan(&claimed, &loose); err != nil {
		t.Fatal(err)
	}
	return claimed, loose
}

// wantLoose waits until nobody's sources are gone.
func wantLoose(t *testing.T, what, data string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, loose := blobsOf(t, data)
		if loose == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: %d sources of nobody are left", what, loose)
			return
		}
	}
}

// I3: what can be known before the sources is refused before they are read, and nothing of
// them is left.
func TestImportIsRefusedBeforeItsSourcesAreRead_I3(t *testing.T) {
	const mib = 48
	data := heavy(t, mib)
	s := nodetest.Start(t)
	s.CreateKB(t, "taken")
	limit := func(bytes int64) {
		t.Helper()
		_, err := s.Operator.Admin.UpdateTenant(t.Context(), &granaryv1.UpdateTenantRequest{Name: "tenants/dev", LimitOverrides: &granaryv1.TenantLimits{StorageBytes: bytes}})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, id, reason string
		prepare          func()
	}{
		{"the name is taken", "taken", "KNOWLEDGE_BASE_EXISTS", func() {}},
		{"settings that cannot be", "bad", "CONFIG_INVALID", func() {
			data = badConfig(t, mib)
		}},
		{"no room", "large", "STORAGE_LIMIT", func() {
			data = heavy(t, mib)
			limit(64 << 20)
			for i := range 60 { // of the 64 MiB 4 are left
				_, err := s.Documents.CreateDocument(t.Context(), &granaryv1.CreateDocumentRequest{
					Spec:   &granaryv1.DocumentSpec{KnowledgeBase: "taken", DisplayName: fmt.Sprintf("%d.bin", i)},
					Source: &granaryv1.CreateDocumentRequest_Data{Data: noise(1 << 20)}})
				if err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		c.prepare()
		before, _ := blobsOf(t, s.Data)
		sent, err := sendImport(t.Context(), t, s.Clients, c.id, "", data)
		if err == nil || reason(t, err) != c.reason {
			t.Errorf("%s: %v", c.name, err)
		}
		if sent > len(data)/2 {
			t.Errorf("%s: %d of %d bytes were read", c.name, sent, len(data))
		}
		wantLoose(t, c.name, s.Data)
		if after, _ := blobsOf(t, s.Data); after != before {
			t.Errorf("%s: %d sources, %d before", c.name, after, before)
		}
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// badConfig is an archive whose knowledge base has settings the rules refuse.
func badConfig(t *testing.T, mib int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, archive.Header{KnowledgeBase: archive.KnowledgeBase{ID: "heavy",
		Config: []byte(`{"embedding":{"model":"nobody-has-it"}}`)}})
	if err != nil {
		t.Fatal(err)
	}
	for range mib {
		source := noise(1 << 20)
		sum := sha256.Sum256(source)
		if err := w.Source(hex.EncodeToString(sum[:]), int64(len(source)), bytes.NewReader(source)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(0); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// I3: an import that breaks off while it is read, or that fails while documents are added,
// leaves no source that nobody has; nor does one that is sent again.
func TestABrokenImportLeavesNoSource_I3(t *testing.T) {
	s := nodetest.Start(t)
	data := heavy(t, 4)
	for _, part := range []float64{.3, .9} {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := s.Archives.ImportKnowledgeBase(ctx)
		if err != nil {
			t.Fatal(err)
		}
		err = stream.Send(&granaryv1.ImportKnowledgeBaseRequest{Part: &granaryv1.ImportKnowledgeBaseRequest_Spec{Spec: &granaryv1.ImportSpec{KnowledgeBaseId: "cut"}}})
		for sent := 0; err == nil && sent < int(part*float64(len(data))); sent += 64 << 10 {
			err = stream.Send(&granaryv1.ImportKnowledgeBaseRequest{Part: &granaryv1.ImportKnowledgeBaseRequest_Data{Data: data[sent : sent+64<<10]}})
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // some of it is read
		cancel()
		wantLoose(t, fmt.Sprintf("cut off at %.0f %%", 100*part), s.Data)
	}
	if _, err := importKB(t, s.Clients, "whole", "twice", data); err != nil {
		t.Fatal(err)
	}
	claimed, _ := blobsOf(t, s.Data)
	if _, err := importKB(t, s.Clients, "whole", "twice", data); err != nil {
		t.Fatalf("the same request again: %v", err)
	}
	wantLoose(t, "sent again", s.Data)
	if after, _ := blobsOf(t, s.Data); claimed != 8 || after != 8 {
		t.Errorf("%d sources, then %d", claimed, after)
	}
	// A limit that the archive's header does not show: it fails when documents are added.
	if _, err := s.Operator.Admin.UpdateTenant(t.Context(), &granaryv1.UpdateTenantRequest{Name: "tenants/dev", LimitOverrides: &granaryv1.TenantLimits{StorageBytes: 14 << 20}}); err != nil {
		t.Fatal(err)
	}
	if _, err := importKB(t, s.Clients, "short", "", data); err == nil || reason(t, err) != "STORAGE_LIMIT" {
		t.Errorf("without room: %v", err)
	}
	wantLoose(t, "failed", s.Data)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if after, _ := blobsOf(t, s.Data); after == 8 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%d sources are left", after)
		}
	}
}
