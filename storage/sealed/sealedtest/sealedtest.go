// Package sealedtest opens what development servers have sealed, for tests that read
// the tables behind the servers' back.
package sealedtest

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/sealed"
)

// tables reads keys and nothing else.
type tables struct {
	sealed.Inner
	db *pgxpool.Pool
}

// Keys implements journal.KeyStore.
func (s tables) Keys(ctx context.Context, tenant string) (r journal.KeyRecord, err error) {
	err = s.db.QueryRow(ctx, `SELECT tenant, version, wrapped, master FROM tenant_keys WHERE tenant = $1`, tenant).
		Scan(&r.Tenant, &r.Version, &r.Wrapped, &r.Master)
	if errors.Is(err, pgx.ErrNoRows) {
		err = journal.ErrNotFound
	}
	return r, err
}

// Close leaves the connections to the test.
func (tables) Close() error { return nil }

// Open gives what unseals events of a database of development servers. Close it.
func Open(ctx context.Context, db *pgxpool.Pool) (*sealed.Store, error) {
	var key []byte
	if err := db.QueryRow(ctx, `SELECT value FROM cluster_secret WHERE name = 'dev-master-key'`).Scan(&key); err != nil {
		return nil, fmt.Errorf("the development servers' master key: %w", err)
	}
	master, err := sealed.FixedMaster(key)
	if err != nil {
		return nil, err
	}
	return sealed.Open(ctx, tables{db: db}, sealed.Config{Master: master, Lone: true})
}
