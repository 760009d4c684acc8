package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// report turns the output of go test -bench into rows; the output itself goes
// on to standard error.
func report(in io.Reader) error {
	lines := bufio.NewScanner(in)
	bases := make(map[string]result) // Granary's result of each group of contenders
	var last *result                 // the one that no contender has followed yet
	for lines.Scan() {
		note("%s", lines.Text())
		r, ok := parseResult(lines.Text())
		if !ok {
			continue
		}
		group, contender := "", r.name
		if at := strings.LastIndexByte(r.name, '/'); at >= 0 {
			group, contender = r.name[:at], r.name[at+1:]
		}
		base, hasBase := bases[group]
		switch {
		case contender == "granary":
			last.alone()
			bases[group], last = r, &r
		case hasBase:
			last = nil
			r.besides(group, contender, base)
		default:
			last.alone()
			last = nil
			r.alone()
		}
	}
	last.alone()
	return lines.Err()
}

// result is one line of a benchmark.
type result struct {
	name    string
	metrics map[string]float64
	units   []string // in their order
}

// procs is what the testing package appends to a name.
var procs = regexp.MustCompile(`-\d+$`)

// parseResult reads "BenchmarkName-2  100  1234 ns/op  5 x".
func parseResult(line string) (result, bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
		return result{}, false
	}
	if _, err := strconv.Atoi(fields[1]); err != nil {
		return result{}, false
	}
	r := result{name: procs.ReplaceAllString(strings.TrimPrefix(fields[0], "Benchmark"), ""), metrics: make(map[string]float64)}
	for i := 2; i+1 < len(fields); i += 2 {
		v, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return result{}, false
		}
		r.metrics[fields[i+1]] = v
		r.units = append(r.units, fields[i+1])
	}
	return r, true
}

// besides is the row of a peer that was measured beside Granary, by CPU time; a
// contender that is Granary too is compared with its plain form.
func (r result) besides(group, contender string, base result) {
	const unit = "cpu-ns/op"
	if variant, ok := strings.CutPrefix(contender, "granary-"); ok {
		row(group+", "+variant, nanos(r.metrics[unit])+" CPU", "without "+nanos(base.metrics[unit])+" CPU",
			fmt.Sprintf("%.1f ×", base.metrics[unit]/r.metrics[unit]), setting())
		return
	}
	row(group, nanos(base.metrics[unit])+" CPU", contender+" "+nanos(r.metrics[unit])+" CPU",
		fmt.Sprintf("%.1f ×", r.metrics[unit]/base.metrics[unit]), setting())
}

// alone is the row of a benchmark that reports both sides itself, or has none.
func (r *result) alone() {
	if r == nil {
		return
	}
	m := r.metrics
	switch {
	case m["ask/s"] > 0:
		row(r.name, fmt.Sprintf("%.0f asks/s, %s CPU each", m["ask/s"], nanos(m["ask-cpu-ns"])),
			fmt.Sprintf("protoactor %.0f/s, %s CPU", m["protoactor/s"], nanos(m["protoactor-cpu-ns"])), fmt.Sprintf("%.1f ×", m["x"]), setting())
	case m["remote-ask/s"] > 0:
		row(r.name, fmt.Sprintf("%.0f asks/s, %s CPU each", m["remote-ask/s"], nanos(m["remote-ask-cpu-ns"])),
			fmt.Sprintf("grpc-go unary %.0f/s, %s CPU", m["unary/s"], nanos(m["unary-cpu-ns"])), fmt.Sprintf("%.2f of its CPU", m["x-cpu"]), setting())
	case m["grouped/s"] > 0:
		row(r.name, fmt.Sprintf("%.0f appends/s, %.1f a commit", m["grouped/s"], m["ops/commit"]),
			fmt.Sprintf("one commit each %.0f/s", m["single/s"]), fmt.Sprintf("%.1f ×", m["ratio"]), setting())
	default:
		var parts []string
		for _, u := range r.units {
			switch {
			case u == "ns/op":
				parts = append(parts, nanos(m[u])+" each")
			case u == "cpu-ns/op":
				parts = append(parts, nanos(m[u])+" CPU")
			case u != "B/op" && u != "allocs/op":
				parts = append(parts, fmt.Sprintf("%.5g %s", m[u], u))
			}
		}
		row(r.name, strings.Join(parts, ", "), "–", "–", setting())
	}
}

func nanos(ns float64) string {
	d := time.Duration(ns)
	switch {
	case d >= 100*time.Millisecond:
		return d.Round(time.Millisecond).String()
	case d >= 100*time.Microsecond:
		return d.Round(time.Microsecond).String()
	}
	return d.Round(10 * time.Nanosecond).String()
}

// setting is what the script that runs the benchmarks says of them.
func setting() string {
	if s := os.Getenv("BENCH_SETTING"); s != "" {
		return s + ", " + machine()
	}
	return machine()
}
