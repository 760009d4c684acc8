package gateway

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// subject knows where in a method's request stands what it is about: the fields, of
// the request itself and of what it holds, that hold names of resources.
type subject struct {
	paths  [][]protoreflect.FieldDescriptor // the first that is set counts
	tenant []protoreflect.FieldDescriptor   // of operators' requests; nil: none
}

// subjectFields are the fields that hold names, those that say most first. Names given
// by people (display_name), bodies, queries, tokens and keys are none of them.
var subjectFields = []protoreflect.Name{"name", "document", "parent", "knowledge_base", "knowledge_base_id", "workspace", "workspace_id",
	"api_key", "key_id", "subject", "node", "tenant", "tenant_id"}

// subjectsOf finds the fields once, at start.
func subjectsOf(servers ...*connect.Server) map[string]subject {
	out := make(map[string]subject)
	for _, server := range servers {
		for spec := range server.Specs() {
			if m, ok := spec.Schema.(protoreflect.MethodDescriptor); ok {
				out[spec.Procedure] = newSubject(m.Input())
			}
		}
	}
	return out
}

func newSubject(m protoreflect.MessageDescriptor) subject {
	var s subject
	var visit func(m protoreflect.MessageDescriptor, before []protoreflect.FieldDescriptor)
	visit = func(m protoreflect.MessageDescriptor, before []protoreflect.FieldDescriptor) {
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			path := append(slices.Clone(before), f)
			switch {
			case f.IsList() || f.IsMap():
			case f.Kind() == protoreflect.StringKind && slices.Contains(subjectFields, f.Name()):
				s.paths = append(s.paths, path)
				if len(before) == 0 && (f.Name() == "tenant" || f.Name() == "tenant_id") {
					s.tenant = path
				}
			case f.Kind() == protoreflect.MessageKind && len(before) < 2 && strings.HasPrefix(string(f.Message().FullName()), "granary."):
				visit(f.Message(), path)
			}
		}
	}
	visit(m, nil)
	slices.SortStableFunc(s.paths, func(a, b []protoreflect.FieldDescriptor) int {
		return cmp.Or(cmp.Compare(len(a), len(b)),
			cmp.Compare(slices.Index(subjectFields, a[len(a)-1].Name()), slices.Index(subjectFields, b[len(b)-1].Name())))
	})
	return s
}

// resourceName is what may be recorded: a name of ids, no free text.
var resourceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9/._#-]{0,255}$`)

// of gives the tenant a request of an operator names, and the resource a request is about.
func (s subject) of(msg any) (tenant, resource string) {
	m, ok := msg.(proto.Message)
	if !ok {
		return "", ""
	}
	if s.tenant != nil {
		tenant, _ = textAt(m.ProtoReflect(), s.tenant)
	}
	for _, path := range s.paths {
		text, holder := textAt(m.ProtoReflect(), path)
		if text == "" {
			continue
		}
		field := path[len(path)-1]
		if !strings.Contains(text, "/") && (strings.HasPrefix(string(field.Name()), "knowledge_base") || aboutKnowledgeBase(field)) {
			text = knowledgeBasesPrefix + text
		}
		if !strings.Contains(text, "/") && field.Name() == "name" && strings.Contains(string(field.Parent().Name()), "Tenant") {
			text = tenantsPrefix + text
		}
		if id := holder.Descriptor().Fields().ByName("document_id"); id != nil && holder.Get(id).String() != "" {
			text += documentsInfix + holder.Get(id).String()
		}
		if resourceName.MatchString(text) {
			resource = text
		}
		break
	}
	if name, ok := strings.CutPrefix(resource, tenantsPrefix); ok && tenant == "" {
		tenant, _, _ = strings.Cut(name, "/")
	}
	if tenant = strings.TrimPrefix(tenant, tenantsPrefix); !ValidTenant(tenant) {
		tenant = ""
	}
	return tenant, resource
}

// aboutKnowledgeBase reports whether a field called name or parent may hold a knowledge
// base's id alone.
func aboutKnowledgeBase(f protoreflect.FieldDescriptor) bool {
	return (f.Name() == "name" || f.Name() == "parent") &&
		(strings.Contains(string(f.Parent().Name()), "KnowledgeBase") || f.Parent().Name() == "ListDocumentsRequest")
}

// textAt reads the string at a path, and gives the message it stands in.
func textAt(m protoreflect.Message, path []protoreflect.FieldDescriptor) (string, protoreflect.Message) {
	for _, f := range path[:len(path)-1] {
		if !m.Has(f) {
			return "", m
		}
		m = m.Get(f).Message()
	}
	return m.Get(path[len(path)-1]).String(), m
}
