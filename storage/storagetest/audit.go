package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"granary.dev/granary/actors/journal"
)

func auditPromises() []promise {
	return []promise{
		{"I1_AccessesComeBackAsTheyWereInTheirChains", accessesComeBack},
		{"I1_AccessesSentAgainAreThereOnce", accessesOnce},
		{"I1_AccessesAreListedByTimeFilteredAndPaged", accessesListed},
		{"I13_AccessesOfTenantsDoNotMix", accessesApart},
		{"I1_CheckpointsAreNumberedWithoutGapsByOneWriterEach", checkpointsNumbered},
		{"I1_AuditOutlivesTheStoreThatWroteIt", auditOutlives},
		{"I1_OnlyTheFirstOfAStreamAndOfCheckpointsAreRetired", auditRetired},
		{"I13_PartsOfTheAuditOfSeveralTenantsOfANameDoNotMix", accessesOfLives},
		{"I1_EndOfATenantIsNotedOfAllItsGrainsUnderTheFence", tenantEnds},
	}
}

// accesses makes n chained records behind head of a stream.
func accesses(tenant, stream string, head int64, prev []byte, n int) []journal.Access {
	out := make([]journal.Access, n)
	for i := range out {
		seq := head + int64(i) + 1
		a := journal.Access{Tenant: tenant, Stream: stream, Seq: seq, Time: at(time.Duration(seq) * time.Second), Phase: journal.PhaseOpen,
			Principal: "älice", Credential: "api_key", KeyID: "k1", Method: "granary.v1.SearchService/Search", Resource: "knowledgeBases/handbook",
			Remote: "2001:db8::1", RequestID: fmt.Sprint("r", seq), Code: "not_found", Reason: "KNOWLEDGE_BASE_NOT_FOUND",
			Duration: 1234 * time.Microsecond, Count: 1}
		a.Hash = journal.LinkAccess(prev, a)
		prev = a.Hash
		out[i] = a
	}
	return out
}

func (s *suite) wantStream(t *testing.T, tenant, stream string, want []journal.Access) {
	t.Helper()
	var got []journal.Access
	for after := int64(0); ; after = got[len(got)-1].Seq {
		page, err := s.Audit.StreamAccesses(s.ctx, tenant, stream, after, 3)
		must(t, err)
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
	}
	var chain journal.Chain
	for _, a := range got {
		must(t, chain.FollowAccess(a))
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("stream %s of tenant %q has %+v, want %+v", stream, tenant, got, want)
	}
}

func (s *suite) wantStreams(t *testing.T, tenant string, want ...journal.StreamHead) {
	t.Helper()
	var got []journal.StreamHead
	for after := ""; ; after = got[len(got)-1].Stream {
		page, err := s.Audit.Streams(s.ctx, tenant, after, 1)
		must(t, err)
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("streams of tenant %q are %+v, want %+v", tenant, got, want)
	}
}

func accessesComeBack(t *testing.T, s *suite) {
	must(t, s.Audit.PutAccesses(s.ctx, nil))
	list := accesses("acme", "n1#a", 0, nil, 8)
	list[3] = journal.Access{Tenant: "acme", Stream: "n1#a", Seq: 4, Time: at(0)} // all that may be empty
	list[3].Hash = journal.LinkAccess(list[2].Hash, list[3])
	list = append(list[:4], accesses("acme", "n1#a", 4, list[3].Hash, 4)...)
	must(t, s.Audit.PutAccesses(s.ctx, list[:5]))
	must(t, s.Audit.PutAccesses(s.ctx, list[5:]))
	other := accesses("acme", "n2#b", 0, nil, 1)
	must(t, s.Audit.PutAccesses(s.ctx, other))
	s.wantStream(t, "acme", "n1#a", list)
	s.wantStream(t, "acme", "n2#b", other)
	s.wantStreams(t, "acme", journal.StreamHead{Stream: "n1#a", Seq: 8, Hash: list[7].Hash}, journal.StreamHead{Stream: "n2#b", Seq: 1, Hash: other[0].Hash})
}

func accessesOnce(t *testing.T, s *suite) {
	list := accesses("acme", "n1#a", 0, nil, 6)
	must(t, s.Audit.PutAccesses(s.ctx, list[:4]))
	must(t, s.Audit.PutAccesses(s.ctx, list[1:3]))
	changed := slices.Clone(list)
	changed[0].Principal = "mallory"
	must(t, s.Audit.PutAccesses(s.ctx, changed))
	s.wantStream(t, "acme", "n1#a", list)
	s.wantStreams(t, "acme", journal.StreamHead{Stream: "n1#a", Seq: 6, Hash: list[5].Hash})
}

func accessesListed(t *testing.T, s *suite) {
	one, two := accesses("acme", "n1#a", 0, nil, 5), accesses("acme", "n2#b", 0, nil, 5)
	two[2].Principal, two[3].Method = "bob", "other"
	must(t, s.Audit.PutAccesses(s.ctx, append(slices.Clone(one), two...)))
	var got []string
	q := journal.AccessQuery{Tenant: "acme", Limit: 3}
	for {
		page, err := s.Audit.Accesses(s.ctx, q)
		must(t, err)
		if len(page) == 0 {
			break
		}
		for _, a := range page {
			got = append(got, fmt.Sprint(a.Seq, a.Stream))
		}
		last := page[len(page)-1]
		q.After = journal.AccessPosition{Time: last.Time, Stream: last.Stream, Seq: last.Seq}
	}
	if want := []string{"1n1#a", "1n2#b", "2n1#a", "2n2#b", "3n1#a", "3n2#b", "4n1#a", "4n2#b", "5n1#a", "5n2#b"}; !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for what, c := range map[string]struct {
		q journal.AccessQuery
		n int
	}{
		"one principal":  {journal.AccessQuery{Principal: "bob"}, 1},
		"one method":     {journal.AccessQuery{Method: "other"}, 1},
		"both":           {journal.AccessQuery{Method: "other", Principal: "bob"}, 0},
		"from":           {journal.AccessQuery{From: at(4 * time.Second)}, 4},
		"to, exclusive":  {journal.AccessQuery{To: at(2 * time.Second)}, 2},
		"from and to":    {journal.AccessQuery{From: at(2 * time.Second), To: at(4 * time.Second)}, 4},
		"another tenant": {journal.AccessQuery{Tenant: "other"}, 0},
	} {
		if c.q.Tenant == "" {
			c.q.Tenant = "acme"
		}
		c.q.Limit = 100
		page, err := s.Audit.Accesses(s.ctx, c.q)
		must(t, err)
		if len(page) != c.n {
			t.Errorf("%s: %d records, want %d", what, len(page), c.n)
		}
	}
}

func accessesApart(t *testing.T, s *suite) {
	nobody, acme, other := accesses("", "n1#a", 0, nil, 2), accesses("acme", "n1#a", 0, nil, 3), accesses("other", "n1#a", 0, nil, 1)
	must(t, s.Audit.PutAccesses(s.ctx, slices.Concat(nobody, acme, other)))
	s.wantStream(t, "", "n1#a", nobody)
	s.wantStream(t, "acme", "n1#a", acme)
	s.wantStream(t, "other", "n1#a", other)
	s.wantStreams(t, "other", journal.StreamHead{Stream: "n1#a", Seq: 1, Hash: other[0].Hash})
	list, err := s.Audit.AuditTenants(s.ctx, "", 10)
	must(t, err)
	rest, err := s.Audit.AuditTenants(s.ctx, "acme", 1)
	must(t, err)
	if !slices.Equal(list, []string{"acme", "other"}) || !slices.Equal(rest, []string{"other"}) {
		t.Fatalf("tenants with accesses are %v, and %v behind acme", list, rest)
	}
}

func checkpoint(tenant string, number int64) journal.Checkpoint {
	return journal.Checkpoint{Tenant: tenant, Number: number, Body: fmt.Appendf(nil, "%s %d", tenant, number), KeyID: "key",
		Signature: noise(uint64(number), 64), Hash: noise(uint64(number), journal.HashSize)}
}

func (s *suite) wantCheckpoints(t *testing.T, tenant string, n int64) {
	t.Helper()
	var got []journal.Checkpoint
	for after := int64(0); ; after = got[len(got)-1].Number {
		page, err := s.Audit.Checkpoints(s.ctx, tenant, after, 2)
		must(t, err)
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
	}
	for i := range got {
		want := checkpoint(tenant, int64(i)+1)
		if got[i].Hash = want.Hash; !reflect.DeepEqual(got[i], want) {
			t.Fatalf("checkpoint is %+v, want %+v", got[i], want)
		}
	}
	head, err := s.Audit.CheckpointHead(s.ctx, tenant)
	must(t, err)
	if int64(len(got)) != n || head.Seq != n || n > 0 && !bytes.Equal(head.Hash, checkpoint(tenant, n).Hash) {
		t.Fatalf("%d checkpoints, head %+v, want %d", len(got), head, n)
	}
}

func checkpointsNumbered(t *testing.T, s *suite) {
	s.wantCheckpoints(t, "acme", 0)
	wantErr(t, "the second before the first", s.Audit.PutCheckpoint(s.ctx, checkpoint("acme", 2)), journal.ErrCheckpoint)
	for n := int64(1); n <= 5; n++ {
		var won atomic.Int64
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				switch err := s.Audit.PutCheckpoint(s.ctx, checkpoint("acme", n)); {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, journal.ErrCheckpoint):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d writers made checkpoint %d", won.Load(), n)
		}
	}
	must(t, s.Audit.PutCheckpoint(s.ctx, checkpoint("", 1)))
	for _, n := range []int64{0, 1, 5, 7} {
		wantErr(t, fmt.Sprint("number ", n), s.Audit.PutCheckpoint(s.ctx, checkpoint("acme", n)), journal.ErrCheckpoint)
	}
	s.wantCheckpoints(t, "acme", 5)
	s.wantCheckpoints(t, "", 1)
	s.wantStreams(t, "acme") // their chain is no stream of accesses
}

func auditOutlives(t *testing.T, s *suite) {
	list := accesses("acme", "n1#a", 0, nil, 3)
	must(t, s.Audit.PutAccesses(s.ctx, list))
	must(t, s.Audit.PutCheckpoint(s.ctx, checkpoint("acme", 1)))
	if s.Crash != nil {
		crashed := &suite{Stores: s.Crash(t), opts: s.opts, ctx: s.ctx}
		crashed.wantStream(t, "acme", "n1#a", list)
		crashed.wantCheckpoints(t, "acme", 1)
	}
	s.Stores = s.Reopen(t)
	s.wantStream(t, "acme", "n1#a", list)
	s.wantCheckpoints(t, "acme", 1)
}

func auditRetired(t *testing.T, s *suite) {
	list, other := accesses("acme", "n1#a", 0, nil, 10), accesses("other", "n1#a", 0, nil, 3)
	must(t, s.Audit.PutAccesses(s.ctx, append(slices.Clone(list), other...)))
	step := func(upTo int64, limit int, want bool) {
		t.Helper()
		left, err := s.Audit.RetireAccesses(s.ctx, "acme", "n1#a", upTo, limit)
		if must(t, err); left != want {
			t.Fatalf("up to %d, %d at a time: left is %v", upTo, limit, left)
		}
	}
	rest := func(n int) {
		t.Helper()
		page, err := s.Audit.StreamAccesses(s.ctx, "acme", "n1#a", 0, 100)
		if must(t, err); len(page) != n || n > 0 && !reflect.DeepEqual(page, list[10-n:]) {
			t.Fatalf("%+v is left", page)
		}
	}
	step(5, 0, false)
	rest(10)
	step(5, 2, true)
	rest(8)
	step(5, 100, false)
	rest(5)
	step(5, 100, false)
	rest(5)
	head := journal.StreamHead{Stream: "n1#a", Seq: 10, Hash: list[9].Hash}
	must(t, s.Audit.DropStream(s.ctx, "acme", "n1#a", 9))
	s.wantStreams(t, "acme", head)
	step(10, 100, false)
	s.wantStreams(t, "acme", head)
	must(t, s.Audit.DropStream(s.ctx, "acme", "n1#a", 10))
	s.wantStreams(t, "acme")
	s.wantStream(t, "other", "n1#a", other)
	// It goes on where it ended.
	more := accesses("acme", "n1#a", 10, list[9].Hash, 2)
	must(t, s.Audit.PutAccesses(s.ctx, more))
	s.wantStreams(t, "acme", journal.StreamHead{Stream: "n1#a", Seq: 12, Hash: more[1].Hash})

	for n := int64(1); n <= 5; n++ {
		must(t, s.Audit.PutCheckpoint(s.ctx, checkpoint("acme", n)))
	}
	must(t, s.Audit.PutCheckpoint(s.ctx, checkpoint("other", 1)))
	for _, want := range []bool{true, false, false} {
		left, err := s.Audit.RetireCheckpoints(s.ctx, "acme", 4, 2)
		if must(t, err); left != want {
			t.Fatalf("left is %v", left)
		}
	}
	must(t, s.Audit.DropStream(s.ctx, "acme", "", 100)) // their chain is no stream
	page, err := s.Audit.Checkpoints(s.ctx, "acme", 0, 10)
	must(t, err)
	at, err := s.Audit.CheckpointHead(s.ctx, "acme")
	if must(t, err); len(page) != 2 || page[0].Number != 4 || at.Seq != 5 {
		t.Fatalf("%+v is left, the head is %+v", page, at)
	}
	must(t, s.Audit.PutCheckpoint(s.ctx, checkpoint("acme", 6)))
	s.wantCheckpoints(t, "other", 1)
}

func accessesOfLives(t *testing.T, s *suite) {
	second, third := journal.AuditScope("acme", at(time.Hour)), journal.AuditScope("acme", at(2*time.Hour))
	parts := map[string][]journal.Access{}
	for i, scope := range []string{"acme", second, third, "acme-b"} {
		parts[scope] = accesses(scope, "n1#a", 0, nil, i+1)
		must(t, s.Audit.PutAccesses(s.ctx, parts[scope]))
		must(t, s.Audit.PutCheckpoint(s.ctx, checkpoint(scope, 1)))
	}
	for scope, want := range parts {
		s.wantStream(t, scope, "n1#a", want)
		s.wantCheckpoints(t, scope, 1)
		page, err := s.Audit.Accesses(s.ctx, journal.AccessQuery{Tenant: scope, Limit: 10})
		if must(t, err); len(page) != len(want) {
			t.Fatalf("%s has %+v", scope, page)
		}
	}
	list, err := s.Audit.AuditTenants(s.ctx, journal.LaterAuditScopes("acme"), 2)
	if must(t, err); !slices.Equal(list, []string{second, third}) {
		t.Fatalf("later tenants are %v", list)
	}
}

func tenantEnds(t *testing.T, s *suite) {
	self, one, foreign := journal.Identity{Kind: "tenant", Tenant: "acme", ID: "acme"}, grain("acme", "k1"), grain("other", "k1")
	f, _ := s.acquire(t, self)
	s.append(t, f, 0, 4)
	k, _ := s.acquire(t, one)
	s.append(t, k, 0, 3)
	o, _ := s.acquire(t, foreign)
	s.append(t, o, 0, 2)
	want := func(id journal.Identity, former int64) {
		t.Helper()
		row, err := s.Journal.Owner(s.ctx, id)
		must(t, err)
		list, err := s.Directory.Owners(s.ctx, journal.OwnerQuery{Tenant: id.Tenant, Kind: id.Kind, Limit: 10})
		if must(t, err); row.Former != former || len(list) != 1 || list[0].Former != former {
			t.Fatalf("owner of %s is %+v, and %+v in the list; want former %d", id, row, list, former)
		}
	}
	want(one, 0)
	must(t, s.Journal.EndTenant(s.ctx, f))
	must(t, s.Journal.EndTenant(s.ctx, f))
	for id, former := range map[journal.Identity]int64{self: 4, one: 3, foreign: 0} {
		want(id, former)
	}
	s.append(t, k, 3, 2)
	want(one, 3)
	must(t, s.Journal.Erase(s.ctx, k))
	want(one, 3)
	f2, _ := s.acquire(t, self)
	wantErr(t, "a stale fence", s.Journal.EndTenant(s.ctx, f), journal.ErrFenced)
	want(one, 3)
	must(t, s.Journal.Release(s.ctx, f2))
	wantErr(t, "a released fence", s.Journal.EndTenant(s.ctx, f2), journal.ErrFenced)
	s.Stores = s.Reopen(t)
	want(one, 3)
}
