package journal

import "context"

// OwnerQuery selects owner rows.
type OwnerQuery struct {
	Kind   string   // "" for all
	Tenant string   // "" for all: for operators and the cluster itself only
	After  Identity // exclusive; the zero identity starts
	Limit  int
}

// Directory lists what was ever written to.
type Directory interface {
	// Owners lists owner rows in the order of (tenant, kind, id).
	Owners(ctx context.Context, q OwnerQuery) ([]Owner, error)
}
