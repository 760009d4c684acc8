package cli

import (
	"context"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// recount shows counters beside a recount of what they count.
func recount(ctx context.Context, s *session, out *output) error {
	res, err := call(ctx, s, s.tenants.RecountUsage, &granaryv1.RecountUsageRequest{})
	if err != nil {
		return err
	}
	if out.json {
		return out.message(res)
	}
	rows := make([][]cell, 0, len(res.GetRecounts()))
	for _, r := range res.GetRecounts() {
		drift := cell{text: out.number(r.GetDrift())}
		if r.GetDrift() != 0 {
			drift.style = red
		}
		note := r.GetNote()
		if note == "" {
			note = "-"
		}
		row := cells(metricText(&granaryv1.Quota{Metric: r.GetMetric(), KnowledgeBase: r.GetKnowledgeBase()}),
			out.number(r.GetCounter()), out.number(r.GetRecount()))
		row = append(row, drift)
		rows = append(rows, append(row, cells(oneLine(note))...))
	}
	return out.table([]string{"LIMIT", "COUNTER", "RECOUNT", "DRIFT", "NOTE"}, rows)
}
