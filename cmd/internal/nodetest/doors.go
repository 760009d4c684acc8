package nodetest

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// doors are the nodes that clients go through, as a load balancer sees them.
type doors struct {
	mu  sync.Mutex
	all []*door
}

// door is one node.
type door struct {
	m     *Member
	ready atomic.Bool
}

func (d *doors) add(m *Member) *door {
	x := &door{m: m}
	x.ready.Store(true)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, x)
	return x
}

// open are the nodes that are ready, or all if none is.
func (d *doors) open() []*Member {
	d.mu.Lock()
	defer d.mu.Unlock()
	var open, all []*Member
	for _, x := range d.all {
		all = append(all, x.m)
		if x.ready.Load() {
			open = append(open, x.m)
		}
	}
	if len(open) == 0 {
		return all
	}
	return open
}

func (d *doors) pick() *Member {
	open := d.open()
	return open[rand.IntN(len(open))]
}

// readyEvery is how often a node is asked whether it is ready: more often than
// load balancers do, since the tests have less time.
const readyEvery = 25 * time.Millisecond

// watch asks a node whether it is ready until stop is closed.
func (d *door) watch(ctx context.Context, stop <-chan struct{}) {
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: 5 * time.Second}
	t := time.NewTicker(readyEvery)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		}
		d.ready.Store(d.ask(ctx, client))
	}
}

func (d *door) ask(ctx context.Context, client *http.Client) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.m.URL+"/ready", http.NoBody)
	if err != nil {
		return false
	}
	r, err := client.Do(req)
	if err != nil {
		return false
	}
	_ = r.Body.Close()
	return r.StatusCode == http.StatusOK
}
