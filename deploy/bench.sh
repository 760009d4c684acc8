#!/usr/bin/env bash
# Runs the benchmarks, each beside its peer or its limit in the same run, and
# prints one Markdown table. About twenty minutes on two cores that do nothing
# else; BENCH_LARGE=1 runs the sizes of the goals, which takes more than an hour.
# BENCH_ONLY="p3 p5" runs some of: p1 p2 p3 p4 p5 p6 p7 p8 store.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
table="$work/table.md"
bench="$work/bench"
granary="$work/granary"
go build -o "$bench" ./cmd/internal/bench
go build -o "$granary" ./cmd/granary

if [ -n "${BENCH_LARGE:-}" ]; then
	export GRANARY_BENCH_LARGE=1
	p1_time=25x p2_time=50000x p3_docs=10000 p3_latency=5000 flood_docs=10000 p4_time=1s p5_tenants=100000 store_time=20000x bulk_time=50x p6_lasts=30s p7_kills=30
else
	p1_time=7x p2_time=10000x p3_docs=2000 p3_latency=500 flood_docs=3000 p4_time=200ms p5_tenants=10000 store_time=3000x bulk_time=8x p6_lasts=10s p7_kills=6
fi

# One part that fails must not cost the results of the others.
failed=0
part() {
	local name=$1
	shift
	case " ${BENCH_ONLY:-p1 p2 p3 p4 p5 p6 p7 p8 store} " in *" $name "*) ;; *) return 0 ;; esac
	echo "== $name" >&2
	"$@" >>"$table" || { echo "bench: $name failed" >&2; failed=1; }
}

# gobench SETTING PACKAGE PATTERN TIME runs Go benchmarks; the pipe fails if they do.
gobench() {
	go test -run '^$' -bench "$3" -benchtime "$4" -timeout 2h "$2" | BENCH_SETTING=$1 "$bench" report
}

"$bench" header >"$table"
part p1 gobench "one node, 64-byte calls, medians of $p1_time rounds" ./cluster/bench 'AskLocal_P1' "$p1_time"
part p1 gobench "two nodes over loopback in one process, 64-byte calls, medians of $p1_time rounds" ./cluster/bench 'AskRemote_P1' "$p1_time"
part p2 gobench "calls with and without their audit on the disk, no network; ratio = audited / bare" ./gateway '^BenchmarkAudited$' "$store_time"
part p2 gobench "one node, no network, JSON, a grain that answers at once; beside the same without the quota check" ./gateway '^BenchmarkUnary_P2$' "$p2_time"
part p3 "$bench" p3 -docs "$p3_docs" -latency-docs "$p3_latency"
part p3 "$bench" flood -granary "$granary" -docs "$flood_docs"
part p4 gobench "10 best, 384 dimensions or 80 words a chunk" ./actors/search 'P4' "$p4_time"
part p5 "$bench" p5 -tenants "$p5_tenants"
part p5 "$bench" large -docs 1000
part p6 "$bench" placement
part p6 "$bench" scale -granary "$granary" -lasts "$p6_lasts"
part p7 "$bench" failover -granary "$granary" -kills "$p7_kills"
part p8 "$bench" p8
part store gobench "encrypted beside plain, embedded store, in turns; ratio = plain time / sealed time" ./storage/sealed '^BenchmarkSealed(Append|Activate)$' "$store_time"
part store gobench "encrypted beside plain, embedded store; 2,000 chunks with vectors, blobs of 8 MiB, an index of 16 MiB" ./storage/sealed '^BenchmarkSealed(Chunks|Blobs|Index)$' "$bulk_time"
part store gobench "SQLite, synchronous=FULL, 300-byte events" ./storage/embedded '^Benchmark(Append|Activate)$' "$store_time"
part store gobench "SQLite, events in a hash chain beside events without, 16 writers; ratio = chained / bare" ./storage/embedded '^BenchmarkChained$' "$store_time"
part store gobench "SQLite, 2,000 rows of 1 KB or 384 dimensions an operation" ./storage/embedded '^BenchmarkPut(Chunks|Vectors)$' "$bulk_time"

echo
cat "$table"
exit "$failed"
