package trail

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"granary.dev/granary/actors/journal"
)

// Desk is what a server does with audits: it answers for them, and makes checkpoints
// at an interval. Safe for concurrent use.
type Desk struct {
	Store  Store
	Signer *Signer
	Logger *slog.Logger
	// Mine tells whether this node makes the checkpoints of a tenant; nil: of all.
	// Two nodes that both do make no harm, only work.
	Mine func(tenant string) bool

	made, failed, broken atomic.Int64
}

// Stats are the counters since the start.
type Stats struct {
	Made   int64 // rounds in which a tenant's checkpoint was there or was made
	Failed int64 // the store did not answer
	Broken int64 // refused: the audit contradicts the last checkpoint
}

// Stats reads the counters.
func (d *Desk) Stats() Stats {
	return Stats{Made: d.made.Load(), Failed: d.failed.Load(), Broken: d.broken.Load()}
}

func (d *Desk) maker() *Maker { return &Maker{Store: d.Store, Signer: d.Signer} }

// Accesses lists records.
func (d *Desk) Accesses(ctx context.Context, q journal.AccessQuery) ([]journal.Access, error) {
	return d.Store.Accesses(ctx, q)
}

// Checkpoint gives the last checkpoint; with refresh it makes one first if anything
// changed. An audit that contradicts its last checkpoint gets no new one.
func (d *Desk) Checkpoint(ctx context.Context, tenant string, refresh bool) (journal.Checkpoint, bool, error) {
	if refresh {
		return d.make(ctx, tenant)
	}
	return Last(ctx, d.Store, tenant)
}

// Export gives an export line by line.
func (d *Desk) Export(ctx context.Context, tenant string, data bool, emit func(line []byte) error) error {
	return Export(ctx, d.Store, d.Signer.Public(), tenant, data, func(i Item) error {
		line, err := json.Marshal(i)
		if err != nil {
			return err
		}
		return emit(append(line, '\n'))
	})
}

// Verify verifies what the store has.
func (d *Desk) Verify(ctx context.Context, tenant string, progress func(items int64) error) (*Report, error) {
	v := NewVerifier(d.Signer.Public())
	err := Export(ctx, d.Store, d.Signer.Public(), tenant, true, func(i Item) error {
		v.Add(i)
		return progress(v.items)
	})
	if err != nil {
		return nil, err
	}
	return v.Report(), nil
}

// PublicKeys are the keys that checkpoints are verified with.
func (d *Desk) PublicKeys() (string, error) {
	text, err := d.Signer.Public().PEM()
	return string(text), err
}

func (d *Desk) make(ctx context.Context, tenant string) (journal.Checkpoint, bool, error) {
	c, ok, err := d.maker().Make(ctx, tenant)
	switch {
	case err == nil:
		d.made.Add(1)
	case errors.Is(err, journal.ErrChain):
		d.broken.Add(1)
		d.Logger.Error("the audit of a tenant contradicts its last checkpoint and is not signed; look at granary audit verify",
			"tenant", tenant, "error", err)
	case ctx.Err() == nil:
		d.failed.Add(1)
		d.Logger.Warn("no checkpoint of an audit", "tenant", tenant, "error", err)
	}
	return c, ok, err
}

// Run makes checkpoints of all tenants of this node until ctx ends.
func (d *Desk) Run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			d.Round(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// Round makes the checkpoints that are due now.
func (d *Desk) Round(ctx context.Context) {
	visit := func(tenant string) {
		if d.Mine == nil || d.Mine(tenant) {
			_, _, _ = d.make(ctx, tenant) // counted and logged
		}
	}
	visit("")
	for after := ""; ctx.Err() == nil; {
		page, err := d.Store.AuditTenants(ctx, after, pageLength)
		if err != nil {
			if ctx.Err() == nil {
				d.failed.Add(1)
				d.Logger.Warn("no checkpoints of audits", "error", err)
			}
			return
		}
		for _, tenant := range page {
			if after = tenant; ctx.Err() == nil {
				visit(tenant)
			}
		}
		if len(page) < pageLength {
			return
		}
	}
}
