package nodetest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/cluster/protocol"
	"granary.dev/granary/storage/postgres"
)

// watchers keep every version of the view and of the owner rows. Whoever changes
// a row holds its lock, so that numbers are in the order of the changes.
const watchers = `
CREATE TABLE audit_view (n bigserial PRIMARY KEY, version bigint NOT NULL, body jsonb NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION audit_view() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_view (version, body) VALUES (NEW.version, NEW.body);
    RETURN NULL;
END
$$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE ON cluster_view FOR EACH ROW EXECUTE FUNCTION audit_view();

CREATE TABLE audit_owner (n bigserial PRIMARY KEY, tenant text NOT NULL, kind text NOT NULL, id text NOT NULL, epoch bigint NOT NULL,
    activation text NOT NULL, node text NOT NULL, view bigint NOT NULL, head bigint NOT NULL, released boolean NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION audit_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_owner (tenant, kind, id, epoch, activation, node, view, head, released)
    VALUES (NEW.tenant, NEW.kind, NEW.id, NEW.epoch, NEW.activation, NEW.node, NEW.view, NEW.head, NEW.released);
    RETURN NULL;
END
$$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE ON owner FOR EACH ROW EXECUTE FUNCTION audit_owner();
`

// Prepare brings a database to the schema of the nodes, and has it keep what
// [Cluster.Audit] looks at.
func Prepare(ctx context.Context, url string) error {
	s, err := postgres.Open(ctx, postgres.Config{URL: postgres.Secret(url), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, watchers); err != nil {
		return err
	}
	return conn.Close(ctx)
}

// auditTime bounds an audit.
const auditTime = time.Minute

// Audit checks what the database says of the past: the events of each grain are
// gapless and end at its head (I3), epochs rise by one with each acquisition (I2),
// one activation writes in each (I1), nothing was written after a release, and who
// acquired was whom the view of that moment placed the grain on (A3).
func (c *Cluster) Audit(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), auditTime)
	defer cancel()
	if err := c.auditEvents(ctx, t); err != nil {
		t.Errorf("audit of events: %v", err)
	}
	views, err := c.views(ctx)
	if err != nil {
		t.Errorf("audit of views: %v", err)
		return
	}
	if err := c.auditOwners(ctx, t, views); err != nil {
		t.Errorf("audit of owners: %v", err)
	}
}

func (c *Cluster) auditEvents(ctx context.Context, t testing.TB) error {
	t.Helper()
	rows, err := c.DB.Query(ctx, `
		SELECT o.tenant, o.kind, o.id, o.head, o.erased, coalesce(e.n, 0), coalesce(e.least, o.erased + 1), coalesce(e.most, o.erased)
		FROM owner o LEFT JOIN (SELECT tenant, kind, id, count(*) AS n, min(seq) AS least, max(seq) AS most FROM events GROUP BY 1, 2, 3) e
		USING (tenant, kind, id)`)
	if err != nil {
		return err
	}
	var id journal.Identity
	var head, erased, n, least, most int64
	_, err = pgx.ForEachRow(rows, []any{&id.Tenant, &id.Kind, &id.ID, &head, &erased, &n, &least, &most}, func() error {
		if most != head || n != head-least+1 || least > erased+1 {
			t.Errorf("I3: %s has %d events, %d to %d, erased to %d, head %d", id, n, least, most, erased, head)
		}
		return nil
	})
	return err
}

// ownerRow is an owner row as it was once.
type ownerRow struct {
	id         journal.Identity
	epoch      int64
	activation string
	node       string
	view, head int64
	released   bool
}

func (c *Cluster) auditOwners(ctx context.Context, t testing.TB, views map[int64]protocol.View) error {
	t.Helper()
	rows, err := c.DB.Query(ctx, `SELECT tenant, kind, id, epoch, activation, node, view, head, released FROM audit_owner ORDER BY n`)
	if err != nil {
		return err
	}
	a := ownerAudit{t: t, views: views, last: make(map[journal.Identity]ownerRow), seen: make(map[string]bool),
		tables: protocol.NewTables(protocol.DefaultTableConfig(), 8), places: make(map[int64]*protocol.Placement)}
	var r ownerRow
	_, err = pgx.ForEachRow(rows, []any{&r.id.Tenant, &r.id.Kind, &r.id.ID, &r.epoch, &r.activation, &r.node, &r.view, &r.head, &r.released},
		func() error { return a.row(r) })
	return err
}

// ownerAudit follows the owner rows in the order of their changes.
type ownerAudit struct {
	t      testing.TB
	views  map[int64]protocol.View
	last   map[journal.Identity]ownerRow
	seen   map[string]bool // activations that ever owned something
	tables *protocol.Tables
	places map[int64]*protocol.Placement
}

func (a *ownerAudit) row(r ownerRow) error {
	a.t.Helper()
	was := a.last[r.id] // zero, as the row that an acquisition makes first
	a.last[r.id] = r
	switch {
	case r.epoch == was.epoch+1:
		if a.seen[r.activation] {
			a.t.Errorf("I1: activation %s of %s owns it a second time", r.activation, r.id)
		}
		a.seen[r.activation] = true
		return a.placed(r)
	case r.epoch != was.epoch:
		a.t.Errorf("I2: epoch %d of %s follows %d", r.epoch, r.id, was.epoch)
	case r.activation != was.activation || r.node != was.node:
		a.t.Errorf("I1: %s and %s share epoch %d of %s", was.node, r.node, r.epoch, r.id)
	case was.released && r.head != was.head:
		a.t.Errorf("I1: %s wrote %s after it had released it", r.node, r.id)
	case r.head < was.head:
		a.t.Errorf("I3: head of %s fell from %d to %d", r.id, was.head, r.head)
	}
	return nil
}

// placed checks an acquisition against the view it was made under.
func (a *ownerAudit) placed(r ownerRow) error {
	a.t.Helper()
	p := a.places[r.view]
	if p == nil {
		v, ok := a.views[r.view]
		if !ok {
			return fmt.Errorf("%s was acquired under view %d, which never was", r.id, r.view)
		}
		var err error
		if p, err = protocol.NewPlacement(v, a.tables); err != nil {
			return err
		}
		a.places[r.view] = p
	}
	id := protocol.Identity{Kind: r.id.Kind, Tenant: r.id.Tenant, ID: r.id.ID}
	if o, _ := p.At(id.Hash(), id.Tenant); o.String() != r.node {
		a.t.Errorf("A3: %s acquired %s, which view %d places on %s", r.node, r.id, r.view, o)
	}
	return nil
}

// viewBody is what the store keeps of a view as JSON.
type viewBody struct {
	Round   int `json:"round"`
	Members []struct {
		Name  string `json:"name"`
		Boot  string `json:"boot"`
		State string `json:"state"`
	} `json:"members"`
	Overrides []struct {
		Tenant string `json:"tenant"`
		Node   string `json:"node"`
	} `json:"overrides"`
}

// Views gives every view there ever was, by version.
func (c *Cluster) Views(t testing.TB) map[int64]protocol.View {
	t.Helper()
	v, err := c.views(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (c *Cluster) views(ctx context.Context) (map[int64]protocol.View, error) {
	rows, err := c.DB.Query(ctx, `SELECT version, body FROM audit_view ORDER BY n`)
	if err != nil {
		return nil, err
	}
	out := make(map[int64]protocol.View)
	var version int64
	var body []byte
	_, err = pgx.ForEachRow(rows, []any{&version, &body}, func() error {
		var b viewBody
		if err := json.Unmarshal(body, &b); err != nil {
			return err
		}
		if _, twice := out[version]; twice || version != int64(len(out)+1) {
			return fmt.Errorf("view %d follows %d others", version, len(out))
		}
		v := protocol.View{Version: version, Round: b.Round}
		for _, m := range b.Members {
			v.Members = append(v.Members, protocol.Member{NodeID: protocol.NodeID{Name: m.Name, Boot: m.Boot}, State: protocol.MemberState(m.State)})
		}
		for _, o := range b.Overrides {
			v.Overrides = append(v.Overrides, protocol.Override{Tenant: o.Tenant, Node: o.Node})
		}
		out[version] = v
		return nil
	})
	return out, err
}
