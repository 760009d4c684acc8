package audit

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"granary.dev/granary/storage/embedded"
)

// BenchmarkRecord compares records with the floor: what the disk takes for a write of as
// many bytes that is made durable, in turns of one run, medians. A lone caller cannot be
// below it, many share it.
func BenchmarkRecord(b *testing.B) {
	store, err := embedded.Open(b.Context(), embedded.Config{Dir: filepath.Join(b.TempDir(), "data")})
	check(b, err)
	defer store.Close()
	l := openLog(b, filepath.Join(b.TempDir(), "audit"), store)
	defer func() { check(b, l.Close(b.Context())) }()
	disk, err := osDisk{b.TempDir()}.create(1)
	check(b, err)
	defer disk.end()
	one := appendFrame(nil, clean(call("acme", 1)))
	floor := func() {
		if disk.room() < int64(len(one)) {
			disk.written = int64(len(segmentMark))
			disk.durable.Store(disk.written)
		}
		check(b, disk.write(one), disk.sync())
	}
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			var records, floors []time.Duration
			const turns = 7
			per := max(b.N/turns/callers, 1)
			for range turns {
				var mu sync.Mutex
				var all sync.WaitGroup
				start := time.Now()
				for range callers {
					all.Go(func() {
						for i := range per {
							if err := l.Record(call("acme", i)); err != nil {
								mu.Lock()
								b.Error(err)
								mu.Unlock()
							}
						}
					})
				}
				all.Wait()
				records = append(records, time.Since(start)/time.Duration(per*callers))
				start = time.Now()
				for range per {
					floor()
				}
				floors = append(floors, time.Since(start)/time.Duration(per))
			}
			slices.Sort(records)
			slices.Sort(floors)
			b.ReportMetric(float64(records[turns/2]), "ns/record")
			b.ReportMetric(float64(floors[turns/2]), "ns/floor")
			b.ReportMetric(float64(records[turns/2])/float64(floors[turns/2]), "ratio")
		})
	}
}
