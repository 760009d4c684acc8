package main

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"granary.dev/granary/cluster/protocol"
)

// lookUps is how many owners are looked up for a time per look-up.
const lookUps = 2_000_000

type placementFlags struct {
	nodes   []int
	kbs     int
	changes int
}

// placement measures what the partition table makes of clusters of several sizes
// (P6): how even it is, how much a join and a leave move, what it costs. Knowledge
// bases are hashed one after the other and only counted by partition.
func placement(ctx context.Context, args []string) error {
	f, err := parsePlacement(args)
	if err != nil {
		return err
	}
	cfg := protocol.DefaultTableConfig()
	one, err := protocol.NewTable(cfg, []string{"granary-0"})
	if err != nil {
		return err
	}
	start := time.Now()
	kbs := make([]int, cfg.Partitions)
	for i := range f.kbs {
		kbs[one.Partition(benchKB(i).Hash())]++
	}
	note("P6 hashed %d knowledge bases in %v, %.1f MB live", f.kbs, time.Since(start).Round(time.Millisecond), float64(heap())/1e6)
	for _, n := range f.nodes {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := placeOn(ctx, cfg, n, f, kbs); err != nil {
			return fmt.Errorf("%d nodes: %w", n, err)
		}
	}
	return nil
}

func parsePlacement(args []string) (f placementFlags, err error) {
	fs := flag.NewFlagSet("placement", flag.ContinueOnError)
	nodes := fs.String("nodes", "3,10,100,1000", "sizes of clusters; the table of 1000 takes a minute to build")
	fs.IntVar(&f.kbs, "kbs", 10_000_000, "knowledge bases")
	fs.IntVar(&f.changes, "changes", 20, "joins and leaves to look at, of each size")
	if err := fs.Parse(args); err != nil {
		return f, err
	}
	if f.nodes, err = sizesOf(*nodes, 2); err != nil {
		return f, err
	}
	if f.kbs < 1 || f.changes < 1 {
		return f, fmt.Errorf("-kbs and -changes must be above 0")
	}
	return f, nil
}

// sizesOf reads numbers of nodes, each at least so many.
func sizesOf(list string, least int) (sizes []int, err error) {
	for _, s := range strings.Split(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < least {
			return nil, fmt.Errorf("%q is no number from %d on", s, least)
		}
		sizes = append(sizes, n)
	}
	return sizes, nil
}

// benchKB is one of ten knowledge bases of a tenant.
func benchKB(i int) protocol.Identity {
	return protocol.Identity{Kind: "kb", Tenant: "tenant-" + strconv.Itoa(i/10), ID: "kb-" + strconv.Itoa(i%10)}
}

// change is what joins or leaves of one size moved, as multiples of the ideal:
// the share of the one that came or went.
type change struct {
	partitions, kbs []float64
	stayers         int           // partitions that moved between nodes that stay
	first           time.Duration // it took to compute the first table, one change after the base
}

// placeOn measures clusters of n nodes.
func placeOn(ctx context.Context, cfg protocol.TableConfig, n int, f placementFlags, kbs []int) error {
	tables := protocol.NewTables(cfg, 2)
	members := make([]string, n)
	for i := range members {
		members[i] = "granary-" + strconv.Itoa(i)
	}
	slices.Sort(members)
	start := time.Now()
	base, err := tables.Of(members)
	if err != nil {
		return err
	}
	built := time.Since(start)
	var join, leave change
	for i := range f.changes {
		if err := ctx.Err(); err != nil {
			return err
		}
		joined := append(slices.Clone(members), "newcomer-"+strconv.Itoa(i)) // after all by name
		if err := join.add(tables, base, joined, n+1, kbs); err != nil {
			return err
		}
		at := i * n / f.changes
		if err := leave.add(tables, base, slices.Delete(slices.Clone(members), at, at+1), n, kbs); err != nil {
			return err
		}
	}
	look, err := lookUpTime(tables, members)
	if err != nil {
		return err
	}
	partitions, byKB := balance(base, kbs)
	placementRows(n, f, built, partitions, byKB, join, leave, look)
	return nil
}

// add compares the table of other members with the base.
func (c *change) add(tables *protocol.Tables, base *protocol.Table, members []string, larger int, kbs []int) error {
	start := time.Now()
	other, err := tables.Of(members)
	if err != nil {
		return err
	}
	if len(c.kbs) == 0 {
		c.first = time.Since(start)
	}
	moved, movedKBs, all := 0, 0, 0
	for p, n := range kbs {
		all += n
		before, after := base.Owner(p), other.Owner(p)
		if before == after {
			continue
		}
		moved++
		movedKBs += n
		if other.Index(before) >= 0 && base.Index(after) >= 0 {
			c.stayers++
		}
	}
	ideal := 1 / float64(larger)
	c.partitions = append(c.partitions, float64(moved)/float64(len(kbs))/ideal)
	c.kbs = append(c.kbs, float64(movedKBs)/float64(all)/ideal)
	return nil
}

// balance gives the largest share as a multiple of the mean one.
func balance(t *protocol.Table, kbs []int) (partitions, byKB float64) {
	n := len(t.Members())
	owned, held, all := make([]int, n), make([]int, n), 0
	for p, count := range kbs {
		at := t.Index(t.Owner(p))
		owned[at]++
		held[at] += count
		all += count
	}
	share := func(most, of int) float64 { return float64(most) * float64(n) / float64(of) }
	return share(slices.Max(owned), len(kbs)), share(slices.Max(held), all)
}

// lookUpTime is that of an owner under a view of the members, the hash of the
// identity included.
func lookUpTime(tables *protocol.Tables, members []string) (time.Duration, error) {
	v := protocol.View{Version: 1}
	for _, name := range members {
		v.Members = append(v.Members, protocol.Member{NodeID: protocol.NodeID{Name: name, Boot: "b"}, State: protocol.Live})
	}
	p, err := protocol.NewPlacement(v, tables)
	if err != nil {
		return 0, err
	}
	ids := make([]protocol.Identity, 1<<14)
	for i := range ids {
		ids[i] = benchKB(i * 601)
	}
	found := 0
	start := time.Now()
	for i := range lookUps {
		if _, ok := p.Owner(ids[i&(len(ids)-1)]); ok {
			found++
		}
	}
	took := time.Since(start) / lookUps
	if found != lookUps {
		return 0, fmt.Errorf("%d of %d have no owner", lookUps-found, lookUps)
	}
	return took, nil
}

func placementRows(n int, f placementFlags, built time.Duration, partitions, byKB float64, join, leave change, look time.Duration) {
	note("P6 %d nodes: join in KBs %.3f (worst %.3f), leave %.3f (worst %.3f); between stayers %d and %d partitions in %d changes each",
		n, mean(join.kbs), slices.Max(join.kbs), mean(leave.kbs), slices.Max(leave.kbs), join.stayers, leave.stayers, f.changes)
	on := fmt.Sprintf("%d nodes, %d M KBs in %d partitions", n, f.kbs/1_000_000, protocol.DefaultPartitions)
	if f.kbs < 1_000_000 {
		on = fmt.Sprintf("%d nodes, %d KBs in %d partitions", n, f.kbs, protocol.DefaultPartitions)
	}
	row("P6 balance, largest node / mean", fmt.Sprintf("%.3f partitions, %.3f KBs", partitions, byKB), "goal ≤ 1.25", fmt.Sprintf("%.2f", max(partitions, byKB)/1.25), on)
	row("P6 moved by a join, by a leave", fmt.Sprintf("%.3f and %.3f of the ideal (worst %.2f, %.2f)", mean(join.partitions), mean(leave.partitions),
		slices.Max(join.partitions), slices.Max(leave.partitions)), "goal ≤ 1.1", fmt.Sprintf("%.2f", mean(join.partitions)/1.1), fmt.Sprintf("%d nodes, %d changes each", n, f.changes))
	row("P6 look-up of an owner; table", fmt.Sprintf("%s; built in %s, changed in %s", nanos(float64(look)), nanos(float64(built)), nanos(float64(join.first))),
		"–", "–", fmt.Sprintf("%d nodes, %s", n, machine()))
}

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}
