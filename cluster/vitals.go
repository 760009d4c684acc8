package cluster

import (
	"context"
	"math"
	"runtime"
	"sync/atomic"
	"time"
)

const (
	vitalsEvery = time.Second
	// loadMemory is over how long the load is averaged: long enough that a
	// burst moves no tenant.
	loadMemory = 15 * time.Second
)

// vitals measures how this process is.
type vitals struct {
	loadBits atomic.Uint64 // float64: share of the processors used, averaged
	sick     atomic.Bool
	unwell   bool // at the last look
}

func newVitals() *vitals { return &vitals{} }

// load is the share of the processors this process may use that it does use, 0
// to 1, averaged over some seconds.
func (v *vitals) load() float64 { return math.Float64frombits(v.loadBits.Load()) }

func (v *vitals) healthy() bool { return !v.sick.Load() }

// look notes whether something is wrong with this node. It is sick once that has
// been so at two looks in a row: a lease that lapsed for a moment moves no tenant.
func (v *vitals) look(wrong bool) {
	v.sick.Store(wrong && v.unwell)
	v.unwell = wrong
}

func (v *vitals) run(ctx context.Context) {
	t := time.NewTicker(vitalsEvery)
	defer t.Stop()
	at, used := time.Now(), cpuTime()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			u := cpuTime()
			v.sample(now.Sub(at), u-used)
			at, used = now, u
		}
	}
}

// sample takes one stretch of time into the average.
func (v *vitals) sample(took, used time.Duration) {
	if took <= 0 {
		return
	}
	now := float64(used) / float64(took) / float64(runtime.GOMAXPROCS(0))
	weight := 1 - math.Exp(-took.Seconds()/loadMemory.Seconds())
	v.loadBits.Store(math.Float64bits(v.load() + weight*(now-v.load())))
}
