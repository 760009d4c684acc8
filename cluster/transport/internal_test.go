package transport

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
)

func TestCallContextEndsAtItsDeadlineForWhoeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		stream, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "v"))
		defer cancel()
		c := &callContext{stream: stream, deadline: time.Now().Add(time.Second)}
		if at, ok := c.Deadline(); !ok || !at.Equal(c.deadline) || c.Err() != nil || c.Value(key{}) != "v" {
			t.Error("a fresh context")
		}
		derived, cancelDerived := context.WithCancel(c)
		defer cancelDerived()
		if c.Value(key{}) != "v" {
			t.Error("a value is lost once somebody waits")
		}
		start := time.Now()
		<-derived.Done()
		if took := time.Since(start); took != time.Second {
			t.Errorf("ended after %v", took)
		}
		for _, one := range []context.Context{c, derived} {
			if !errors.Is(one.Err(), context.DeadlineExceeded) {
				t.Errorf("ended with %v", one.Err())
			}
		}
		c.end()
		if !errors.Is(c.Err(), context.DeadlineExceeded) {
			t.Errorf("the error changed to %v", c.Err())
		}
	})
}

func TestCallContextNobodyWaitsForKnowsItsEndToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stream, cancel := context.WithCancel(t.Context())
		late := &callContext{stream: stream, deadline: time.Now().Add(time.Second)}
		time.Sleep(time.Second)
		if !errors.Is(late.Err(), context.DeadlineExceeded) {
			t.Errorf("at its deadline: %v", late.Err())
		}
		<-late.Done()
		ended := &callContext{stream: stream, deadline: time.Now().Add(time.Second)}
		ended.end()
		time.Sleep(time.Minute)
		if !errors.Is(ended.Err(), context.Canceled) {
			t.Errorf("ended long before its deadline: %v", ended.Err())
		}
		<-ended.Done()
		free := &callContext{stream: stream}
		if _, has := free.Deadline(); has || free.Err() != nil {
			t.Error("a call without a deadline")
		}
		child, stop := context.WithCancel(&callContext{stream: stream})
		defer stop()
		cancel()
		synctest.Wait()
		if !errors.Is(free.Err(), context.Canceled) || !errors.Is(child.Err(), context.Canceled) {
			t.Errorf("the connection is gone: %v, %v", free.Err(), child.Err())
		}
	})
}

func take(l *link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out.take()
}

// quietLink is a link without a connection on which a call waits.
func quietLink(tick time.Duration) (*link, *pending) {
	l := &link{
		addr: "n1", logger: slog.New(slog.DiscardHandler), limits: limits{inFlight: 8, message: 1 << 20, held: 1 << 20, tick: tick},
		out: newOutbox(new(bufferPool)), waiting: map[uint64]*pending{}, spare: new(pendings),
		ended: func(*link) {}, cancel: func() {}, onView: func(int64) {},
	}
	l.ticker = time.AfterFunc(time.Hour, l.tick)
	l.ticker.Stop()
	p := l.spare.get()
	if _, _, err := l.begin(p, &nodev1.Call{Kind: "kb"}); err != nil {
		return nil, nil
	}
	take(l)
	return l, p
}

func TestSilenceIsCountedFromTheLastSignOfLife_E5(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tick = 250 * time.Millisecond
		l, p := quietLink(tick)
		for range 10 { // a sign of life now and then keeps it up
			time.Sleep(4 * tick)
			l.heard.Store(true)
		}
		select {
		case <-p.ready:
			t.Fatalf("given up: %v", p.err)
		default:
		}
		start := time.Now()
		<-p.ready
		if took := time.Since(start); took < silentTicks*tick || took > (silentTicks+1)*tick {
			t.Errorf("given up after %v", took)
		}
		if !errors.Is(p.err, ErrLost) || !errors.Is(p.err, errSilent) {
			t.Errorf("the call got %v", p.err)
		}
	})
}

func TestSilenceOfANodeNobodyWaitsForIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p := quietLink(time.Second)
		if !l.abandon(p) {
			t.Fatal("the call was over")
		}
		time.Sleep(time.Hour)
		l.mu.Lock()
		if l.err != nil || l.ticking {
			t.Errorf("ended: %v, ticking %v", l.err, l.ticking)
		}
		l.mu.Unlock()
		l.end(errClosed)
	})
}

func TestFateOfACallFollowsFromWhatWasWritten_E5(t *testing.T) {
	queued, written := func(*link) {}, take
	cases := []struct {
		name    string
		size    int
		do      func(*link)
		inOrder bool
		want    error
	}{
		{"queued", 10, queued, false, ErrNotSent},
		{"written", 10, written, false, ErrLost},
		{"written, and the server ended in order", 10, written, true, ErrNotSent},
		{"first parts written", 700 << 10, written, false, ErrNotSent},
		{"all parts written", 70 << 10, written, false, ErrLost},
		{"all parts written, and the server ended in order", 70 << 10, written, true, ErrNotSent},
	}
	for _, one := range cases {
		l, before := quietLink(time.Hour)
		p := l.spare.get()
		if refusal, _, err := l.begin(p, &nodev1.Call{Request: make([]byte, one.size)}); err != nil || refusal != nil {
			t.Fatal(refusal, err)
		}
		one.do(l)
		if one.inOrder {
			l.end(nil)
		} else {
			l.end(errClosed)
		}
		<-before.ready
		if <-p.ready; !errors.Is(p.err, one.want) {
			t.Errorf("%s: %v", one.name, p.err)
		}
	}
}
