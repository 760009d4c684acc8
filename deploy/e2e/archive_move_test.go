//go:build unix

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	format "granary.dev/granary/gateway/archive"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// shell is the command line of somebody with a token at a server.
type shell struct {
	t          *testing.T
	api, token string
}

func (s shell) run(stdin []byte, args ...string) []byte {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = []string{"HOME=" + s.t.TempDir(), "GRANARY_SERVER=http://" + s.api, "GRANARY_TOKEN=" + s.token}
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errOut
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("granary %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errOut.String())
	}
	return out.Bytes()
}

// archived is what an archive of a knowledge base holds, but for what its specification
// says is for people: versions, states and times.
type archivedKB struct {
	kb      format.KnowledgeBase
	docs    []format.Document
	sources map[string]string
}

func (a *archivedKB) Header(h format.Header) error {
	a.kb, a.sources = h.KnowledgeBase, make(map[string]string)
	return nil
}

func (a *archivedKB) Source(sha string, _ int64, r io.Reader) error {
	data, err := io.ReadAll(r)
	a.sources[sha] = string(data)
	return err
}

func (a *archivedKB) Document(d format.Document) error {
	d.Version, d.CreateTime, d.UpdateTime, d.State = 0, time.Time{}, time.Time{}, ""
	a.docs = append(a.docs, d)
	return nil
}

// exported gives a knowledge base as its archive has it.
func (s shell) exported(kb string) *archivedKB {
	s.t.Helper()
	out := &archivedKB{}
	data := s.run(nil, "kb", "export", kb, "--compression", "none")
	if _, err := format.Read(bytes.NewReader(data), format.Limits{Documents: 1000, SourceSize: 1 << 26, SourceBytes: 1 << 28}, out); err != nil {
		s.t.Fatal(err)
	}
	slices.SortFunc(out.docs, func(a, b format.Document) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// I3: what a server with the embedded store exports, of one knowledge base and of a tenant,
// a server on PostgreSQL imports; exported there again it is the same, field by field, and
// found alike.
func TestArchivesMoveBetweenStores_I3(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	lone := start(t, t.TempDir(), freeAddr(t))
	t.Cleanup(func() { lone.stop() })
	c := newCluster(t, clusterOptions{nodes: 1, seed: 1})
	c.tenants(t, 1)
	_, there := tokens(t, filepath.Join(c.dir, "key"), "single", "whole")
	from := shell{t, lone.addr, lone.token()}
	source := partyAt(lone.addr, lone.token())
	kbs := []string{"notes", "files"}
	for _, kb := range kbs {
		_, err := source.kbs.CreateKnowledgeBase(t.Context(), &v1.CreateKnowledgeBaseRequest{KnowledgeBaseId: kb, DisplayName: "All " + kb, Description: "of a granary",
			Retention: &v1.Retention{MaxAge: durationpb.New(5000 * time.Hour), From: v1.RetentionBasis_RETENTION_BASIS_LAST_VERSION},
			Config:    &v1.Config{Chunking: &v1.ChunkingConfig{TargetWords: new(int32(80)), MaxWords: new(int32(160))}}})
		if err != nil {
			t.Fatal(err)
		}
		source.fill(t, kb, "twice") // two versions, in a file of its own
		for i := range 5 {
			spec := &v1.DocumentSpec{KnowledgeBase: kb, DocumentId: fmt.Sprintf("d%d", i), DisplayName: fmt.Sprintf("d%d.md", i), MediaType: "text/markdown",
				Metadata: map[string]string{"team": kb, "number": fmt.Sprint(i)}, OnDuplicate: v1.OnDuplicate_ON_DUPLICATE_NEW_VERSION}
			if i == 1 {
				spec.Expiration = &v1.DocumentSpec_ExpireTime{ExpireTime: timestamppb.New(time.Now().Add(100 * time.Hour).Truncate(time.Second))}
			}
			if i == 2 {
				spec.Chunking = &v1.ChunkingConfig{TargetWords: new(int32(60))}
			}
			if _, err := source.docs.CreateDocument(t.Context(), &v1.CreateDocumentRequest{Spec: spec,
				Source: &v1.CreateDocumentRequest_Text{Text: fmt.Sprintf("# Chapter %d\n\nKeeper %d of %s writes about barley and storms.", i, i, kb)}}); err != nil {
				t.Fatal(err)
			}
			source.settled(t, kb, spec.GetDocumentId(), 1)
		}
	}
	whole := shell{t, c.members[0].api, there["whole"]}
	whole.run(from.run(nil, "tenant", "export"), "tenant", "import")
	single := shell{t, c.members[0].api, there["single"]}
	single.run(from.run(nil, "kb", "export", "notes"), "kb", "import", "copy")
	for _, moved := range []struct {
		to       shell
		from, as string
	}{{whole, "notes", "notes"}, {whole, "files", "files"}, {single, "notes", "copy"}} {
		a, b := from.exported(moved.from), moved.to.exported(moved.as)
		if a.kb.ID != moved.from || b.kb.ID != moved.as || len(a.docs) != 6 || len(a.sources) != 6 {
			t.Errorf("%s as %s: %d documents with %d sources", a.kb.ID, b.kb.ID, len(a.docs), len(a.sources))
		}
		b.kb.ID = a.kb.ID
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s: exported\n%+v\n%+v\nand there, as %s,\n%+v\n%+v", moved.from, a.kb, a.docs, moved.as, b.kb, b.docs)
		}
		p := partyAt(moved.to.api, moved.to.token)
		for _, d := range b.docs {
			p.settled(t, moved.as, d.ID, 1)
		}
		for _, query := range []string{"keeper 3", "barley", "chapter 4 storms"} {
			x, err := source.found(t.Context(), moved.from, query)
			y, err2 := p.found(t.Context(), moved.as, query)
			if err != nil || err2 != nil || len(x) == 0 || !reflect.DeepEqual(x, y) {
				t.Errorf("%q finds %v, %v in %s and %v, %v there", query, x, err, moved.from, y, err2)
			}
		}
	}
}
