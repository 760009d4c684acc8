//go:build unix

package trail_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/journal/trail"
)

// audited are the tables of the audit.
var audited = []string{"events", "owner", "snapshots", "accesses", "audit_streams", "audit_checkpoints"}

func (w *world) exec(query string, args ...any) {
	w.Helper()
	for q := range strings.SplitSeq(query, ";") {
		if strings.TrimSpace(q) == "" {
			continue
		}
		r, err := w.db.ExecContext(w.Context(), q, args...)
		check(w, err)
		if n, err := r.RowsAffected(); strings.Contains(q, "acme") && (err != nil || n == 0) {
			w.Fatalf("%s changed nothing", q)
		}
	}
}

func (w *world) save() {
	w.Helper()
	for _, t := range audited {
		w.exec("CREATE TABLE saved_" + t + " AS SELECT * FROM " + t)
	}
}

func (w *world) restore() {
	w.Helper()
	for _, t := range audited {
		w.exec("DELETE FROM " + t + "; INSERT INTO " + t + " SELECT * FROM saved_" + t)
	}
}

// changed is an expression for another value of a column.
func (w *world) changed(column, kind string) string {
	switch kind = strings.ToUpper(kind); {
	case column == "packed" && w.lite:
		return "1 - packed"
	case strings.HasPrefix(kind, "INT"):
		return column + " + 1000"
	case strings.HasPrefix(kind, "TIMESTAMP"):
		return column + " + interval '1 microsecond'"
	case strings.HasPrefix(kind, "BOOL"):
		return "NOT " + column
	case kind == "BLOB":
		return "CAST(" + column + " || x'01' AS BLOB)"
	case kind == "BYTEA":
		return column + ` || '\x01'::bytea`
	}
	return column + " || 'x'"
}

type column struct{ name, kind string }

func (w *world) columns(table string) (out []column) {
	w.Helper()
	rows, err := w.db.QueryContext(w.Context(), "SELECT * FROM "+table+" LIMIT 1")
	check(w, err)
	defer rows.Close()
	types, err := rows.ColumnTypes()
	check(w, err)
	for _, c := range types {
		out = append(out, column{c.Name(), c.DatabaseTypeName()})
	}
	check(w, rows.Err())
	return out
}

// names reports whether a report names a place.
func names(r *trail.Report, chain string, seqs ...int64) bool {
	return len(r.Problems) > 0 && slices.ContainsFunc(r.Problems, func(p trail.Problem) bool {
		return p.Chain == chain && (len(seqs) == 0 || slices.Contains(seqs, p.Seq))
	})
}

// unaudited are columns that say who may write, or are the store's own: what they say
// is not what was done. Moving a snapshot only takes a cache away. What is of a former tenant
// matters to the trail of a later one.
var unaudited = map[string][]string{
	"owner":     {"epoch", "activation", "node", "released", "since", "erasures", "purging", "view", "former"},
	"snapshots": {"tenant", "kind", "id"},
}

func TestI1_EveryFieldOfEveryRowThatIsChangedIsNamed(t *testing.T) {
	each(t, func(w *world) {
		w.fill()
		w.save()
		n := 0
		for _, c := range []struct {
			table, where, chain string
			seqs                []int64
		}{
			{"events", "tenant = 'acme' AND id = 'handbook' AND seq = 3", "journal/kb/handbook", []int64{3}},
			{"events", "tenant = 'acme' AND id = 'handbook' AND seq = 1", "journal/kb/handbook", []int64{1}},
			{"events", "tenant = 'acme' AND id = 'handbook' AND seq = 5", "journal/kb/handbook", []int64{5}},
			{"events", "tenant = 'acme' AND id = 'gone' AND seq = 4", "journal/kb/gone", []int64{4}},
			{"events", "tenant = 'acme' AND kind = 'tenant' AND seq = 2", "journal/tenant/acme", []int64{2}},
			{"owner", "tenant = 'acme' AND id = 'handbook'", "journal/kb/handbook", nil},
			{"owner", "tenant = 'acme' AND id = 'gone'", "journal/kb/gone", nil},
			{"snapshots", "tenant = 'acme' AND id = 'handbook'", "", nil},
			{"accesses", "tenant = 'acme' AND stream = 'n#1' AND seq = 2", "accesses/n#1", []int64{2}},
			{"accesses", "tenant = 'acme' AND stream = 'n#2' AND seq = 3", "accesses/n#2", []int64{3}},
			{"audit_streams", "tenant = 'acme' AND stream = 'n#1'", "accesses/n#1", nil},
			{"audit_streams", "tenant = 'acme' AND stream = ''", "checkpoints", nil},
			{"audit_checkpoints", "tenant = 'acme' AND number = 1", "checkpoints", []int64{1}},
			{"audit_checkpoints", "tenant = 'acme' AND number = 2", "checkpoints", []int64{2}},
			{"audit_checkpoints", "tenant = 'acme' AND number = 3", "checkpoints", []int64{3}},
		} {
			for _, col := range w.columns(c.table) {
				if slices.Contains(unaudited[c.table], col.name) {
					continue
				}
				w.exec(fmt.Sprintf("UPDATE %s SET %s = %s WHERE %s", c.table, col.name, w.changed(col.name, col.kind), c.where))
				r := w.verify()
				if chain := c.chain; !names(r, chain, c.seqs...) && (chain != "" || !names(r, "journal/kb/handbook") && !names(r, "journal/kb/handbook (snapshot)")) {
					w.Errorf("%s of %s where %s: %v", col.name, c.table, c.where, r.Problems)
				}
				w.restore()
				n++
			}
		}
		w.wantGood()
		w.Logf("%d fields were changed", n)
	})
}

func TestI1_RemovedSwappedForgedAndReplayedRowsAreNamed(t *testing.T) {
	each(t, func(w *world) {
		w.fill()
		w.save()
		const handbook, kb = "tenant = 'acme' AND kind = 'kb' AND id = 'handbook'", "journal/kb/handbook"
		const stream = "tenant = 'acme' AND stream = 'n#1'"
		back := func(table, seq, rows, where string) string {
			return fmt.Sprintf("UPDATE %s SET %s = %s - 1, hash = (SELECT hash FROM %s r WHERE r.%s AND r.seq = 4) WHERE %s",
				table, seq, seq, rows, strings.ReplaceAll(where, "AND ", "AND r."), where)
		}
		for _, c := range []struct {
			what, query, chain string
			seq                int64
		}{
			{"the first event is removed", "DELETE FROM events WHERE " + handbook + " AND seq = 1", kb, 1},
			{"one in the middle", "DELETE FROM events WHERE " + handbook + " AND seq = 3", kb, 3},
			{"two in the middle", "DELETE FROM events WHERE " + handbook + " AND seq IN (2, 3)", kb, 2},
			{"the last", "DELETE FROM events WHERE " + handbook + " AND seq = 5", kb, 5},
			{"the last, and the owner row set back", "DELETE FROM events WHERE " + handbook + " AND seq = 5;" + back("owner", "head", "events", handbook), kb, 5},
			{"all of them", "DELETE FROM events WHERE " + handbook, kb, 1},
			{"all with the owner row", "DELETE FROM events WHERE " + handbook + "; DELETE FROM owner WHERE " + handbook, kb, 1},
			{"two events change places", "UPDATE events SET seq = 99 WHERE " + handbook + " AND seq = 2; UPDATE events SET seq = 2 WHERE " + handbook +
				" AND seq = 3; UPDATE events SET seq = 3 WHERE " + handbook + " AND seq = 99", kb, 2},
			{"an event of another journal", "UPDATE events SET seq = 6 WHERE tenant = 'acme' AND kind = 'tenant' AND seq = 2;" +
				"UPDATE events SET kind = 'kb', id = 'handbook' WHERE tenant = 'acme' AND kind = 'tenant' AND seq = 6", kb, 6},
			{"hashes are taken away", "UPDATE events SET hash = '' WHERE " + handbook, kb, 3},
			{"the first record is removed", "DELETE FROM accesses WHERE " + stream + " AND seq = 1", "accesses/n#1", 1},
			{"one in the middle", "DELETE FROM accesses WHERE " + stream + " AND seq = 3", "accesses/n#1", 3},
			{"the last", "DELETE FROM accesses WHERE " + stream + " AND seq = 5", "accesses/n#1", 5},
			{"the last, and the head set back", "DELETE FROM accesses WHERE " + stream + " AND seq = 5;" + back("audit_streams", "seq", "accesses", stream), "accesses/n#1", 5},
			{"the whole stream", "DELETE FROM accesses WHERE " + stream + "; DELETE FROM audit_streams WHERE " + stream, "accesses/n#1", 1},
			{"two records change places", "UPDATE accesses SET seq = 99 WHERE " + stream + " AND seq = 2; UPDATE accesses SET seq = 2 WHERE " + stream +
				" AND seq = 3; UPDATE accesses SET seq = 3 WHERE " + stream + " AND seq = 99", "accesses/n#1", 2},
			{"the first checkpoint is removed", "DELETE FROM audit_checkpoints WHERE tenant = 'acme' AND number = 1", "checkpoints", 1},
			{"the second", "DELETE FROM audit_checkpoints WHERE tenant = 'acme' AND number = 2", "checkpoints", 2},
			{"the last", "DELETE FROM audit_checkpoints WHERE tenant = 'acme' AND number = 3", "checkpoints", 3},
			{"an old checkpoint is replayed", "DELETE FROM audit_checkpoints WHERE tenant = 'acme' AND number = 3;" +
				"INSERT INTO audit_checkpoints SELECT tenant, 3, body, key_id, signature FROM audit_checkpoints WHERE tenant = 'acme' AND number = 2", "checkpoints", 3},
			{"one more is replayed", "INSERT INTO audit_checkpoints SELECT tenant, 4, body, key_id, signature FROM audit_checkpoints WHERE tenant = 'acme' AND number = 1", "checkpoints", 4},
		} {
			query := c.query
			if !w.lite {
				query = strings.ReplaceAll(query, "hash = ''", "hash = ''::bytea")
			} else {
				query = strings.ReplaceAll(query, "hash = ''", "hash = x''")
			}
			w.exec(query)
			if r := w.verify(); !names(r, c.chain, c.seq) || r.Problems[0].Chain != c.chain {
				w.Errorf("%s: %v", c.what, r.Problems)
			}
			if strings.Contains(c.what, "set back") { // what contradicts the last checkpoint is not signed
				w.accesses("n#3", 1)
				if _, _, err := w.maker.Make(w.Context(), "acme"); !errors.Is(err, journal.ErrChain) {
					w.Errorf("%s: the next checkpoint: %v", c.what, err)
				}
				delete(w.chains, "n#3")
			}
			w.restore()
		}
		w.wantGood()
	})
}

// Who can write the database can make all links of a journal anew. The checkpoints
// that were signed before tell.
func TestI1_JournalMadeAnewDiffersFromItsCheckpoints(t *testing.T) {
	each(t, func(w *world) {
		w.fill()
		id := journal.Identity{Kind: "kb", Tenant: "acme", ID: "handbook"}
		list, err := w.Events(w.Context(), id, 0, 100)
		check(w, err)
		var hash []byte
		for _, e := range list {
			if e.Seq == 2 {
				e.Principal = "mallory"
			}
			hash = journal.Link(hash, id, e)
			w.forge("UPDATE events SET hash = $1, principal = $2 WHERE tenant = 'acme' AND id = 'handbook' AND seq = $3", hash, e.Principal, e.Seq)
		}
		w.forge("UPDATE owner SET hash = $1 WHERE tenant = 'acme' AND id = 'handbook' AND head = $2", hash, len(list))
		w.forge("UPDATE snapshots SET hash = $1 WHERE tenant = 'acme' AND id = 'handbook' AND seq = $2", hash, len(list))
		r := w.verify()
		if !names(r, "journal/kb/handbook", 3) || !strings.Contains(r.Problems[0].What, "checkpoint 1") {
			w.Fatal(r.Problems)
		}
	})
}

func (w *world) forge(query string, args ...any) {
	w.Helper()
	r, err := w.db.ExecContext(w.Context(), query, args...)
	check(w, err)
	if n, err := r.RowsAffected(); err != nil || n != 1 {
		w.Fatalf("%s changed %d rows, %v", query, n, err)
	}
}
