package protocol

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Why a change of the view is refused.
var (
	// ErrFingerprint: the node would compute other tables than the cluster.
	ErrFingerprint = errors.New("node computes another partition table than the cluster")
	// ErrNameTaken: another boot of that name is still a member.
	ErrNameTaken = errors.New("another process with this node name is a member")
	// ErrMoving: partitions are on the move; try again when they have settled.
	ErrMoving = errors.New("partitions are moving already")
	// ErrNotMember: that boot is no active member, or not in the state asked for.
	ErrNotMember = errors.New("node is not a member in the right state")
	// ErrUnchanged: the view says so already.
	ErrUnchanged = errors.New("view would not change")
)

// Each of the following gives the view that should follow v, to be committed by
// [Swap]. None changes v.

// Join adds a boot. The first member of all is live at once, later ones take
// their share round by round. m.State is ignored.
func (v View) Join(m Member, fingerprint string) (View, error) {
	if v.Fingerprint != "" && v.Fingerprint != fingerprint {
		return v, fmt.Errorf("%w: node %q, cluster %q", ErrFingerprint, fingerprint, v.Fingerprint)
	}
	if !validNodeName(m.Name) || !validNodeName(m.Boot) {
		return v, ErrInvalidNodeID
	}
	at, there := v.index(m.Name)
	if there && v.Members[at].State.Active() {
		return v, ErrNameTaken
	}
	if there && v.Members[at].NodeID == m.NodeID {
		return v, ErrFinal
	}
	if v.Round > 0 {
		return v, ErrMoving // its bands would move at once instead of in turn
	}
	next := v.next()
	next.Fingerprint = fingerprint
	m.State = Live
	if v.hasOwner() {
		m.State = Joining
	}
	if there {
		next.Members[at] = m
	} else {
		next.Members = slices.Insert(next.Members, at, m)
	}
	next.forget()
	return next, nil
}

// keepGone is how many members that are dead or left the view shows.
const keepGone = 32

// forget drops the members that are gone once there are too many: where every
// process has a name of its own they would add up. Nothing depends on them.
func (v *View) forget() {
	gone := 0
	for i := range v.Members {
		if !v.Members[i].State.Active() {
			gone++
		}
	}
	if gone > keepGone {
		v.Members = slices.DeleteFunc(v.Members, func(m Member) bool { return !m.State.Active() })
	}
}

// Advance lets the next band of partitions follow the members that come and go.
func (v View) Advance() (View, error) {
	if !v.Moving() || v.Round >= Rounds {
		return v, ErrUnchanged
	}
	next := v.next()
	next.Round++
	if next.Round == Rounds {
		for i := range next.Members {
			if next.Members[i].State == Joining {
				next.Members[i].State = Live
			}
		}
	}
	next.settle()
	return next, nil
}

// Drain makes a live member give its partitions away.
func (v View) Drain(id NodeID) (View, error) {
	if m, ok := v.Find(id); !ok || m.State != Live {
		return v, ErrNotMember
	}
	if v.Round > 0 {
		return v, ErrMoving
	}
	return v.with(id, Draining), nil
}

// Leave takes a member out that serves nothing any more. Only the member itself
// may say so: what it owned is free to be taken at once.
func (v View) Leave(id NodeID) (View, error) {
	if m, ok := v.Find(id); !ok || !m.State.Active() {
		return v, ErrNotMember
	}
	return v.with(id, Left), nil
}

// MarkDead takes members out whose leases have expired. [Swap] checks that they
// have. Ids that are no active members any more are skipped.
func (v View) MarkDead(ids []NodeID) (View, error) {
	next, changed := v, false
	for _, id := range ids {
		if m, ok := next.Find(id); ok && m.State.Active() {
			next, changed = next.with(id, Dead), true
		}
	}
	if !changed {
		return v, ErrNotMember
	}
	next.Version = v.Version + 1
	return next, nil
}

// Relocate places a tenant on the live member of that name, as an operator wants
// it; "" gives it back to the table.
func (v View) Relocate(tenant, name string) (View, error) {
	return v.Place(Override{Tenant: tenant, Node: name})
}

// Place is [View.Relocate] with its reason. What an operator wants is not undone
// for the load of a node: give back first.
func (v View) Place(o Override) (View, error) {
	if m, ok := v.Named(o.Node); o.Node != "" && (!ok || m.State != Live) {
		return v, ErrNotMember
	}
	at, there := v.override(o.Tenant)
	if there && (v.Overrides[at] == o || o.Node != "" && o.Node == v.Overrides[at].Node && o.Auto) || !there && o.Node == "" {
		return v, ErrUnchanged
	}
	next := v.next()
	switch {
	case o.Node == "":
		next.Overrides = slices.Delete(next.Overrides, at, at+1)
	case there:
		next.Overrides[at] = o
	default:
		next.Overrides = slices.Insert(next.Overrides, at, o)
	}
	return next, nil
}

// next copies v for a change.
func (v View) next() View {
	v.Version++
	v.Members = slices.Clone(v.Members)
	v.Overrides = slices.Clone(v.Overrides)
	v.CommittedAt = time.Time{}
	return v
}

// with gives the next view in which a member, which must be there, has a state.
func (v View) with(id NodeID, s MemberState) View {
	next := v.next()
	at, _ := next.index(id.Name)
	next.Members[at].State = s
	if !s.Active() {
		// Its tenants must not jump back when a later boot takes the name.
		next.Overrides = slices.DeleteFunc(next.Overrides, func(o Override) bool { return o.Node == id.Name })
	}
	next.settle()
	return next
}

// settle ends the rounds once nobody is on the move.
func (v *View) settle() {
	if !v.Moving() {
		v.Round = 0
	}
}

func (v View) hasOwner() bool {
	for i := range v.Members {
		if s := v.Members[i].State; s == Live || s == Draining {
			return true
		}
	}
	return false
}
