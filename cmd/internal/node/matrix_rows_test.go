package node_test

import (
	"bytes"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"granary.dev/granary/gateway/archive"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// matrixRows makes a good request of each RPC, about what tenant acme has. Where a
// method would create something under any credential, it only checks.
var matrixRows = map[string]func(*matrix) []proto.Message{
	"GetTenant":    one(func(*matrix) proto.Message { return &granaryv1.GetTenantRequest{} }),
	"GetUsage":     one(func(*matrix) proto.Message { return &granaryv1.GetUsageRequest{} }),
	"RecountUsage": one(func(*matrix) proto.Message { return &granaryv1.RecountUsageRequest{} }),
	"UpdateTenantConfig": one(func(*matrix) proto.Message {
		return &granaryv1.UpdateTenantConfigRequest{DefaultConfig: &granaryv1.Config{}, ValidateOnly: true}
	}),

	"CreateKnowledgeBase": one(func(*matrix) proto.Message {
		return &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: "another", ValidateOnly: true}
	}),
	"GetKnowledgeBase":   one(func(m *matrix) proto.Message { return &granaryv1.GetKnowledgeBaseRequest{Name: m.name()} }),
	"ListKnowledgeBases": one(func(*matrix) proto.Message { return &granaryv1.ListKnowledgeBasesRequest{} }),
	"UpdateKnowledgeBase": one(func(m *matrix) proto.Message {
		return &granaryv1.UpdateKnowledgeBaseRequest{KnowledgeBase: &granaryv1.KnowledgeBase{Name: m.name(), DisplayName: "x"},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}}, ValidateOnly: true}
	}),
	"DeleteKnowledgeBase": one(func(m *matrix) proto.Message { return &granaryv1.DeleteKnowledgeBaseRequest{Name: m.name()} }),

	"CreateDocument": one(func(m *matrix) proto.Message {
		return &granaryv1.CreateDocumentRequest{Spec: &granaryv1.DocumentSpec{KnowledgeBase: m.kb, DocumentId: "new"},
			Source: &granaryv1.CreateDocumentRequest_Text{Text: "A text."}, ValidateOnly: true}
	}),
	"UploadDocument": func(m *matrix) []proto.Message {
		return []proto.Message{
			&granaryv1.UploadDocumentRequest{Part: &granaryv1.UploadDocumentRequest_Spec{Spec: &granaryv1.DocumentSpec{KnowledgeBase: m.kb, DocumentId: "new"}}},
			&granaryv1.UploadDocumentRequest{Part: &granaryv1.UploadDocumentRequest_Data{Data: []byte("A text.")}},
		}
	},
	"AppendUpload":  one(func(*matrix) proto.Message { return &granaryv1.AppendUploadRequest{Data: []byte("A text.")} }),
	"GetDocument":   one(func(m *matrix) proto.Message { return &granaryv1.GetDocumentRequest{Name: m.docName()} }),
	"ListDocuments": one(func(m *matrix) proto.Message { return &granaryv1.ListDocumentsRequest{Parent: m.name()} }),
	"DeleteDocument": one(func(m *matrix) proto.Message {
		return &granaryv1.DeleteDocumentRequest{Name: m.docName()}
	}),
	"CancelDocument":    one(func(m *matrix) proto.Message { return &granaryv1.CancelDocumentRequest{Name: m.docName()} }),
	"ReprocessDocument": one(func(m *matrix) proto.Message { return &granaryv1.ReprocessDocumentRequest{Name: m.docName()} }),
	"ListChunks":        one(func(m *matrix) proto.Message { return &granaryv1.ListChunksRequest{Parent: m.docName()} }),
	"GetDocumentText":   one(func(m *matrix) proto.Message { return &granaryv1.GetDocumentTextRequest{Name: m.docName()} }),

	"ExportKnowledgeBase": one(func(m *matrix) proto.Message { return &granaryv1.ExportKnowledgeBaseRequest{Name: m.name()} }),
	"ImportKnowledgeBase": func(*matrix) []proto.Message {
		return []proto.Message{
			&granaryv1.ImportKnowledgeBaseRequest{Part: &granaryv1.ImportKnowledgeBaseRequest_Spec{
				Spec: &granaryv1.ImportSpec{KnowledgeBaseId: "another", ValidateOnly: true}}},
			&granaryv1.ImportKnowledgeBaseRequest{Part: &granaryv1.ImportKnowledgeBaseRequest_Data{Data: emptyArchive()}},
		}
	},
	"ImportTenant": func(*matrix) []proto.Message {
		return []proto.Message{
			&granaryv1.ImportTenantRequest{Part: &granaryv1.ImportTenantRequest_Spec{Spec: &granaryv1.ImportTenantSpec{ValidateOnly: true}}},
			&granaryv1.ImportTenantRequest{Part: &granaryv1.ImportTenantRequest_Data{Data: emptyTenantArchive()}},
		}
	},
	"ExportTenant": one(func(*matrix) proto.Message { return &granaryv1.ExportTenantRequest{} }),

	"GetErasureReceipt": one(func(m *matrix) proto.Message {
		return &granaryv1.GetErasureReceiptRequest{Name: m.receipt}
	}),
	"ListErasureReceipts": one(func(m *matrix) proto.Message { return &granaryv1.ListErasureReceiptsRequest{KnowledgeBase: m.name()} }),
	"GetReceiptKey":       one(func(*matrix) proto.Message { return &granaryv1.GetReceiptKeyRequest{} }),
	"ListTenantErasures":  one(func(*matrix) proto.Message { return &granaryv1.ListTenantErasuresRequest{} }),

	"Search": one(func(m *matrix) proto.Message {
		return &granaryv1.SearchRequest{KnowledgeBase: m.kb, Query: "signing key"}
	}),
	"WatchEvents": one(func(m *matrix) proto.Message {
		return &granaryv1.WatchEventsRequest{KnowledgeBase: m.kb, FromStart: true, Heartbeat: durationpb.New(1e9)}
	}),

	"WhoAmI": one(func(*matrix) proto.Message { return &granaryv1.WhoAmIRequest{} }),
	"CreateApiKey": one(func(*matrix) proto.Message {
		return &granaryv1.CreateApiKeyRequest{Grants: []*granaryv1.AccessGrant{{Role: "viewer"}}}
	}),
	"GetApiKey":    one(func(m *matrix) proto.Message { return &granaryv1.GetApiKeyRequest{Name: m.apiKey} }),
	"ListApiKeys":  one(func(*matrix) proto.Message { return &granaryv1.ListApiKeysRequest{} }),
	"RevokeApiKey": one(func(*matrix) proto.Message { return &granaryv1.RevokeApiKeyRequest{Name: "aaaaaaaaaaaaaaaa"} }),
	"SetRoleBinding": one(func(m *matrix) proto.Message {
		return &granaryv1.SetRoleBindingRequest{Binding: &granaryv1.RoleBinding{Subject: "bob", Grant: &granaryv1.AccessGrant{Role: "admin", KnowledgeBase: m.kb}}}
	}),
	"RemoveRoleBinding": one(func(m *matrix) proto.Message {
		return &granaryv1.RemoveRoleBindingRequest{Subject: "bob", KnowledgeBase: m.kb}
	}),
	"ListRoleBindings": one(func(*matrix) proto.Message { return &granaryv1.ListRoleBindingsRequest{} }),
	"CreateWorkspace":  one(func(*matrix) proto.Message { return &granaryv1.CreateWorkspaceRequest{WorkspaceId: "default"} }),
	"GetWorkspace":     one(func(*matrix) proto.Message { return &granaryv1.GetWorkspaceRequest{Name: "default"} }),
	"ListWorkspaces":   one(func(*matrix) proto.Message { return &granaryv1.ListWorkspacesRequest{} }),
	"UpdateWorkspace": one(func(*matrix) proto.Message {
		return &granaryv1.UpdateWorkspaceRequest{Workspace: &granaryv1.Workspace{Name: "default"}}
	}),
	"DeleteWorkspace": one(func(*matrix) proto.Message { return &granaryv1.DeleteWorkspaceRequest{Name: "made"} }),

	"CreateTenant":        one(func(*matrix) proto.Message { return &granaryv1.CreateTenantRequest{TenantId: "initech"} }),
	"DescribeTenantUsage": one(func(*matrix) proto.Message { return &granaryv1.DescribeTenantUsageRequest{Name: "acme"} }),
	"RecountTenantUsage":  one(func(*matrix) proto.Message { return &granaryv1.RecountTenantUsageRequest{Name: "acme"} }),
	"DescribeTenant":      one(func(*matrix) proto.Message { return &granaryv1.DescribeTenantRequest{Name: "acme"} }),
	"ListTenants":         one(func(*matrix) proto.Message { return &granaryv1.ListTenantsRequest{} }),
	"UpdateTenant": one(func(*matrix) proto.Message {
		return &granaryv1.UpdateTenantRequest{Name: "acme", DisplayName: proto.String("Acme")}
	}),
	"SuspendTenant":   one(func(*matrix) proto.Message { return &granaryv1.SuspendTenantRequest{Name: "initech"} }),
	"ResumeTenant":    one(func(*matrix) proto.Message { return &granaryv1.ResumeTenantRequest{Name: "acme"} }),
	"DeleteTenant":    one(func(*matrix) proto.Message { return &granaryv1.DeleteTenantRequest{Name: "initech"} }),
	"UndeleteTenant":  one(func(*matrix) proto.Message { return &granaryv1.UndeleteTenantRequest{Name: "acme"} }),
	"ListAuditEvents": one(func(*matrix) proto.Message { return &granaryv1.ListAuditEventsRequest{} }),
	"ExportAudit":     one(func(*matrix) proto.Message { return &granaryv1.ExportAuditRequest{} }),
	"GetCheckpoint":   one(func(*matrix) proto.Message { return &granaryv1.GetCheckpointRequest{Refresh: true} }),
	"VerifyAudit":     one(func(*matrix) proto.Message { return &granaryv1.VerifyAuditRequest{} }),

	// Operators'. On a node that is alone all of them say so.
	"ListNodes": one(func(*matrix) proto.Message { return &granaryv1.ListNodesRequest{} }),
	"GetView":   one(func(*matrix) proto.Message { return &granaryv1.GetViewRequest{} }),
	"GetPlacement": one(func(m *matrix) proto.Message {
		return &granaryv1.GetPlacementRequest{Tenant: "acme", KnowledgeBase: m.kb}
	}),
	"ListActivations":  one(func(*matrix) proto.Message { return &granaryv1.ListActivationsRequest{} }),
	"GetClusterHealth": one(func(*matrix) proto.Message { return &granaryv1.GetClusterHealthRequest{} }),
	"DrainNode":        one(func(*matrix) proto.Message { return &granaryv1.DrainNodeRequest{Name: "nodes/other"} }),
	"RelocateTenant": one(func(*matrix) proto.Message {
		return &granaryv1.RelocateTenantRequest{Tenant: "acme", Node: "nodes/other"}
	}),
	"Rebalance":             one(func(*matrix) proto.Message { return &granaryv1.RebalanceRequest{DryRun: true} }),
	"ListTenantAuditEvents": one(func(*matrix) proto.Message { return &granaryv1.ListTenantAuditEventsRequest{Tenant: "acme"} }),
	"ExportTenantAudit":     one(func(*matrix) proto.Message { return &granaryv1.ExportTenantAuditRequest{Tenant: "acme"} }),
	"GetTenantCheckpoint": one(func(*matrix) proto.Message {
		return &granaryv1.GetTenantCheckpointRequest{Tenant: "acme", Refresh: true}
	}),
	"VerifyTenantAudit": one(func(*matrix) proto.Message { return &granaryv1.VerifyTenantAuditRequest{Tenant: "acme"} }),
	"ListKeys":          one(func(*matrix) proto.Message { return &granaryv1.ListKeysRequest{} }),
	"RotateKey":         one(func(*matrix) proto.Message { return &granaryv1.RotateKeyRequest{Tenant: "acme"} }),
	"ReencryptTenant":   one(func(m *matrix) proto.Message { return &granaryv1.ReencryptTenantRequest{Tenant: "acme"} }),
	"RotateMasterKey":   one(func(*matrix) proto.Message { return &granaryv1.RotateMasterKeyRequest{} }),
	"ListDeadLetters":   one(func(*matrix) proto.Message { return &granaryv1.ListDeadLettersRequest{} }),
	"RetryDeadLetter": one(func(m *matrix) proto.Message {
		return &granaryv1.RetryDeadLetterRequest{Tenant: "acme", Document: m.docName()}
	}),
}

// emptyArchive is a good archive of no documents.
func emptyArchive() []byte {
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, archive.Header{})
	if err == nil {
		err = w.Close(0)
	}
	if err != nil {
		return nil
	}
	return b.Bytes()
}

// emptyTenantArchive is a good archive of a tenant that has nothing.
func emptyTenantArchive() []byte {
	var b bytes.Buffer
	w, err := archive.NewTenantWriter(&b, time.Time{}, []byte("{}"), archive.Access{})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil
	}
	return b.Bytes()
}

// one is a row of a single message.
func one(make func(*matrix) proto.Message) func(*matrix) []proto.Message {
	return func(m *matrix) []proto.Message { return []proto.Message{make(m)} }
}

// name is the resource name of acme's knowledge base.
func (m *matrix) name() string { return "knowledgeBases/" + m.kb }

// docName is the resource name of acme's document.
func (m *matrix) docName() string { return m.name() + "/documents/" + m.doc }
