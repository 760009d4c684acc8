package nodetest

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// Scrape is what a node showed to Prometheus once.
type Scrape struct {
	Text   string
	values map[string]float64
}

// Metrics scrapes the node.
func (s *Server) Metrics(t testing.TB) Scrape {
	t.Helper()
	r, err := http.Get("http://" + s.node.MetricsAddr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("metrics: %d, %v", r.StatusCode, err)
	}
	out := Scrape{Text: string(body), values: make(map[string]float64)}
	for line := range strings.Lines(out.Text) {
		if i := strings.LastIndexByte(line, ' '); !strings.HasPrefix(line, "#") && i > 0 {
			v, err := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64)
			if err != nil {
				t.Fatalf("metrics: %q", line)
			}
			out.values[line[:i]] = v
		}
	}
	return out
}

// Series counts them.
func (s Scrape) Series() int { return len(s.values) }

// Has tells whether there is a series of a name, whatever its labels.
func (s Scrape) Has(name string) bool {
	for series := range s.values {
		if n, _, _ := strings.Cut(series, "{"); n == name {
			return true
		}
	}
	return false
}

// Sum adds the series of a name that have all of these labels, such as `cause="keys"`.
func (s Scrape) Sum(name string, labels ...string) float64 {
	sum := 0.0
next:
	for series, v := range s.values {
		n, rest, _ := strings.Cut(series, "{")
		if n != name {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(rest, l) {
				continue next
			}
		}
		sum += v
	}
	return sum
}
