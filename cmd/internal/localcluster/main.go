//go:build unix

// Command localcluster runs a cluster on this machine for trying it out: some
// nodes of the real program and a private PostgreSQL, everything on loopback
// addresses and below one folder. `make cluster` calls it.
//
//	DIR/postgres   the database, kept between runs
//	DIR/n1 …       data of the nodes, with the tokens of the development key
//	DIR/n1.log …   what they said in the last run
//
// A node that crashes is started again, as a supervisor would. The first ^C or
// SIGTERM drains the nodes one after the other and then stops PostgreSQL; a
// second one kills them. When this process is killed they end too (on Linux).
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() { os.Exit(run()) }

func run() int {
	var o options
	flag.StringVar(&o.binary, "granary", "bin/granary", "the program")
	flag.StringVar(&o.dir, "data", "data/cluster", "folder for everything")
	flag.IntVar(&o.nodes, "nodes", 3, "how many nodes")
	flag.IntVar(&o.api, "api-port", 8080, "port of the first node's API; the others follow")
	flag.IntVar(&o.gossip, "gossip-port", 7946, "port of the first node's gossip; the others follow")
	flag.IntVar(&o.actors, "actors-port", 7956, "port of the first node for other nodes' calls; the others follow")
	flag.IntVar(&o.metrics, "metrics-port", 9464, "port of the first node's metrics; the others follow")
	flag.Parse()
	if flag.NArg() > 0 || o.nodes < 1 || o.nodes > 10 {
		fmt.Fprintln(os.Stderr, "cluster: no arguments, and 1 to 10 nodes")
		return 2
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	soft, stop := context.WithCancel(context.Background())
	hard, kill := context.WithCancel(context.Background())
	defer kill()
	defer stop()
	go func() {
		<-signals
		stop()
		// Whoever stops make and its process group signals twice at once.
		for first := time.Now(); time.Since(first) < time.Second; {
			<-signals
		}
		kill()
	}()
	if err := runCluster(soft, hard, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		return 1
	}
	return 0
}
