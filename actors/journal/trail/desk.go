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
	// Keep is how long accesses and checkpoints are kept; 0: for ever.
	Keep time.Duration

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
	if err != nil {
		d.blame(ctx, tenant, err)
	} else {
		d.made.Add(1)
	}
	return c, ok, err
}

// blame counts and tells what went wrong.
func (d *Desk) blame(ctx context.Context, tenant string, err error) {
	switch {
	case errors.Is(err, journal.ErrChain):
		d.broken.Add(1)
		d.Logger.Error("the audit of a tenant contradicts its last checkpoint: it is not signed, and nothing of it retired; look at granary audit verify",
			"tenant", tenant, "error", err)
	case ctx.Err() == nil:
		d.failed.Add(1)
		d.Logger.Warn("no checkpoint of an audit", "tenant", tenant, "error", err)
	}
}

// Later lists since when later tenants have had the name of one: at most a hundred.
func (d *Desk) Later(ctx context.Context, tenant string) ([]time.Time, error) {
	const most = 100
	page, err := d.Store.AuditTenants(ctx, journal.LaterAuditScopes(tenant), most)
	var out []time.Time
	for _, scope := range page {
		name, since := journal.ParseAuditScope(scope)
		if name != tenant || since.IsZero() {
			break
		}
		out = append(out, since)
	}
	return out, err
}

// Run makes checkpoints of all tenants of this node until ctx ends.
func (d *Desk) Run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var retire <-chan time.Time
	if d.Keep > 0 {
		t := time.NewTicker(min(max(d.Keep/50, time.Minute), 6*time.Hour))
		defer t.Stop()
		retire = t.C
	}
	for {
		select {
		case <-tick.C:
			d.Round(ctx)
		case <-retire:
			d.Retire(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// Round makes the checkpoints that are due now.
func (d *Desk) Round(ctx context.Context) {
	d.each(ctx, func(tenant string) { _, _, _ = d.make(ctx, tenant) }) // counted and logged
}

// Retire retires what is older than it is kept.
func (d *Desk) Retire(ctx context.Context) {
	maker, before := d.maker(), time.Now().Add(-d.Keep)
	d.each(ctx, func(tenant string) {
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = maker.Retire(ctx, tenant, before); err != nil {
				d.blame(ctx, tenant, err)
				return
			}
		}
	})
}

// each visits the tenants of this node.
func (d *Desk) each(ctx context.Context, do func(tenant string)) {
	visit := func(tenant string) {
		if name, _ := journal.ParseAuditScope(tenant); d.Mine == nil || d.Mine(name) {
			do(tenant)
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
