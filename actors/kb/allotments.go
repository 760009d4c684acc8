package kb

import "slices"

// Allotments are how one limit of a tenant is divided among those that use it: bytes of
// storage among knowledge bases, places of processing among nodes. Its owner makes each
// change durable before it tells a holder of more, in the order of the changes; a holder
// gives back before it tells of less. So at every moment, whoever crashes,
//
//	used by a holder ≤ granted to it (durable),  Σ granted ≤ limit
//
// unless the limit was lowered below what is used, or bytes were stored before grants were
// kept: what is used counts, and nothing is granted until there is room. Not safe for
// concurrent use.
type Allotments struct {
	holders map[string]*Allotment
	sum     int64
}

// Allotment is what one holder may use.
type Allotment struct {
	// Version is that of the holder's last request; a request with an older one changes
	// nothing, whenever it arrives.
	Version int64
	Value   int64
	// Used and Wish are what the holder told last; after the owner moved they are not
	// known until it tells again, and Told is false.
	Used, Wish int64
	Told       bool
}

// Slack is what the holder may have to give back.
func (g Allotment) Slack() int64 {
	if !g.Told {
		return g.Value
	}
	return max(0, g.Value-g.Used)
}

// AllotmentRequest is a holder's word. It is absolute: one that is lost, or comes twice or
// late, neither leaks nor doubles.
type AllotmentRequest struct {
	Holder  string
	Version int64 // rises with each request, over all lives of the holder
	// Held: the holder uses no more than this until it hears the answer. Negative: it does
	// not know what it was granted, and until it does it uses nothing beyond Used.
	Held int64
	Used int64
	Wish int64 // what it could use in all
}

// NewAllotments makes grants from what is durable.
func NewAllotments() *Allotments { return &Allotments{holders: make(map[string]*Allotment)} }

// Load takes a durable grant.
func (g *Allotments) Load(holder string, version, value int64) {
	g.put(holder, Allotment{Version: version, Value: value})
}

func (g *Allotments) put(holder string, n Allotment) {
	old := g.holders[holder]
	if old != nil {
		g.sum -= old.Value
	}
	g.holders[holder] = &n
	g.sum += n.Value
}

// Sum is what is granted to all.
func (g *Allotments) Sum() int64 { return g.sum }

// Of gives a holder's grant.
func (g *Allotments) Of(holder string) (Allotment, bool) {
	if n := g.holders[holder]; n != nil {
		return *n, true
	}
	return Allotment{}, false
}

// Holders lists those with a grant, by name.
func (g *Allotments) Holders() []string {
	out := make([]string, 0, len(g.holders))
	for h := range g.holders {
		out = append(out, h)
	}
	slices.Sort(out)
	return out
}

// Take takes a holder's word; false when it is an old one. What it gives up is free.
func (g *Allotments) Take(q AllotmentRequest) bool {
	old, _ := g.Of(q.Holder)
	if q.Version < old.Version {
		return false
	}
	value := old.Value
	// The same word again must not take back what was granted on it.
	if q.Held >= 0 && q.Version > old.Version {
		value = min(value, q.Held)
	}
	g.put(q.Holder, Allotment{Version: q.Version, Value: max(value, q.Used), Used: q.Used, Wish: q.Wish, Told: true})
	return true
}

// Grow grants a holder at least need in all, and up to wish while reserve is left for
// others. It reports false, and grants nothing, when need is not to be had.
func (g *Allotments) Grow(holder string, need, wish, limit, reserve int64) bool {
	n := g.holders[holder]
	if n == nil {
		return false
	}
	if need <= n.Value {
		return true
	}
	room := limit - g.sum
	if need-n.Value > room {
		return false
	}
	more := need - n.Value
	if wish > need {
		more += max(0, min(wish-need, room-more-reserve))
	}
	n.Value += more
	g.sum += more
	return true
}

// Drop forgets a holder that uses nothing any more.
func (g *Allotments) Drop(holder string) {
	if n := g.holders[holder]; n != nil {
		g.sum -= n.Value
		delete(g.holders, holder)
	}
}

// Slack lists the holders, but for one, that may have something to give back, and how
// much that is at most.
func (g *Allotments) Slack(but string) (holders []string, most int64) {
	for _, h := range g.Holders() {
		if s := g.holders[h].Slack(); h != but && s > 0 {
			holders = append(holders, h)
			most += s
		}
	}
	return holders, most
}

const (
	storageBlock      = 64 << 20
	storageBlockShare = 100
)

// StorageBlock is how much a knowledge base is granted beyond what it needs, so that the
// next documents cost no question to the tenant.
func StorageBlock(limit int64) int64 { return min(storageBlock, limit/storageBlockShare) }

// Shares divides limit among wishes: nobody gets more than it wishes, and what one does
// not need goes to the others in equal parts. What cannot be divided goes to the first.
func Shares(limit int64, wishes []int64) []int64 {
	out := make([]int64, len(wishes))
	order := make([]int, len(wishes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(min(max(wishes[a]-wishes[b], -1), 1)) })
	left := max(0, limit)
	for i, at := range order {
		n := int64(len(order) - i)
		out[at] = min(max(0, wishes[at]), (left+n-1)/n)
		left -= out[at]
	}
	return out
}
