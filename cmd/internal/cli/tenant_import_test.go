package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/encoding/protojson"

	"granary.dev/granary/actors/kb"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// importing is a server that takes archives.
type importing struct {
	granaryv1connect.ArchiveServiceHandler
	spec   *granaryv1.ImportTenantSpec
	got    bytes.Buffer
	refuse error
}

func (s *importing) ImportTenant(_ context.Context, stream granaryv1connect.ArchiveServiceImportTenantServerStream) (*granaryv1.ImportTenantResponse, error) {
	for {
		msg, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return &granaryv1.ImportTenantResponse{Workspaces: 2, RoleBindings: 3, ApiKeys: 4, KnowledgeBases: []*granaryv1.ImportedKnowledgeBase{
				{Name: "knowledgeBases/notes", Documents: 5, ExpiredDocuments: 1, SourceBytes: 2048}}}, nil
		}
		if err != nil {
			return nil, err
		}
		if msg.GetSpec() != nil {
			s.spec = msg.GetSpec()
		} else if s.refuse != nil {
			return nil, s.refuse
		}
		s.got.Write(msg.GetData())
	}
}

// I3: what standard input holds reaches the server, and its answer is shown.
func TestTenantImportSendsTheArchive_I3(t *testing.T) {
	text := strings.Repeat("archive ", 200_000)
	for args, verb := range map[string]string{"": "imported", "--validate-only": "the archive is good:"} {
		s := &importing{}
		f := &fake{answer: script, archives: s}
		r := granary(t, f.serve(t, false), world{stdin: text}, append([]string{"tenant", "import", "--request-id", "r-1"}, strings.Fields(args)...)...)
		wantCode(t, r, ExitOK)
		if s.got.String() != text || s.spec.GetRequestId() != "r-1" || s.spec.GetValidateOnly() != (args != "") {
			t.Errorf("%q: sent %d bytes as %v", args, s.got.Len(), s.spec)
		}
		want := "notes: " + verb + " 5 documents, 2048 bytes of sources\nnotes: 1 documents whose time is over were left out\n" + verb + " 1 knowledge bases, 2 workspaces, 3 role bindings\n"
		if r.stdout != want || !strings.Contains(r.stderr, "4 API keys have to be made anew") {
			t.Errorf("%q: %s%s", args, r.stdout, r.stderr)
		}
	}
	s := &importing{}
	f := &fake{answer: script, archives: s}
	r := granary(t, f.serve(t, false), world{stdin: text}, "tenant", "import", "--json")
	var res granaryv1.ImportTenantResponse
	if err := protojson.Unmarshal([]byte(r.stdout), &res); err != nil || res.GetApiKeys() != 4 || s.spec.GetRequestId() == "" {
		t.Errorf("%v in %s", err, r.stdout)
	}
}

// I3: a server that refuses an archive in the middle says why.
func TestARefusedTenantImportSaysWhy_I3(t *testing.T) {
	s := &importing{refuse: rpcError(t, connect.CodeInvalidArgument, kb.ReasonArchiveInvalid, "The archive cannot be imported.", 0)}
	f := &fake{answer: script, archives: s}
	r := granary(t, f.serve(t, false), world{stdin: strings.Repeat("archive ", 1_000_000)}, "tenant", "import")
	wantCode(t, r, ExitFailed)
	if !strings.Contains(r.stderr, kb.ReasonArchiveInvalid) {
		t.Errorf("it says %s", r.stderr)
	}
}
