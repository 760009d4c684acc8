package gateway

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/proto"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// Kinds of grains.
const (
	kindKnowledgeBase = "kb"     // id: the knowledge base's id
	kindTenant        = "tenant" // id: the tenant
)

// Grains delivers a message to a grain, wherever it lives, and brings its reply.
// An error is a *kb.Error or a context's error and tells of the delivery: what
// the grain itself answers, refusals too, is in the reply.
type Grains interface {
	Ask(ctx context.Context, kind, tenant, id string, msg proto.Message) (proto.Message, error)
}

// Blobs keeps the bytes of documents until a grain claims them;
// [journal.BlobStore] satisfies it.
type Blobs interface {
	CreateBlob(ctx context.Context, tenant string) (journal.BlobWriter, error)
	OpenBlob(ctx context.Context, tenant, id string) (io.ReadCloser, journal.BlobInfo, error)
	DeleteBlob(ctx context.Context, tenant, id string) error
	// ClaimedBlobs lists, of an identity with a tenant only, what nobody has claimed.
	ClaimedBlobs(ctx context.Context, id journal.Identity, after string, limit int) ([]string, error)
}

// Verifier tells who holds a token. Every error but a context's and a *kb.Error
// of code UNAVAILABLE means that the token is not good; its text stays in the log.
type Verifier interface {
	Verify(ctx context.Context, token string) (Principal, error)
}

// OperatorVerifier tells which operator holds a token; errors are as those of
// [Verifier]. A tenant's token is never good here, nor an operator's there.
type OperatorVerifier interface {
	VerifyOperator(ctx context.Context, token string) (Operator, error)
}

// Meters counts what is limited in windows of time.
type Meters interface {
	// Account finds what counts for a tenant. It costs a look-up; the account is kept.
	Account(tenant string, m kb.Meter) Account
}

// Account counts for one tenant.
type Account interface {
	// Take counts one. The error is a *kb.Error when the limit is reached or cannot be
	// read, or the context's; what is known comes with it.
	Take(ctx context.Context) (kb.TokenState, error)
	// Ended reports whether there is another account by now. This one still counts, slowly.
	Ended() bool
}

// Roles of tenants' principals, weakest first; each may do what the ones before it may.
const (
	RoleViewer = "viewer"
	RoleEditor = "editor"
	RoleAdmin  = "admin"
)

// RoleOperator may see and steer the cluster. No principal of a tenant can have it.
const RoleOperator = "operator"

// Operator is who runs the cluster, as told by a verified credential. It belongs
// to no tenant.
type Operator struct {
	Subject string
	Roles   []string  // unknown ones grant nothing
	Expires time.Time // zero = never
}

// Valid reports whether the subject is fit to record with.
func (o Operator) Valid() bool { return validSubject(o.Subject) }

// Principal is who asks, as told by a verified credential.
type Principal struct {
	Tenant    string
	Subject   string
	Roles     []string  // unknown ones grant nothing
	Workspace string    // optional: the token is good in this workspace only
	Expires   time.Time // streams are ended then; zero = never

	// Grants say which role holds where. A verified token's are its roles, in its
	// workspace if it names one, and what the tenant bound to its subject; an API
	// key's are the key's.
	Grants []kb.Grant
	KeyID  string // of the API key that was shown; "" for a token

	calls    Account // counts the tenant's calls; nil when it is not at hand
	unproven bool    // a token whose tenant could not be asked

	asked time.Time // when the tenant was asked for what it says of the caller
	since time.Time // when a former tenant of the same name was erased; zero: there was none
}

var tenantPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ValidTenant reports whether id may name a tenant: 1..63 lower-case letters,
// digits and hyphens, no hyphen at either end.
func ValidTenant(id string) bool { return tenantPattern.MatchString(id) }

// Beginnings of subjects that no token may have: an API key's, and an operator's as
// a tenant's journal names it.
const (
	keySubject      = "key:"
	operatorSubject = "operator:"
)

// reserved reports whether a subject is one that no token may have.
func reserved(subject string) bool {
	return subject == systemSubject || strings.HasPrefix(subject, keySubject) || strings.HasPrefix(subject, operatorSubject)
}

// Valid reports whether tenant and subject are fit to address and record with.
// A token cannot take the name of an API key, nor anybody that of the cluster.
func (p Principal) Valid() bool {
	return ValidTenant(p.Tenant) && validSubject(p.Subject) &&
		(!reserved(p.Subject) || p.KeyID != "" && p.Subject == keySubject+p.KeyID)
}

func validSubject(s string) bool {
	if s == "" || len(s) > 256 {
		return false
	}
	for _, r := range s {
		// Nothing that cannot be seen, or turns round how a log reads.
		if r == '\uFFFD' || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			return false
		}
	}
	return true
}

// Secret is key material. It prints as [redacted], whatever the verb.
type Secret []byte

const redacted = "[redacted]"

// Format implements fmt.Formatter: unlike a Stringer's, its word holds for every verb.
func (Secret) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// String implements fmt.Stringer.
func (Secret) String() string { return redacted }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, which JSON uses.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
