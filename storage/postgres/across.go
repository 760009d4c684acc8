package postgres

import "context"

// purpose is a reason to look at more than one tenant's rows.
type purpose string

// All there are; a test knows which function has which.
const (
	forHealth      purpose = "what the database is and whether it answers"
	forSecrets     purpose = "what all nodes share"
	forWakeups     purpose = "work that is due, whosever it is"
	forDeadLetters purpose = "what operators see of work that was given up"
	forReceipts    purpose = "proofs of erased tenants, which operators keep"
	forOwners      purpose = "grains of all tenants, for the planner and operators"
	forKeys        purpose = "changes of keys, in one order over all tenants"
	forAccesses    purpose = "records of calls, written for several tenants at once, and of nobody's"
	forCollection  purpose = "leftovers"
)

// across gives connections whose role sees the rows of all tenants. Whatever a
// tenant's call leads to has a tenant, and goes by tenantPools.of instead.
func (s *Store) across(purpose) *pool { return s.wide }

// audited gives what reads and writes one tenant's part of the audit. Calls of
// nobody known are of the tenant "", which row-level security lets nobody be.
func (s *Store) audited(tenant string) runner {
	if tenant == "" {
		return s.across(forAccesses)
	}
	return s.commits.of(tenant)
}

// row reads one row of a tenant; pgx.ErrNoRows when there is none.
func (s *Store) row(ctx context.Context, tenant, query string, args []any, dest ...any) error {
	return rowOf(ctx, s.commits.of(tenant), query, args, dest...)
}

// rowOf is row on connections of one's choice.
func rowOf(ctx context.Context, p reader, query string, args []any, dest ...any) error {
	var err error
	outer := p.read(ctx, func(ctx context.Context, q querier) error {
		err = q.QueryRow(ctx, query, args...).Scan(dest...)
		return err
	})
	if isNoRows(err) {
		return err
	}
	return outer
}
