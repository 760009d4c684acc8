package cli

import (
	"context"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// recount shows counters beside a recount of what they count.
func recount(ctx context.Context, s *session, out *output) error {
	res, err := call(ctx, s, s.tenants.RecountUsage, &granaryv1.RecountUsageRequest{})
	switch {
	case err != nil:
		return err
	case out.json:
		return out.message(res)
	}
	return out.table(recountColumns, recountRows(out, res.GetRecounts()))
}

// recountTenant shows an operator those of one tenant.
func recountTenant(ctx context.Context, s *session, out *output, tenant string) error {
	res, err := call(ctx, s, s.admin.RecountTenantUsage, &granaryv1.RecountTenantUsageRequest{Name: tenant})
	switch {
	case err != nil:
		return err
	case out.json:
		return out.message(res)
	}
	return out.table(recountColumns, recountRows(out, res.GetRecounts()))
}

// recountAll recounts one tenant after the other. A tenant in which all is well is one
// line, with what it stores; else those lines follow that say something.
func recountAll(ctx context.Context, s *session, out *output) error {
	var rows [][]cell
	req := &granaryv1.ListTenantsRequest{PageSize: tenantPage}
	for {
		page, err := call(ctx, s, s.admin.ListTenants, req)
		if err != nil {
			return err
		}
		for _, t := range page.GetTenants() {
			res, err := call(ctx, s, s.admin.RecountTenantUsage, &granaryv1.RecountTenantUsageRequest{Name: t.GetName()})
			if err != nil {
				return err
			}
			if out.json {
				if err := out.message(res); err != nil {
					return err
				}
				continue
			}
			for _, row := range recountRows(out, telling(res.GetRecounts())) {
				rows = append(rows, append(cells(shortTenant(t.GetName())), row...))
			}
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if out.json {
		return nil
	}
	return out.table(append([]string{"TENANT"}, recountColumns...), rows)
}

// telling leaves the first line, which is the tenant's storage, and those that say something.
func telling(all []*granaryv1.Recount) []*granaryv1.Recount {
	var out []*granaryv1.Recount
	for i, r := range all {
		if i == 0 || r.GetDrift() != 0 || r.GetNote() != "" {
			out = append(out, r)
		}
	}
	return out
}

var recountColumns = []string{"LIMIT", "COUNTER", "RECOUNT", "DRIFT", "NOTE"}

func recountRows(out *output, all []*granaryv1.Recount) [][]cell {
	rows := make([][]cell, 0, len(all))
	for _, r := range all {
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
	return rows
}
