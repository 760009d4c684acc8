package postgres

import (
	"encoding/json"
	"fmt"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/cluster/protocol"
)

// viewBody is what of a view is stored as JSON; the rest has columns of its own.
// Nodes of two versions read each other's: fields are only added.
type viewBody struct {
	Round     int            `json:"round"`
	Members   []memberBody   `json:"members"`
	Overrides []overrideBody `json:"overrides,omitempty"`
}

type memberBody struct {
	Name  string `json:"name"`
	Boot  string `json:"boot"`
	Addr  string `json:"addr"`
	Zone  string `json:"zone,omitempty"`
	State string `json:"state"`
}

type overrideBody struct {
	Tenant string `json:"tenant"`
	Node   string `json:"node"`
	Auto   bool   `json:"auto,omitempty"`
}

// viewColumns are the columns of a view to be committed.
type viewColumns struct {
	active, dead, left []string
	body               []byte
}

func encodeView(v protocol.View) (viewColumns, error) {
	c := viewColumns{active: []string{}, dead: []string{}, left: []string{}}
	b := viewBody{Round: v.Round, Members: make([]memberBody, len(v.Members))}
	for i, m := range v.Members {
		if err := checkText("address", m.Addr, "zone", m.Zone, "node", m.String()); err != nil {
			return c, err
		}
		b.Members[i] = memberBody{Name: m.Name, Boot: m.Boot, Addr: m.Addr, Zone: m.Zone, State: string(m.State)}
		switch {
		case m.State.Active():
			c.active = append(c.active, m.String())
		case m.State == protocol.Left:
			c.left = append(c.left, m.String())
		default:
			c.dead = append(c.dead, m.String())
		}
	}
	for _, o := range v.Overrides {
		if err := checkText("tenant", o.Tenant, "node", o.Node); err != nil {
			return c, err
		}
		b.Overrides = append(b.Overrides, overrideBody{Tenant: o.Tenant, Node: o.Node, Auto: o.Auto})
	}
	var err error
	if c.body, err = json.Marshal(b); err != nil {
		return c, fmt.Errorf("postgres: encode view: %w", err)
	}
	return c, nil
}

// decodeView reads a view; version 0 is that there is none. The columns may be
// NULL then.
func decodeView(version int64, body []byte, fingerprint *string, committed *time.Time) (*protocol.View, error) {
	v := &protocol.View{Version: version}
	if version == 0 {
		return v, nil
	}
	var b viewBody
	if err := json.Unmarshal(body, &b); err != nil {
		return nil, fmt.Errorf("%w: view %d of the cluster: %w", journal.ErrCorrupt, version, err)
	}
	if fingerprint == nil || committed == nil {
		return nil, fmt.Errorf("%w: view %d of the cluster lacks columns", journal.ErrCorrupt, version)
	}
	v.Round, v.Fingerprint, v.CommittedAt = b.Round, *fingerprint, committed.UTC()
	for _, m := range b.Members {
		v.Members = append(v.Members, protocol.Member{
			NodeID: protocol.NodeID{Name: m.Name, Boot: m.Boot}, Addr: m.Addr, Zone: m.Zone, State: protocol.MemberState(m.State)})
	}
	for _, o := range b.Overrides {
		v.Overrides = append(v.Overrides, protocol.Override{Tenant: o.Tenant, Node: o.Node, Auto: o.Auto})
	}
	return v, nil
}

// knownView is what a statement is told of the view that is cached, so that an
// equal one does not travel. Commit time and version: after the database was
// restored from a copy, a version may come a second time.
func knownView(v *protocol.View) (version int64, committed *time.Time) {
	if v.Version > 0 {
		committed = &v.CommittedAt
	}
	return v.Version, committed
}
