package journal_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

func chained(id journal.Identity, n int) []journal.Event {
	var out []journal.Event
	var hash []byte
	for i := range n {
		e := journal.Event{Seq: int64(i) + 1, Time: time.UnixMicro(int64(i) * 1000), Type: "t", Data: []byte{byte(i)},
			Principal: "alice", RequestID: "r", Remote: "192.0.2.1"}
		hash = journal.Link(hash, id, e)
		e.Hash = hash
		out = append(out, e)
	}
	return out
}

func follow(id journal.Identity, list []journal.Event) error {
	var c journal.Chain
	for _, e := range list {
		if err := c.Follow(id, e); err != nil {
			return err
		}
	}
	return nil
}

func TestI1_EveryFieldOfAnEventIsUnderItsLink(t *testing.T) {
	id := journal.Identity{Kind: "kb", Tenant: "acme", ID: "k"}
	if err := follow(id, chained(id, 5)); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*journal.Event){
		"time":       func(e *journal.Event) { e.Time = e.Time.Add(time.Microsecond) },
		"type":       func(e *journal.Event) { e.Type = "u" },
		"data":       func(e *journal.Event) { e.Data = nil },
		"principal":  func(e *journal.Event) { e.Principal = "mallory" },
		"request id": func(e *journal.Event) { e.RequestID = "" },
		"remote":     func(e *journal.Event) { e.Remote = "192.0.2.2" },
		"hash":       func(e *journal.Event) { e.Hash = bytes.Repeat([]byte{1}, 32) },
		"sequence":   func(e *journal.Event) { e.Seq++ },
		"two fields": func(e *journal.Event) { e.Type, e.Principal = "ta", "lice" },
	} {
		list := chained(id, 5)
		change(&list[2])
		if err := follow(id, list); !errors.Is(err, journal.ErrChain) || !errors.Is(err, journal.ErrCorrupt) {
			t.Errorf("%s changed: %v", what, err)
		}
	}
	list := chained(id, 5)
	list[1], list[2] = list[2], list[1]
	list[1].Seq, list[2].Seq = 2, 3
	if err := follow(id, list); !errors.Is(err, journal.ErrChain) {
		t.Errorf("two events swapped: %v", err)
	}
	for _, other := range []journal.Identity{{Kind: "tenant", Tenant: "acme", ID: "k"}, {Kind: "kb", Tenant: "acm", ID: "ek"}, {Kind: "kb", Tenant: "acme", ID: "l"}} {
		if err := follow(other, chained(id, 5)); !errors.Is(err, journal.ErrChain) {
			t.Errorf("the events of another grain: %v", err)
		}
	}
}

func TestI1_ChainBeginsWithTheFirstEventThatHasAHash(t *testing.T) {
	id := journal.Identity{Kind: "kb", Tenant: "acme", ID: "k"}
	old := journal.Event{Seq: 1, Type: "t"}
	first := journal.Event{Seq: 2, Type: "t"}
	first.Hash = journal.Link(nil, id, first)
	if err := follow(id, []journal.Event{old, first}); err != nil {
		t.Fatal(err)
	}
}

func FuzzParseAccess(f *testing.F) {
	f.Add(journal.AppendAccess(nil, journal.Access{Tenant: "acme", Stream: "n#1", Seq: 1, Time: time.UnixMicro(5), Method: "m", Count: 1}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := journal.ParseAccess(b)
		if err != nil {
			if !errors.Is(err, journal.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if again := journal.AppendAccess(nil, a); !bytes.Equal(again, b) {
			t.Fatalf("%x was read, and is written as %x", b, again)
		}
	})
}

// BenchmarkLink is what the chain costs an event of 300 bytes.
func BenchmarkLink(b *testing.B) {
	id := journal.Identity{Kind: "kb", Tenant: "acme", ID: "handbook"}
	e := journal.Event{Seq: 7, Time: time.UnixMicro(1), Type: "document.added", Data: bytes.Repeat([]byte("x"), 300), Principal: "alice", RequestID: "r"}
	prev := bytes.Repeat([]byte{1}, journal.HashSize)
	b.ReportAllocs()
	for b.Loop() {
		prev = journal.Link(prev, id, e)
	}
}
