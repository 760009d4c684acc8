// Command bench measures what needs a whole node: ingestion (P3 of the
// performance goals) and idle tenants (P5). It builds the store, the grains and
// the cluster in process, as a node does, with two parts replaced: an embedder
// of fixed cost, and a journal that tells of each committed event. It also plays
// the placement of knowledge bases on clusters of many nodes (P6), and runs the
// real program in several processes: how much more they do (P6), and how long a
// killed one is missed (P7). P8 is the quota check of a call.
//
//	go run ./cmd/internal/bench p3 -docs 2000 -kbs 1,10,100,1000
//	go run ./cmd/internal/bench p5 -tenants 10000
//	go run ./cmd/internal/bench placement -nodes 3,10,100,1000
//	go run ./cmd/internal/bench scale -granary bin/granary -sizes 1,2,3,4,8
//	go run ./cmd/internal/bench failover -granary bin/granary -sizes 3,5 -kills 10
//	go run ./cmd/internal/bench flood -granary bin/granary -docs 10000
//	go run ./cmd/internal/bench p8 -tenants 100000
//	go run ./cmd/internal/bench large -docs 1000
//	go test -run xxx -bench . ./cluster/bench | go run ./cmd/internal/bench report
//
// Every figure stands beside its limit or peer of the same run. On standard
// output are rows of one Markdown table: workload, figure, peer or limit, ratio,
// setting; what explains them goes to standard error. CPU times include parse
// workers. Nothing here is a timed test: the exit code tells of errors only.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"

	"granary.dev/granary/actors/pipeline/sandbox"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "parse-worker" {
		// The parse pool starts its own program as worker, as the server does.
		if err := sandbox.WorkerMain(context.Background(), os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "p3":
			return p3(ctx, args[1:])
		case "p5":
			return p5(ctx, args[1:])
		case "placement":
			return placement(ctx, args[1:])
		case "scale":
			return scale(ctx, args[1:])
		case "failover":
			return failover(ctx, args[1:])
		case "flood":
			return flood(ctx, args[1:])
		case "p8":
			return p8(ctx, args[1:])
		case "large":
			return large(ctx, args[1:])
		case "report":
			return report(os.Stdin)
		case "header":
			header()
			return nil
		}
	}
	return errors.New("usage: bench p3|p5|p8|placement|scale|failover|flood|large|report|header [flags]")
}

// header begins the table.
func header() {
	fmt.Println("| workload | figure | peer or limit | ratio | setting |")
	fmt.Println("|---|---|---|---|---|")
}

// row is one line of the table.
func row(workload, figure, peer, ratio, setting string) {
	fmt.Println("| " + strings.Join([]string{workload, figure, peer, ratio, setting}, " | ") + " |")
}

// note explains on standard error.
func note(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// machine is the part of a setting that all rows share.
func machine() string {
	return fmt.Sprintf("%d cores, GOMAXPROCS %d", runtime.NumCPU(), runtime.GOMAXPROCS(0))
}
