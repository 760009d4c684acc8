package embedded

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// serveQueue runs the queue as the writer does: an operation takes work, a commit commit.
func serveQueue(q *queue, work, commit time.Duration, quit <-chan struct{}) {
	for {
		select {
		case <-quit:
			return
		default:
		}
		group, wait := q.next(groupOps)
		if group == nil {
			var late <-chan time.Time
			if wait > 0 {
				late = time.After(wait)
			}
			select {
			case <-q.filled:
			case <-late:
			case <-quit:
				return
			}
			continue
		}
		took := time.Duration(len(group)) * work
		time.Sleep(took + commit)
		q.done(group, took, commit)
		for _, o := range group {
			o.done <- nil
		}
	}
}

// A5: beside a tenant with many operations, another's wait for little more than the
// transaction at work; and it does not keep the writer from the first one.
func TestWriterIsSharedBetweenTenants_A5(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, quit := newQueue(), make(chan struct{})
		const work, commit = 200 * time.Microsecond, time.Millisecond
		go serveQueue(q, work, commit, quit)
		write := func(tenant string) time.Duration {
			o := &op{tenant: tenant, cost: 4 << 10, done: make(chan error, 1)}
			began := time.Now()
			if !q.put(o) {
				return 0
			}
			<-o.done
			return time.Since(began)
		}
		var flooded atomic.Int64
		for range 100 {
			go func() {
				for {
					select {
					case <-quit:
						return
					default:
					}
					if write("flood") == 0 {
						return
					}
					flooded.Add(1)
				}
			}()
		}
		time.Sleep(time.Second)
		write("calm") // from here on two are at work
		before := flooded.Load()
		began := time.Now()
		var sum, longest time.Duration
		const n = 200
		for i := range n {
			time.Sleep(500*time.Microsecond + time.Duration(i)*3*time.Microsecond)
			took := write("calm")
			sum, longest = sum+took, max(longest, took)
		}
		alone := work + commit
		if mean := sum / n; mean > 2*alone || longest > 6*alone {
			t.Errorf("an operation took %v, at most %v, beside a flood, and %v alone", mean, longest, alone)
		}
		if rate := float64(flooded.Load()-before) / time.Since(began).Seconds(); rate < 500 {
			t.Errorf("the flood got %.0f operations a second beside the other", rate)
		}
		close(quit)
		for _, o := range q.close() {
			o.done <- nil
		}
		synctest.Wait()
	})
}

// Many tenants with an operation each share transactions, and none is forgotten.
func TestSmallTenantsShareTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		const n = 40
		for i := range n {
			q.put(&op{tenant: fmt.Sprint("t", i), cost: 100, done: make(chan error, 1)})
		}
		groups, ops := 0, 0
		for ops < n {
			group, _ := q.next(groupOps)
			if group == nil {
				t.Fatalf("nothing more after %d of %d", ops, n)
			}
			groups, ops = groups+1, ops+len(group)
			q.done(group, time.Millisecond, time.Millisecond)
		}
		if groups > n/sharedOps {
			t.Errorf("%d operations took %d transactions", n, groups)
		}
		time.Sleep(2 * time.Second)
		q.put(&op{tenant: "last", cost: 100, done: make(chan error, 1)})
		group, _ := q.next(groupOps)
		q.done(group, time.Millisecond, time.Millisecond)
		if len(q.lines) != 1 {
			t.Errorf("%d tenants are remembered that are idle", len(q.lines)-1)
		}
	})
}
