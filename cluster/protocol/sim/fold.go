package sim

// docs is how many documents a knowledge base has.
const docs = 2

type kind uint8

const (
	setValue  kind = iota // a write
	addDoc                // a write that leaves work to do
	intent                // the work's plan: an attempt of n points
	indexed               // the work's end: the attempt's points may be found
	readValue             // a read
	search                // a read of points
)

// entry is one event of a journal.
type entry struct {
	kind    kind
	doc     int8
	n       int8 // points of an intent
	attempt int  // of the index
	op      *op  // nil if the grain caused it
	try     *try // the delivery that wrote it, nil if the grain did
}

// state is what a journal folds into. It is comparable.
type state struct {
	last int // id of the operation that set the value
	docs [docs]docState
}

// docState is one document.
type docState struct {
	version int // rises with each addDoc
	live    int // attempt whose points are found, 0 if none
	points  int8
	done    int // version of the live attempt

	planned       int // attempt of the last intent, 0 if none
	plannedPoints int8
	plannedFor    int
}

func (d *docState) pending() bool { return d.version > d.done }

func (s state) apply(e entry) state {
	d := &s.docs[e.doc]
	switch e.kind {
	case setValue:
		s.last = e.op.id
	case addDoc:
		s.last = e.op.id
		d.version++
	case intent:
		d.planned, d.plannedPoints, d.plannedFor = e.attempt, e.n, d.version
	case indexed:
		d.live, d.points, d.done = e.attempt, d.plannedPoints, d.plannedFor
	}
	return s
}

// op is what a client wants.
type op struct {
	id    int
	k     int
	kind  kind
	doc   int8
	floor int64 // position that was seen by somebody before it began
	late  bool  // it began after everything had healed

	acked bool
	seq   int64
}

// try is one delivery of an operation to a grain.
type try struct {
	op        *op
	failed    bool // it was answered so: it must never come to be
	committed bool
	reply     func(reply)
}

// reply is what a grain answers.
type reply struct {
	code replyCode
}

type replyCode uint8

const (
	replyOK      replyCode = iota
	replyFailed            // certainly not done by this delivery; try again
	replyUnknown           // nobody knows; try again with the same key
	replyMoved             // ask somebody else
)
