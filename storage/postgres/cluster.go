package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/cluster/protocol"
)

// Renew makes or extends a node's lease and surveys those of all members:
// protocol.Renew and protocol.Look as one statement. Every view that was
// committed before the lease's time began is the one given, or an earlier one
// than that. Errors: protocol.ErrFinal, journal.ErrUnavailable, and
// journal.ErrInDoubt when the lease may have been extended.
func (s *Store) Renew(ctx context.Context, r protocol.RenewRequest) (protocol.View, protocol.Survey, error) {
	var view *protocol.View
	var survey protocol.Survey
	err := checkNode(r.Node)
	if err == nil {
		err = checkText("address", r.Addr)
	}
	if err != nil {
		return protocol.View{}, survey, err
	}
	known := s.view.Load()
	err = s.leases.write(ctx, func(ctx context.Context, q querier) (err error) {
		view, survey, err = renewOn(ctx, q, r, s.ttl, known)
		return err
	})
	if err != nil {
		return protocol.View{}, protocol.Survey{}, err
	}
	s.view.Store(view)
	return *view, survey, nil
}

func renewOn(ctx context.Context, q querier, r protocol.RenewRequest, ttl time.Duration, known *protocol.View,
) (*protocol.View, protocol.Survey, error) {
	var (
		version     int64
		body        []byte
		fingerprint *string
		committed   *time.Time
		now         time.Time
		expired     []string
		s           protocol.Survey
		next        *time.Time
	)
	knownVersion, knownCommit := knownView(known)
	err := q.QueryRow(ctx, `SELECT * FROM granary_renew_v1($1, $2, $3, $4, $5, $6, $7)`,
		r.Node.String(), r.Addr, r.Seen, r.Pending, ttl, knownVersion, knownCommit).
		Scan(&version, &body, &fingerprint, &committed, &now, &expired, &s.Settled, &next)
	if err != nil {
		return nil, s, err
	}
	view := known
	if body != nil || version == 0 {
		if view, err = decodeView(version, body, fingerprint, committed); err != nil {
			return nil, s, err
		}
	}
	s.Age = now.Sub(view.CommittedAt)
	if next != nil {
		s.Next = next.Sub(now)
	}
	for _, id := range expired {
		n, err := protocol.ParseNodeID(id)
		if err != nil {
			return nil, s, fmt.Errorf("%w: member of view %d: %w", journal.ErrCorrupt, version, err)
		}
		s.Expired = append(s.Expired, n)
	}
	return view, s, nil
}

// Swap commits next in place of the view before it: protocol.Swap. Errors:
// protocol.ErrConflict, ErrNoLease and ErrLeaseHeld, journal.ErrUnavailable, and
// journal.ErrInDoubt when next may be the view now.
func (s *Store) Swap(ctx context.Context, next protocol.View, by protocol.NodeID) (protocol.View, error) {
	c, err := encodeView(next)
	if err = errors.Join(err, checkNode(by), checkText("fingerprint", next.Fingerprint)); err != nil {
		return protocol.View{}, err
	}
	err = s.leases.write(ctx, func(ctx context.Context, q querier) (err error) {
		next.CommittedAt, err = swapOn(ctx, q, next, c, by)
		return err
	})
	if err != nil {
		return protocol.View{}, err
	}
	return next, nil
}

func swapOn(ctx context.Context, q querier, next protocol.View, c viewColumns, by protocol.NodeID) (at time.Time, err error) {
	err = q.QueryRow(ctx, `SELECT granary_swap_v1($1, $2, $3, $4, $5, $6, $7)`,
		by.String(), next.Version, c.active, c.dead, c.left, c.body, next.Fingerprint).Scan(&at)
	return at.UTC(), err
}

// View reads the view as it is now; the zero view when there is none.
func (s *Store) View(ctx context.Context) (protocol.View, error) {
	var view *protocol.View
	err := s.leases.read(ctx, func(ctx context.Context, q querier) (err error) {
		view, err = viewOn(ctx, q)
		return err
	})
	if err != nil {
		return protocol.View{}, err
	}
	return *view, nil
}

func viewOn(ctx context.Context, q querier) (*protocol.View, error) {
	var version int64
	var body []byte
	var fingerprint *string
	var committed *time.Time
	err := q.QueryRow(ctx, `SELECT version, body, fingerprint, committed_at FROM cluster_view`).
		Scan(&version, &body, &fingerprint, &committed)
	if isNoRows(err) {
		return &protocol.View{}, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeView(version, body, fingerprint, committed)
}

// Secret gives the value kept under a name for all nodes. Where there is none
// yet, made is asked for one; of several nodes that do so at once, all get the
// same.
func (s *Store) Secret(ctx context.Context, name string, made func() ([]byte, error)) ([]byte, error) {
	if err := checkKeys("name", name); err != nil {
		return nil, err
	}
	const find = `SELECT value FROM cluster_secret WHERE name = $1`
	var value []byte
	err := rowOf(ctx, s.across(forSecrets), find, []any{name}, &value)
	if !isNoRows(err) {
		return value, err
	}
	fresh, err := made()
	if err != nil {
		return nil, fmt.Errorf("postgres: make secret %s: %w", name, err)
	}
	err = s.across(forSecrets).write(ctx, func(ctx context.Context, q querier) error {
		_, err := q.Exec(ctx, `INSERT INTO cluster_secret (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, name, blob(fresh))
		return err
	})
	if err != nil && !errors.Is(err, journal.ErrInDoubt) { // in doubt: the row tells
		return nil, err
	}
	if err := rowOf(ctx, s.across(forSecrets), find, []any{name}, &value); !isNoRows(err) {
		return value, err
	}
	return nil, fmt.Errorf("%w: secret %s was not stored", journal.ErrUnavailable, name)
}

// EmptySecret forgets the value kept under a name, if it is old; the name stays, so that
// nobody makes another. Old versions of the row stay in the server's files until it
// vacuums, and in its log and back-ups.
func (s *Store) EmptySecret(ctx context.Context, name string, old []byte) error {
	if err := checkKeys("name", name); err != nil {
		return err
	}
	return s.across(forSecrets).write(ctx, func(ctx context.Context, q querier) error {
		_, err := q.Exec(ctx, `UPDATE cluster_secret SET value = '' WHERE name = $1 AND value = $2`, name, blob(old))
		return err
	})
}

// checkNode refuses an id that could not be read back.
func checkNode(id protocol.NodeID) error {
	if _, err := protocol.ParseNodeID(id.String()); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}
