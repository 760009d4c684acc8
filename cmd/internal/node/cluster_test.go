package node_test

import (
	"testing"

	"granary.dev/granary/cmd/internal/nodetest"
	"granary.dev/granary/storage/pgtest"
)

// pg is the database server that the clusters of these tests share.
var pg = pgtest.New(pgtest.Options{TCP: true, Migrate: nodetest.Prepare})

// newPostgres makes a server of a test's own, to do something to.
func newPostgres(t *testing.T) *pgtest.Harness {
	t.Helper()
	h := pgtest.New(pgtest.Options{TCP: true, Migrate: nodetest.Prepare})
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}
