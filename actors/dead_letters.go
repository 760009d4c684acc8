package actors

import (
	"slices"
	"time"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
)

// deadLetter adds to b what an event means for the list of work that was given
// up. The last event of a batch about a document counts.
func deadLetter(b *journal.Batch, e effect, at time.Time) {
	was, is := e.before.GivenUp(), e.after.GivenUp()
	if !was && !is {
		return
	}
	key := kb.Subject(e.event)
	b.SetDeadLetters = slices.DeleteFunc(b.SetDeadLetters, func(d journal.DeadLetter) bool { return d.Key == key })
	b.ClearDeadLetters = slices.DeleteFunc(b.ClearDeadLetters, func(k string) bool { return k == key })
	if !is {
		b.ClearDeadLetters = append(b.ClearDeadLetters, key)
		return
	}
	b.SetDeadLetters = append(b.SetDeadLetters, journal.DeadLetter{Key: key, Name: e.after.Name,
		Reason: e.after.Error.Reason, Since: at})
}
