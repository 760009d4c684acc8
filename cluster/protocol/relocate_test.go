package protocol_test

import (
	"testing"
	"time"

	"granary.dev/granary/cluster/protocol"
)

func TestChooseNodeKeepsTenantsWhereTheyAre_B2_B3(t *testing.T) {
	ms := time.Millisecond
	cand := func(name string, load float64, latency time.Duration, locality float64) protocol.Candidate {
		return protocol.Candidate{Node: name, Healthy: true, Load: load, Latency: latency, Locality: locality}
	}
	sick := func(c protocol.Candidate) protocol.Candidate { c.Healthy = false; return c }
	for name, c := range map[string]struct {
		current, home string
		all           []protocol.Candidate
		want          string
	}{
		"healthy and not full":       {"a", "a", []protocol.Candidate{cand("a", 0.79, ms, 1), cand("b", 0, ms, 0)}, "a"},
		"overloaded":                 {"a", "a", []protocol.Candidate{cand("a", 0.95, ms, 0.2), cand("b", 0.1, ms, 0), cand("c", 0.3, ms, 0)}, "b"},
		"overloaded, data only here": {"a", "a", []protocol.Candidate{cand("a", 0.82, 0, 1), cand("b", 0.5, ms, 0)}, "b"},
		"data first, then load":      {"a", "a", []protocol.Candidate{cand("a", 0.9, ms, 0), cand("b", 0.1, ms, 0), cand("c", 0.5, ms, 1)}, "c"},
		"overloaded, others busy":    {"a", "a", []protocol.Candidate{cand("a", 0.9, ms, 0), cand("b", 0.6, ms, 0)}, "a"},
		"sick":                       {"a", "a", []protocol.Candidate{sick(cand("a", 0.1, ms, 1)), cand("b", 0.7, ms, 0)}, "b"},
		"gone":                       {"a", "a", []protocol.Candidate{cand("b", 0.7, ms, 0)}, "b"},
		"sick, all others full":      {"a", "a", []protocol.Candidate{sick(cand("a", 0, ms, 1)), cand("b", 0.97, ms, 0), cand("c", 0.9, ms, 0)}, "c"},
		"nobody is well":             {"a", "a", []protocol.Candidate{sick(cand("a", 0, ms, 1)), sick(cand("b", 0, ms, 0))}, "a"},
		"home has room again":        {"b", "a", []protocol.Candidate{cand("a", 0.59, ms, 1), cand("b", 0.1, ms, 0)}, "a"},
		"home is still busy":         {"b", "a", []protocol.Candidate{cand("a", 0.7, ms, 1), cand("b", 0.1, ms, 0)}, "b"},
		"nearer":                     {"a", "a", []protocol.Candidate{sick(cand("a", 0, ms, 1)), cand("b", 0.2, 9*ms, 0), cand("c", 0.2, ms, 0)}, "c"},
		"tie goes to the first name": {"a", "a", []protocol.Candidate{cand("c", 0.2, ms, 0), cand("b", 0.2, ms, 0)}, "b"},
	} {
		if got := protocol.ChooseNode(c.current, c.home, c.all); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if s := cand("a", 0.5, 5*ms, 0.5).Score(10 * ms); s < 0.4999 || s > 0.5001 {
		t.Errorf("score %v, want 0.4·0.5 + 0.4·0.5 + 0.2·0.5", s)
	}
}
