package kb

import (
	"errors"
	"fmt"
	"time"
)

// Code classes an error the way google.rpc.Code does; the numbers are the same.
type Code int

// The codes the domain uses.
const (
	CodeInvalidArgument    Code = 3
	CodeDeadlineExceeded   Code = 4
	CodeNotFound           Code = 5
	CodeAlreadyExists      Code = 6
	CodePermissionDenied   Code = 7
	CodeResourceExhausted  Code = 8
	CodeFailedPrecondition Code = 9
	CodeAborted            Code = 10
	CodeUnimplemented      Code = 12
	CodeInternal           Code = 13
	CodeUnavailable        Code = 14
	CodeUnauthenticated    Code = 16
)

// Stable reasons. They are part of the API: never renamed, never reused.
const (
	ReasonKnowledgeBaseExists   = "KNOWLEDGE_BASE_EXISTS"
	ReasonKnowledgeBaseNotFound = "KNOWLEDGE_BASE_NOT_FOUND"
	ReasonDocumentNotFound      = "DOCUMENT_NOT_FOUND"
	ReasonReceiptNotFound       = "RECEIPT_NOT_FOUND"
	ReasonArchiveInvalid        = "ARCHIVE_INVALID"
	ReasonDocumentDuplicate     = "DOCUMENT_DUPLICATE"
	ReasonDocumentState         = "DOCUMENT_STATE"
	ReasonDocumentLimit         = "DOCUMENT_LIMIT"
	ReasonStorageLimit          = "STORAGE_LIMIT"
	ReasonConcurrencyLimit      = "CONCURRENCY_LIMIT"
	ReasonCallLimit             = "API_CALL_LIMIT"
	ReasonVectorLimit           = "VECTOR_OPERATION_LIMIT"
	ReasonConfigInvalid         = "CONFIG_INVALID"
	ReasonFieldMaskInvalid      = "FIELD_MASK_INVALID"
	ReasonEtagMismatch          = "ETAG_MISMATCH"
	ReasonPageTokenInvalid      = "PAGE_TOKEN_INVALID"
	ReasonFilterInvalid         = "FILTER_INVALID"
	ReasonQueryEmpty            = "QUERY_EMPTY"
	ReasonRevisionNotReached    = "REVISION_NOT_REACHED"
	ReasonResumeTokenInvalid    = "RESUME_TOKEN_INVALID"
	ReasonUploadTooLarge        = "UPLOAD_TOO_LARGE"
	ReasonUploadInvalid         = "UPLOAD_INVALID"
	ReasonURLNotValid           = "URL_NOT_VALID"
	ReasonIdempotencyMisuse     = "IDEMPOTENCY_KEY_REUSED"
	ReasonBusy                  = "BUSY"
	ReasonUnavailable           = "UNAVAILABLE"
	ReasonInDoubt               = "OUTCOME_UNKNOWN"
	ReasonAuditUnavailable      = "AUDIT_UNAVAILABLE"
	ReasonCheckpointNotFound    = "CHECKPOINT_NOT_FOUND"
	ReasonAuditBroken           = "AUDIT_BROKEN"
	ReasonDeadline              = "DEADLINE_EXCEEDED"
	ReasonInternal              = "INTERNAL"
	ReasonUnknownOperation      = "UNKNOWN_OPERATION"
	ReasonUnauthenticated       = "UNAUTHENTICATED"
	ReasonPermission            = "PERMISSION_DENIED"
	ReasonRequestInvalid        = "REQUEST_INVALID"
	ReasonTenantSuspended       = "TENANT_SUSPENDED"
	ReasonTenantDeleted         = "TENANT_DELETED"
	ReasonTenantNotFound        = "TENANT_NOT_FOUND"
	ReasonTenantExists          = "TENANT_EXISTS"
	ReasonWorkspaceNotFound     = "WORKSPACE_NOT_FOUND"
	ReasonWorkspaceExists       = "WORKSPACE_EXISTS"
	ReasonWorkspaceNotEmpty     = "WORKSPACE_NOT_EMPTY"
	ReasonKeyNotFound           = "API_KEY_NOT_FOUND"
	ReasonKeyExists             = "API_KEY_EXISTS"
	ReasonTooMany               = "TOO_MANY"

	// What only operators of a cluster are told.
	ReasonClusterSingleNode  = "CLUSTER_SINGLE_NODE"
	ReasonClusterMoving      = "CLUSTER_MOVING"
	ReasonNodeNotFound       = "NODE_NOT_FOUND"
	ReasonNodeState          = "NODE_STATE"
	ReasonNodeUnreachable    = "NODE_UNREACHABLE"
	ReasonDeadLetterNotFound = "DEAD_LETTER_NOT_FOUND"
	ReasonKeysNotFound       = "KEYS_NOT_FOUND"
	ReasonMasterKeyMissing   = "MASTER_KEY_MISSING"
)

// FieldViolation names a field that is wrong, and why.
type FieldViolation struct {
	Field       string // path in the request, e.g. "config.chunking.max_words"
	Description string
}

// Error is what a user of Granary is told: a code, a stable reason, and what
// helps to mend it. It never carries a driver's text or a secret.
type Error struct {
	Code       Code
	Reason     string
	Message    string
	Metadata   map[string]string
	Fields     []FieldViolation
	RetryAfter time.Duration // > 0: the same request may succeed after it
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Reason, e.Message) }

// Errorf makes an [Error].
func Errorf(code Code, reason, format string, args ...any) *Error {
	return &Error{Code: code, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// With adds one piece of metadata and returns e.
func (e *Error) With(key, value string) *Error {
	if e.Metadata == nil {
		e.Metadata = make(map[string]string)
	}
	e.Metadata[key] = value
	return e
}

// After sets RetryAfter and returns e.
func (e *Error) After(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

// Is reports whether err is an [Error] with this reason.
func Is(err error, reason string) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Reason == reason
}
