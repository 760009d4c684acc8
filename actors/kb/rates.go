package kb

import "time"

// Meter is something counted in windows of time. Windows are aligned to the clock (UTC).
type Meter string

// The meters (requirement B4).
//
// A call is an authenticated request to the tenants' API, whatever becomes of it; a stream
// counts once, when it opens. A vector operation is one search by vectors (vector or hybrid
// mode), or one batch of up to 32 chunks of a document that is embedded and stored.
const (
	MeterCalls   Meter = "calls"
	MeterVectors Meter = "vector-operations"
)

// Period is the length of the meter's windows; 0 for what is no meter.
func (m Meter) Period() time.Duration {
	switch m {
	case MeterCalls:
		return time.Hour
	case MeterVectors:
		return time.Minute
	}
	return 0
}

// Base is the meter's limit in one window, before any burst.
func (m Meter) Base(l Limits) int64 {
	switch m {
	case MeterCalls:
		return max(0, l.APICallsPerHour)
	case MeterVectors:
		return max(0, l.VectorOperationsPerMinute)
	}
	return 0
}

// Reason is that of a refusal.
func (m Meter) Reason() string {
	if m == MeterVectors {
		return ReasonVectorLimit
	}
	return ReasonCallLimit
}

// window gives the number of the window a time lies in.
func (m Meter) window(t time.Time) int64 {
	n, p := t.UnixNano(), int64(m.Period())
	if n < 0 {
		return 0
	}
	return n / p
}

const (
	// burstShare: the bank holds at most this part of the limit (B5).
	burstShare = 2
	// bankShare: this part of what a window left unused goes to the bank. So it takes two
	// idle windows to fill, and a tenant that was created a minute ago has not saved up.
	bankShare = 4
	// leaseShare: one lease is at most this part of the limit, which bounds what a lost
	// node's unused tokens cost.
	leaseShare = 64
	// reserveShare: so much of the limit is made durable ahead at most; it is lost when the
	// tenant's owner crashes.
	reserveShare = 32
	// SearchShare is the part of a window that work which waits (documents) leaves to searches.
	SearchShare = 5
	// aheadWindows: a window is kept although the clock is this far behind it, since the
	// last owner's clock may have been ahead. Beyond it that clock was wrong.
	aheadWindows = 10
	// mostLease bounds a lease where there is no limit to speak of.
	mostLease = 1 << 16
	// scarceRetry is the time after which tokens may have come back that others hold.
	scarceRetry = 2 * time.Second
)

// RateRecord is what must be durable of a meter before tokens are handed out.
type RateRecord struct {
	Window   int64
	Reserved int64 // tokens that may have been handed out in this window
	Bank     int64 // what the window may use beyond the limit
}

// Rate is one meter of one tenant, as its owner keeps it: it grants tokens of the current
// window in blocks to the nodes that hold them. At no time more tokens are granted than
// were durably reserved, nor more reserved than the limit and the bank allow; so what was
// granted never exceeds them, whoever crashes. Not safe for concurrent use.
//
//	used ≤ granted ≤ reserved (durable) ≤ limit + bank ≤ 1.5 × limit
type Rate struct {
	meter   Meter
	window  int64
	bank    int64
	durable int64 // reserved, as committed
	asked   int64 // reserved, with the commit under way
	granted int64
	dirty   bool // the window has no durable record yet
	began   bool // there is a window
	holders map[string]*tokenHolder
}

// tokenHolder is what a node has of the current window.
type tokenHolder struct {
	seq    int64
	held   int64
	used   int64
	credit int64 // charged, of all it ever told
	known  bool  // has spoken to this owner before
}

// NewRate makes a meter from what is durable; nil when nothing is.
func NewRate(m Meter, rec *RateRecord) *Rate {
	r := &Rate{meter: m, dirty: true}
	if rec != nil {
		// Who holds what is not durable: all that was reserved may have been used.
		*r = Rate{meter: m, window: rec.Window, bank: rec.Bank, durable: rec.Reserved, asked: rec.Reserved, granted: rec.Reserved, began: true}
	}
	return r
}

// Roll moves on to the window of now. base is the limit as it is now.
func (r *Rate) Roll(now time.Time, base int64) {
	w := r.meter.window(now)
	switch {
	case !r.began:
		r.enter(w, 0, 0)
	case w > r.window:
		r.enter(w, r.nextBank(w, base), max(0, r.granted-r.total(base)))
	case w < r.window-aheadWindows:
		// What the wrong clock's window used is used in this one.
		r.enter(w, r.bank, r.granted)
	}
}

// enter begins a window with what is owed from before.
func (r *Rate) enter(window, bank, owed int64) {
	r.window, r.bank, r.began, r.dirty = window, bank, true, true
	r.granted, r.durable, r.asked = owed, owed, owed
	// A holder that is met anew can give nothing back of what it had: nothing is lost by
	// forgetting those of the last window, dead nodes among them.
	r.holders = nil
}

// nextBank is the bank at the beginning of window w.
func (r *Rate) nextBank(w, base int64) int64 {
	idle := min(w-r.window-1, 2*bankShare/burstShare)
	bank := max(0, min(r.bank, base/burstShare)-max(0, r.granted-base))
	bank += max(0, base-r.granted)/bankShare + idle*(base/bankShare)
	return min(bank, base/burstShare)
}

// total is what the window may use.
func (r *Rate) total(base int64) int64 { return base + min(r.bank, base/burstShare) }

// room is what is left to grant to a request; what is owed makes it negative.
func (r *Rate) room(base int64, background bool) int64 {
	room := r.total(base) - r.granted
	if background {
		room -= base / SearchShare
	}
	return room
}

// TokenRequest is a node's word about the tokens of one meter it holds. It is absolute:
// one that is lost, or comes twice or late, neither leaks nor doubles tokens.
type TokenRequest struct {
	Holder string // one life of a node
	// Known: the holder has had an answer of this owner. Only then can it give back: a
	// message that was on its way since before this owner took over may be older than what
	// the last owner granted.
	Known bool
	Seq   int64 // rises with each request of the holder
	// Window, Held and Used: the holder uses no more than Held tokens of the window from
	// now on, until it hears the answer; Used of them are used.
	Window, Held, Used int64
	Want               int64 // so many more
	Background         bool  // work that waits: leaves a part to what does not
	// Credit are the calls the holder ever let through without a token because no owner
	// could be reached; Charged of them were charged as far as it knows.
	Credit, Charged int64
}

// TokenLease answers a [TokenRequest].
type TokenLease struct {
	Seq       int64
	Window    int64
	Left      time.Duration // until the window ends
	Held      int64         // tokens of the window that the holder may use in all
	Base      int64         // the limit
	Remaining int64         // left to grant to anybody, burst included
	Charged   int64         // credit charged
	// RetryAfter is when there may be tokens again, if none was left for this request.
	RetryAfter time.Duration
}

// Lease answers a request in the current window, or tells what must be committed first:
// then nothing has changed, and the request is to be asked again.
func (r *Rate) Lease(q TokenRequest, now time.Time, base int64) (TokenLease, *RateRecord) {
	h := r.holder(q)
	if h.known && q.Seq <= h.seq {
		return r.again(h, q, now, base), nil
	}
	held, used := q.in(r.window)
	back, owed := int64(0), max(0, q.Credit-max(h.credit, q.Charged))
	if q.Known && h.known {
		back = max(0, h.held-held)
	}
	want := int64(0)
	if q.Want > 0 {
		want = min(q.Want, r.block(base, back-owed, q.Background))
	}
	if need := r.granted - back + owed + want; need > r.durable {
		return TokenLease{}, r.reserve(need, base)
	}
	r.granted += owed - back + want
	*h = tokenHolder{seq: q.Seq, known: true, held: held + want, used: used, credit: max(h.credit, q.Credit, q.Charged)}
	out := r.lease(h, q, now, base)
	if q.Want > 0 && want == 0 {
		if out.RetryAfter = out.Left; r.unused() > 0 {
			out.RetryAfter = min(out.Left, scarceRetry)
		}
	}
	return out, nil
}

// again answers a request that came before, or whose holder has asked anew since.
func (r *Rate) again(h *tokenHolder, q TokenRequest, now time.Time, base int64) TokenLease {
	out := r.lease(h, q, now, base)
	if q.Seq < h.seq {
		out.Held, _ = q.in(r.window) // nobody listens
	}
	return out
}

func (r *Rate) lease(h *tokenHolder, q TokenRequest, now time.Time, base int64) TokenLease {
	return TokenLease{Seq: q.Seq, Window: r.window, Left: r.left(now), Held: h.held, Base: base,
		Remaining: max(0, r.room(base, false)), Charged: h.credit}
}

// in is what the holder has of a window.
func (q TokenRequest) in(window int64) (held, used int64) {
	if q.Window != window {
		return 0, 0
	}
	return max(0, q.Held), max(0, q.Used)
}

// holder finds who asks.
func (r *Rate) holder(q TokenRequest) *tokenHolder {
	if r.holders == nil {
		r.holders = make(map[string]*tokenHolder)
	}
	h := r.holders[q.Holder]
	if h == nil {
		h = &tokenHolder{credit: q.Charged}
		r.holders[q.Holder] = h
	}
	return h
}

// block bounds one lease: a small part of the limit, and less and less of it the closer
// the limit is, so that the last tokens can be had through any node.
func (r *Rate) block(base, back int64, background bool) int64 {
	room := r.room(base, background) + back
	if room <= 0 {
		return 0
	}
	return max(1, min(base/leaseShare, mostLease, room/int64(2*len(r.holders)+2)))
}

// reserve is what to commit so that need tokens can be granted.
func (r *Rate) reserve(need, base int64) *RateRecord {
	ahead := min(base/reserveShare, max(0, r.total(base)-need)/8)
	rec := &RateRecord{Window: r.window, Reserved: max(need+ahead, r.asked), Bank: r.bank}
	r.asked = rec.Reserved
	return rec
}

// Committed takes a record that is durable now.
func (r *Rate) Committed(rec RateRecord) {
	if rec.Window == r.window {
		r.durable, r.dirty = max(r.durable, rec.Reserved), false
	}
}

// Spare gives up what was reserved and not granted: the record to commit, nil when there
// is nothing to give up. Nothing is granted after it until another reservation.
func (r *Rate) Spare(now time.Time) *RateRecord {
	if r.dirty || r.durable <= r.granted || r.meter.window(now) > r.window {
		return nil
	}
	r.durable, r.asked = r.granted, r.granted
	return &RateRecord{Window: r.window, Reserved: r.granted, Bank: r.bank}
}

// TokenState is what a node knows of a meter after a request.
type TokenState struct {
	Base      int64         // the limit in a window; 0: not known
	Remaining int64         // left of it at this node and with the owner, as heard last, burst included
	Reset     time.Duration // until the window ends
}

func (r *Rate) left(now time.Time) time.Duration {
	return time.Unix(0, (r.window+1)*int64(r.meter.Period())).Sub(now)
}

// unused are tokens that nodes hold and have not used, as far as they told.
func (r *Rate) unused() int64 {
	n := int64(0)
	for _, h := range r.holders {
		n += max(0, h.held-h.used)
	}
	return n
}

// RateUsage is what a meter shows.
type RateUsage struct {
	Base, Bank    int64 // the limit, and what the window may use beyond it
	Used          int64 // tokens of lost nodes count as used
	GrantedUnused int64 // at nodes, as they told last
	Remaining     int64 // left to grant
	BurstLeft     int64 // of the bank
	Start, Reset  time.Time
}

// Usage tells how the current window stands.
func (r *Rate) Usage(base int64) RateUsage {
	start := time.Unix(0, r.window*int64(r.meter.Period())).UTC()
	unused := min(r.unused(), r.granted)
	bank := r.total(base) - base
	return RateUsage{Base: base, Bank: bank, Used: r.granted - unused, GrantedUnused: unused, Remaining: max(0, r.room(base, false)),
		BurstLeft: max(0, bank-max(0, r.granted-base)), Start: start, Reset: start.Add(r.meter.Period())}
}
