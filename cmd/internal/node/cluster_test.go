package node_test

import (
	"granary.dev/granary/cmd/internal/nodetest"
	"granary.dev/granary/storage/pgtest"
)

// pg is the database server that the clusters of these tests share.
var pg = pgtest.New(pgtest.Options{TCP: true, Migrate: nodetest.Prepare})
