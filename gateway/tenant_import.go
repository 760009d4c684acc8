package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	"granary.dev/granary/gateway/archive"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// What an archive of a tenant may hold: no more than a tenant may have.
const (
	importedKnowledgeBases = 100_000
	importedWorkspaces     = 1001 // the default one, too
	importedBindings       = 10_000
	importedKeys           = 1000
	importedAtOnce         = 250 // of workspaces or bindings: one commit of the tenant
)

// ImportTenant implements the service. Each knowledge base is read to its end before it
// is created, so that a node holds one of them at a time; roles are given when the whole
// archive proved good.
func (s archives) ImportTenant(ctx context.Context, stream granaryv1connect.ArchiveServiceImportTenantServerStream) (*v1.ImportTenantResponse, error) {
	connectionOf(ctx).reading()
	first, err := stream.Receive()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if first.GetSpec() == nil {
		return nil, invalid(kb.ReasonRequestInvalid, "spec", "The first message of an import is its spec, not data.")
	}
	im := &tenantImporter{Gateway: s.Gateway, ctx: ctx, spec: first.GetSpec(), key: first.GetSpec().GetRequestId(),
		workspaces: make(map[string]bool), out: &v1.ImportTenantResponse{}}
	if im.key == "" {
		im.key = uuid.NewString()
	}
	if im.limits, err = (&importer{Gateway: s.Gateway, ctx: ctx}).limits(); err != nil {
		return nil, err
	}
	err = im.read(&receiver{ctx: ctx, next: func() ([]byte, error) {
		msg, err := stream.Receive()
		if err == nil && msg.GetSpec() != nil {
			err = secondSpec()
		}
		return msg.GetData(), err
	}})
	if err != nil {
		return nil, (&importer{}).refusal(err)
	}
	return im.out, nil
}

// tenantImporter is one import. It is the sink of its archive.
type tenantImporter struct {
	*Gateway
	ctx    context.Context
	spec   *v1.ImportTenantSpec
	key    string
	limits *v1.TenantLimits

	settings   *nodev1.ImportSettings // config and workspaces, until they are set
	workspaces map[string]bool        // that the archive has
	bindings   []*v1.RoleBinding
	part       *importer // under way
	out        *v1.ImportTenantResponse
}

func (im *tenantImporter) read(r *receiver) error {
	body, done, err := unpack(r)
	if err != nil {
		return err
	}
	defer done()
	defer func() { im.leave() }()
	_, err = archive.ReadTenant(body, archive.TenantLimits{KnowledgeBases: importedKnowledgeBases, Workspaces: importedWorkspaces,
		Bindings: importedBindings, Keys: importedKeys, Part: partLimits(im.limits, im.cfg.MaxUpload)}, im)
	if err != nil {
		return err
	}
	connectionOf(im.ctx).streaming() // all is read; the answer takes its time
	if err := im.set(); err != nil { // of an archive without a knowledge base
		return err
	}
	for n := 0; len(im.bindings) > 0; n++ {
		some := im.bindings[:min(len(im.bindings), importedAtOnce)]
		im.bindings = im.bindings[len(some):]
		if err := im.ask(&nodev1.ImportSettings{Bindings: some}, "roles", n); err != nil {
			return err
		}
	}
	return nil
}

// Tenant implements archive.TenantSink. Of what the archive says of the tenant only the
// default configuration is taken: all else is the operator's.
func (im *tenantImporter) Tenant(h archive.TenantHeader) error {
	t := &v1.Tenant{}
	if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(h.Tenant, t) != nil {
		return invalid(kb.ReasonArchiveInvalid, "data", "The tenant in the archive cannot be read.")
	}
	im.settings = &nodev1.ImportSettings{}
	if t.GetConfigVersion() == 0 {
		return nil
	}
	im.settings.DefaultConfig = t.GetDefaultConfig()
	if im.settings.DefaultConfig == nil {
		im.settings.DefaultConfig = &v1.Config{}
	}
	im.out.DefaultConfig = true
	return im.valid(&v1.UpdateTenantConfigRequest{DefaultConfig: im.settings.GetDefaultConfig()})
}

// Workspace implements archive.TenantSink.
func (im *tenantImporter) Workspace(w archive.Workspace) error {
	im.workspaces[w.ID] = true
	im.out.Workspaces++
	out := &v1.Workspace{Name: workspacesPrefix + w.ID, DisplayName: w.DisplayName}
	im.settings.Workspaces = append(im.settings.Workspaces, out)
	return im.valid(out)
}

// Binding implements archive.TenantSink.
func (im *tenantImporter) Binding(b archive.Binding) error {
	if !validSubject(b.Subject) || reserved(b.Subject) {
		return invalid(kb.ReasonArchiveInvalid, "data", "Nobody can have the subject %q.", b.Subject)
	}
	im.out.RoleBindings++
	out := &v1.RoleBinding{Subject: b.Subject, Grant: &v1.AccessGrant{Role: b.Role, Workspace: b.Workspace, KnowledgeBase: b.KnowledgeBase}}
	im.bindings = append(im.bindings, out)
	return im.valid(out)
}

// Key implements archive.TenantSink: there is nothing a key could be made of.
func (im *tenantImporter) Key(archive.Key) error {
	im.out.ApiKeys++
	return nil
}

// KnowledgeBase implements archive.TenantSink.
func (im *tenantImporter) KnowledgeBase(id string) (archive.Sink, error) {
	connectionOf(im.ctx).streaming()
	if err := im.set(); err != nil {
		return nil, err
	}
	im.part = &importer{Gateway: im.Gateway, ctx: im.ctx, tenant: im.limits, blobs: make(map[string]journal.BlobInfo), used: make(map[string]bool),
		nextCheck: roomFirst, key: im.key + "/" + id, spec: &v1.ImportSpec{KnowledgeBaseId: id, ValidateOnly: im.spec.GetValidateOnly()},
		place: func(workspace string) string {
			if !im.workspaces[workspace] || im.spec.GetValidateOnly() { // what is not made yet cannot be checked
				return ""
			}
			return workspace
		}}
	return im.part, im.part.begin()
}

// Part implements archive.TenantSink: creates and fills the knowledge base that was read.
// The client waits meanwhile.
func (im *tenantImporter) Part(id string, s archive.Summary) error {
	connectionOf(im.ctx).streaming()
	part := im.part
	if err := part.planned(); err != nil {
		return err
	}
	if _, err := part.fill(s.Hash); err != nil {
		return err
	}
	im.leave()
	im.out.KnowledgeBases = append(im.out.KnowledgeBases, &v1.ImportedKnowledgeBase{Name: knowledgeBasesPrefix + id,
		Documents: part.documents, ExpiredDocuments: part.expired, SourceBytes: s.SourceBytes})
	return nil
}

// leave deletes what a part has stored and no document has claimed.
func (im *tenantImporter) leave() {
	if im.part != nil {
		im.part.abort()
		im.part.clean()
		im.part = nil
	}
}

// set gives the tenant its configuration and its workspaces, once.
func (im *tenantImporter) set() error {
	s := im.settings
	if s == nil {
		return nil
	}
	im.settings = nil
	for n, some := range slices.Collect(slices.Chunk(s.GetWorkspaces(), importedAtOnce)) {
		if err := im.ask(&nodev1.ImportSettings{Workspaces: some}, "workspaces", n); err != nil {
			return err
		}
	}
	if s.GetDefaultConfig() == nil {
		return nil
	}
	return im.ask(&nodev1.ImportSettings{DefaultConfig: s.GetDefaultConfig()}, "config", 0)
}

// ask has the tenant take settings, under a key of its own.
func (im *tenantImporter) ask(m *nodev1.ImportSettings, what string, n int) error {
	// Roles in workspaces that were not made cannot be checked without making them.
	if m.ValidateOnly = im.spec.GetValidateOnly(); m.GetValidateOnly() && len(m.GetBindings()) > 0 {
		m.Bindings = slices.DeleteFunc(slices.Clone(m.GetBindings()), func(b *v1.RoleBinding) bool { return b.GetGrant().GetWorkspace() != "" })
	}
	ctx, cancel := context.WithTimeout(im.ctx, defaultUnaryTime)
	defer cancel()
	h, err := header(ctx, "")
	if err != nil {
		return err
	}
	h.Method, h.IdempotencyKey = granaryv1connect.ArchiveServiceImportTenantProcedure[1:], fmt.Sprintf("%s/%d/%s", what, n, im.key)
	_, err = im.askTenantWith(ctx, &nodev1.TenantCall{Operation: &nodev1.TenantCall_ImportSettings{ImportSettings: m}}, h)
	return err
}
