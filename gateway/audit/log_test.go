package audit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/storage/embedded"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("GRANARY_AUDIT_CHILD"); dir != "" {
		os.Exit(child(dir))
	}
	goleak.VerifyTestMain(m)
}

func check(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// store is the embedded store, which can be away.
type store struct {
	*embedded.Store
	away  atomic.Bool
	tried chan struct{} // gets one value for each try while away, when there is room
}

func (s *store) PutAccesses(ctx context.Context, list []journal.Access) error {
	if s.away.Load() {
		select {
		case s.tried <- struct{}{}:
		default:
		}
		return journal.ErrUnavailable
	}
	return s.Store.PutAccesses(ctx, list)
}

func newStore(t testing.TB) *store {
	t.Helper()
	s, err := embedded.Open(t.Context(), embedded.Config{Dir: filepath.Join(t.TempDir(), "data")})
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	return &store{Store: s, tried: make(chan struct{}, 1)}
}

func call(tenant string, n int) journal.Access {
	return journal.Access{Tenant: tenant, Time: time.Now(), Principal: "ada", Credential: "token", Method: "m", RequestID: fmt.Sprint(n), Code: "ok"}
}

func openLog(t testing.TB, dir string, s journal.AuditStore) *Log {
	t.Helper()
	l, err := Open(Config{Dir: dir, Node: "n", Store: s})
	check(t, err)
	return l
}

// stored reads all records of a tenant, checks every chain, and gives request ids and
// how often each is there.
func stored(t testing.TB, s journal.AuditStore, tenant string) map[string]int {
	t.Helper()
	out := make(map[string]int)
	streams, err := s.Streams(context.Background(), tenant, "", 1000)
	check(t, err)
	for _, h := range streams {
		list, err := s.StreamAccesses(context.Background(), tenant, h.Stream, 0, 1_000_000)
		check(t, err)
		var c journal.Chain
		for _, a := range list {
			check(t, c.FollowAccess(a))
			out[a.RequestID]++
		}
		if c.Seq != h.Seq || !bytes.Equal(c.Hash, h.Hash) {
			t.Fatalf("stream %s ends at %d, its head is %d", h.Stream, c.Seq, h.Seq)
		}
	}
	return out
}

func wantOnce(t testing.TB, got map[string]int, n int) {
	t.Helper()
	for i := range n {
		if got[fmt.Sprint(i)] != 1 {
			t.Fatalf("record %d is there %d times", i, got[fmt.Sprint(i)])
		}
	}
}

func files(t testing.TB, dir string) int {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	check(t, err)
	return len(list)
}

func TestI1_RecordsOfManyCallersReachTheStoreOnceInTheirChains(t *testing.T) {
	s, dir := newStore(t), filepath.Join(t.TempDir(), "audit")
	l := openLog(t, dir, s)
	var all sync.WaitGroup
	for i := range 400 {
		all.Go(func() {
			if err := l.Record(call([]string{"acme", "other"}[i%2], i)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	check(t, l.Close(t.Context()), l.Close(t.Context()))
	got := stored(t, s, "acme")
	for id, n := range stored(t, s, "other") {
		got[id] += n
	}
	wantOnce(t, got, 400)
	if n := files(t, dir); n != 0 {
		t.Fatalf("%d segments stay", n)
	}
	if st := l.Stats(); st.Records != 400 || st.Shipped != 400 || st.Backlog != 0 || st.Refused != 0 || st.Lag != 0 {
		t.Fatalf("%+v", st)
	}
	if err := l.Record(call("acme", 1)); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("a closed log says %v", err)
	}
}

func TestI1_RecordsWaitOnTheDiskWhileTheStoreIsAway(t *testing.T) {
	s, dir := newStore(t), filepath.Join(t.TempDir(), "audit")
	s.away.Store(true)
	l := openLog(t, dir, s)
	for i := range 10 {
		check(t, l.Record(call("acme", i))) // the store being away fails nothing
	}
	<-s.tried
	if st := l.Stats(); st.Lag <= 0 || st.Lag > time.Hour || st.Backlog == 0 {
		t.Fatalf("while the store is away: %+v", st)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	check(t, l.Close(gone)) // the process ends with the store still away
	if len(stored(t, s, "acme")) != 0 || files(t, dir) == 0 {
		t.Fatal("the records are not where they should be")
	}
	s.away.Store(false)
	l = openLog(t, dir, s)
	check(t, l.Record(call("acme", 10)))
	check(t, l.Close(t.Context()))
	wantOnce(t, stored(t, s, "acme"), 11)
	if n := files(t, dir); n != 0 {
		t.Fatalf("%d segments stay", n)
	}
}

// lines keeps what is logged.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, string(b))
	return len(b), nil
}

func (l *lines) has(what string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.text {
		if strings.Contains(line, what) {
			n++
		}
	}
	return n
}

func folderSize(t testing.TB, dir string) (bytes int64) {
	t.Helper()
	list, err := os.ReadDir(dir)
	check(t, err)
	for _, e := range list {
		info, err := e.Info()
		check(t, err)
		bytes += info.Size()
	}
	return bytes
}

func TestI1_WhatWaitsForTheStoreIsBoundedOnTheDiskAndTold(t *testing.T) {
	s, dir, told := newStore(t), t.TempDir(), &lines{}
	s.away.Store(true)
	l, err := Open(Config{Dir: dir, Node: "n", Store: s, MaxBytes: MinMaxBytes, Logger: slog.New(slog.NewTextHandler(told, nil))})
	check(t, err)
	n := 0
	for l.Ready() == nil {
		var all sync.WaitGroup
		for range 64 {
			a := call("acme", n)
			a.Resource, a.Principal, a.Method = strings.Repeat("r", maxFieldBytes), strings.Repeat("p", maxFieldBytes), strings.Repeat("m", maxFieldBytes)
			all.Go(func() {
				if err := l.Record(a); err != nil {
					t.Error(err)
				}
			})
			n++
		}
		all.Wait()
	}
	if waits := l.Stats().Backlog; waits < MinMaxBytes || waits > MinMaxBytes+64*4<<10 || n < MinMaxBytes/4000 {
		t.Fatalf("%d records of %d bytes wait: %v", n, waits, l.Ready())
	}
	if size := folderSize(t, dir); size > MinMaxBytes+3*segmentBytes {
		t.Fatalf("%d bytes on the disk", size)
	}
	for range 100 { // calls that were under way
		check(t, l.Record(call("acme", n)))
		n++
	}
	for err == nil {
		a := call("acme", n)
		a.Resource, a.Principal, a.Method = strings.Repeat("r", maxFieldBytes), strings.Repeat("p", maxFieldBytes), strings.Repeat("m", maxFieldBytes)
		err = l.Record(a)
		n++
	}
	if size := folderSize(t, dir); !errors.Is(err, ErrUnavailable) || size > MinMaxBytes+3*segmentBytes {
		t.Fatalf("%v with %d bytes on the disk", err, size)
	}
	s.away.Store(false)
	for late := time.Now().Add(time.Minute); l.Ready() != nil || told.has("little of the audit waits") == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal(l.Ready(), told.text)
		}
	}
	check(t, l.Record(call("acme", n-1)), l.Close(t.Context()))
	wantOnce(t, stored(t, s, "acme"), n)
	if told.has("half of what may wait") != 1 || told.has("calls are refused") != 1 || told.has("little of the audit waits") != 1 {
		t.Fatal(told.text)
	}
}

// failing is a disk whose next writes or syncs fail.
type failing struct {
	disk
	write, sync, make atomic.Int64
	cut               atomic.Int64 // bytes a failing write leaves; 0: half of them
}

type failingFile struct {
	writer
	d *failing
}

func (f failingFile) WriteAt(b []byte, at int64) (int, error) {
	if f.d.write.Load() > 0 && f.d.write.Add(-1) >= 0 {
		n, _ := f.writer.WriteAt(b[:min(cmp.Or(f.d.cut.Load(), int64(len(b)/2)), int64(len(b)))], at)
		return n, syscall.ENOSPC
	}
	return f.writer.WriteAt(b, at)
}

func (f failingFile) Sync() error {
	if f.d.sync.Load() > 0 && f.d.sync.Add(-1) >= 0 {
		return syscall.EIO
	}
	return f.writer.Sync()
}

func (f failingFile) Truncate(int64) error { return syscall.EIO }

func (d *failing) create(n int64) (*segment, error) {
	if d.make.Load() > 0 && d.make.Add(-1) >= 0 {
		return nil, syscall.ENOSPC
	}
	s, err := d.disk.create(n)
	if err == nil {
		s.file = failingFile{s.file, d}
	}
	return s, err
}

func TestI1_FailedWriteFailsItsCallsAndLaterOnesUntilItWorksAgain(t *testing.T) {
	for _, what := range []string{"write", "sync"} {
		t.Run(what, func(t *testing.T) {
			s, dir := newStore(t), t.TempDir()
			d := &failing{disk: osDisk{dir}}
			l, err := open(Config{Dir: dir, Node: "n", Store: s}, d)
			check(t, err)
			check(t, l.Record(call("acme", 0)), l.Record(call("acme", 1)))
			d.make.Store(1) // the first try to go on fails too
			map[string]*atomic.Int64{"write": &d.write, "sync": &d.sync}[what].Store(1)
			if err := l.Record(call("acme", 100)); !errors.Is(err, ErrUnavailable) {
				t.Fatalf("the call whose record was not written: %v", err)
			}
			if err := l.Ready(); !errors.Is(err, ErrUnavailable) {
				t.Fatalf("after a failed write: %v", err)
			}
			if err := l.Record(call("acme", 101)); !errors.Is(err, ErrUnavailable) {
				t.Fatalf("a later call: %v", err)
			}
			for l.Ready() != nil {
				time.Sleep(10 * time.Millisecond)
			}
			check(t, l.Record(call("acme", 2)))
			if st := l.Stats(); st.Refused != 2 || st.Records != 3 {
				t.Fatalf("%+v", st)
			}
			check(t, l.Close(t.Context()))
			wantOnce(t, stored(t, s, "acme"), 3)
			// What of the failed group was left on the disk says nothing else under its numbers.
			l = openLog(t, dir, s)
			check(t, l.Close(t.Context()))
			wantOnce(t, stored(t, s, "acme"), 3)
		})
	}
}

func TestI1_WriteCutAtAnyByteLosesNothingThatWasAcknowledged(t *testing.T) {
	whole := int64(len(appendFrame(nil, clean(call("acme", 100)))))
	for cut := int64(1); cut <= whole; cut += 7 {
		s, dir := newStore(t), t.TempDir()
		s.away.Store(true)
		d := &failing{disk: osDisk{dir}}
		l, err := open(Config{Dir: dir, Node: "n", Store: s}, d)
		check(t, err)
		check(t, l.Record(call("acme", 0)), l.Record(call("acme", 1)))
		d.cut.Store(cut)
		d.write.Store(1)
		if err := l.Record(call("acme", 100)); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("cut at %d of %d: %v", cut, whole, err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		check(t, l.Close(gone)) // the process ends, and what was cut is on its disk
		s.away.Store(false)
		l = openLog(t, dir, s)
		check(t, l.Record(call("acme", 2)), l.Close(t.Context()))
		wantOnce(t, stored(t, s, "acme"), 3)
		if n := files(t, dir); n != 0 {
			t.Fatalf("cut at %d: %d segments stay", cut, n)
		}
	}
}

func TestI1_FloodOfStrangersIsCountedAndCannotFillTheDisk(t *testing.T) {
	s := newStore(t)
	l := openLog(t, t.TempDir(), s)
	for i := range 5000 {
		check(t, l.Record(journal.Access{Time: time.Now(), Method: "m", RequestID: fmt.Sprint(i), Code: "unauthenticated"}))
	}
	check(t, l.Record(call("acme", 0)))
	check(t, l.Close(t.Context()))
	wantOnce(t, stored(t, s, "acme"), 1)
	list, err := s.Accesses(t.Context(), journal.AccessQuery{Limit: 10_000})
	check(t, err)
	var counted int64
	for _, a := range list {
		counted += a.Count
	}
	last := list[len(list)-1]
	if counted != 5000 || len(list) > 1000 || last.Phase != journal.PhaseSummary {
		t.Fatalf("%d records stand for %d calls, the last is %+v", len(list), counted, last)
	}
}

func TestI1_DamagedSegmentCostsWhatIsBehindTheDamageOnly(t *testing.T) {
	s, dir := newStore(t), t.TempDir()
	s.away.Store(true)
	l := openLog(t, dir, s)
	for i := range 10 {
		check(t, l.Record(call("acme", i)))
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	check(t, l.Close(gone))
	list, err := filepath.Glob(filepath.Join(dir, "*"))
	check(t, err)
	data, err := os.ReadFile(list[0])
	check(t, err)
	data[len(data)*3/4] ^= 1
	check(t, os.WriteFile(list[0], data, 0o600))
	check(t, os.WriteFile(filepath.Join(dir, segmentName(7)), []byte("granary?"), 0o600), os.WriteFile(filepath.Join(dir, segmentName(8)), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "else"), nil, 0o600))
	s.away.Store(false)
	l = openLog(t, dir, s)
	check(t, l.Record(call("acme", 10)), l.Close(t.Context()))
	got := stored(t, s, "acme")
	wantOnce(t, got, 6)
	if st := l.Stats(); st.Lost != 2 || got["10"] != 1 || st.Backlog != 0 {
		t.Fatalf("%+v, %v", st, got)
	}
}

func TestI1_TenantsBeyondWhatIsKeptInMemoryGoOnInStreamsOfTheirOwn(t *testing.T) {
	l := &Log{boot: "n#1", chains: make(map[string]*journal.Chain)}
	seen := make(map[string]bool)
	for i := range maxChains + 10 {
		for _, tenant := range []string{fmt.Sprint("t", i), "always"} {
			a := journal.Access{Tenant: tenant}
			l.link(&a)
			key := fmt.Sprint(a.Tenant, a.Stream, a.Seq)
			if seen[key] {
				t.Fatalf("%s was given twice", key)
			}
			seen[key] = true
		}
	}
	if l.generation != 1 || len(l.chains) > maxChains {
		t.Fatalf("generation %d with %d chains", l.generation, len(l.chains))
	}
}

func FuzzReadFrame(f *testing.F) {
	a := call("acme", 1)
	a.Hash = journal.LinkAccess(nil, a)
	one := appendFrame(nil, a)
	f.Add(one)
	f.Add(one[:len(one)-1])
	f.Add(append(one, one...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for at := int64(0); ; {
			a, n, err := readFrame(r)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, errTorn) {
					t.Fatal(err)
				}
				return
			}
			if again := appendFrame(nil, a); !bytes.Equal(again, b[at:at+n]) {
				t.Fatalf("%x was read, and is written as %x", b[at:at+n], again)
			}
			at += n
		}
	})
}

func TestI1_StreamsAreRenewedSoThatRetiredOnesAreOver(t *testing.T) {
	s, dir := newStore(t), t.TempDir()
	l, err := Open(Config{Dir: dir, Node: "n", Store: s, Renew: time.Millisecond})
	check(t, err)
	n, late := 0, time.Now().Add(20*time.Second)
	for {
		check(t, l.Record(call("acme", n)))
		n++
		l.writing.Lock()
		renewed := l.generation
		l.writing.Unlock()
		if renewed > 0 {
			break
		}
		if time.Now().After(late) {
			t.Fatal("its streams never end")
		}
		time.Sleep(20 * time.Millisecond)
	}
	check(t, l.Record(call("acme", n)), l.Close(t.Context()))
	wantOnce(t, stored(t, s, "acme"), n+1)
	streams, err := s.Streams(t.Context(), "acme", "", 10)
	if check(t, err); len(streams) < 2 {
		t.Fatal(streams)
	}
}
