package gossip

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"
)

// BenchmarkDetection kills a member's process and takes the time until one
// other member suspects it, and until the last one reports it dead.
func BenchmarkDetection(b *testing.B) {
	for _, nodes := range []int{3, 5} {
		for _, probe := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond} {
			b.Run(fmt.Sprintf("nodes=%d/probe=%s", nodes, probe), func(b *testing.B) {
				others := group(b, nodes-1, probe)
				var suspect, dead []time.Duration
				for i := range b.N {
					s, d := detection(b, others, fmt.Sprintf("victim#%d", i), probe)
					suspect, dead = append(suspect, s), append(dead, d)
				}
				report(b, suspect, "suspect")
				report(b, dead, "dead")
			})
		}
	}
}

func group(b *testing.B, n int, probe time.Duration) []*Gossip {
	b.Helper()
	var all []*Gossip
	for i := range n {
		c := Config{ID: fmt.Sprintf("n%d#a", i+1), Probe: probe, Retry: 2 * time.Second,
			Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
		if i > 0 {
			c.Join = []string{all[0].Addr()}
		}
		all = append(all, start(b, c))
	}
	for _, g := range all {
		await(b, g, "the group", func(m []Member) bool { return len(m) == n })
	}
	return all
}

func detection(b *testing.B, others []*Gossip, id string, probe time.Duration) (suspect, dead time.Duration) {
	b.Helper()
	kill := process(b, id, others[0].Addr(), probe)
	for _, g := range others {
		await(b, g, id, state(id, Alive))
	}
	// At no fixed moment between two probes.
	time.Sleep(time.Duration(time.Now().UnixNano() % int64(2*probe)))
	kill()
	at := time.Now()
	m := await(b, others[0], "a sign from "+id, func(m []Member) bool { return find(m, id).State != Alive })
	suspect = find(m, id).Since.Sub(at)
	for _, g := range others {
		m := await(b, g, "the end of "+id, state(id, Dead))
		dead = max(dead, find(m, id).Since.Sub(at))
	}
	return suspect, dead
}

func report(b *testing.B, took []time.Duration, name string) {
	slices.Sort(took)
	at := func(q float64) float64 { return took[int(q*float64(len(took)-1))].Seconds() * 1000 }
	b.ReportMetric(at(0.5), name+"-p50-ms")
	b.ReportMetric(at(0.95), name+"-p95-ms")
	b.ReportMetric(at(1), name+"-max-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkFalseAlarms runs five members in five processes while the machine
// has four times as much to do as it can, for GRANARY_GOSSIP_SECONDS (default
// 20), and counts how often the sixth sees one of them dead or suspected.
func BenchmarkFalseAlarms(b *testing.B) {
	seconds, err := strconv.Atoi(os.Getenv("GRANARY_GOSSIP_SECONDS"))
	if err != nil {
		seconds = 20
	}
	probe := 200 * time.Millisecond
	g := group(b, 1, probe)[0]
	for i := range 5 {
		process(b, fmt.Sprintf("c%d#a", i+1), g.Addr(), probe)
	}
	await(b, g, "all", func(m []Member) bool { return len(m) == 6 })
	for range 4 * runtime.NumCPU() {
		process(b, burn, "", 0)
	}
	end := time.After(time.Duration(seconds) * time.Second)
	dead, suspected := 0, 0
	seen := map[string]State{}
	for {
		select {
		case <-end:
			b.ReportMetric(float64(dead), "dead")
			b.ReportMetric(float64(suspected), "suspected")
			b.ReportMetric(0, "ns/op")
			return
		case <-g.Changed():
		}
		for _, m := range g.Members() {
			if m.State != seen[m.ID] && m.State == Dead {
				dead++
			} else if m.State != seen[m.ID] && m.State == Suspect {
				suspected++
			}
			seen[m.ID] = m.State
		}
	}
}
