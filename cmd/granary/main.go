// Command granary is a knowledge-base server and its client.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"granary.dev/granary/cmd/internal/certs"
	"granary.dev/granary/cmd/internal/cli"
	"granary.dev/granary/cmd/internal/masterkey"
	"granary.dev/granary/cmd/internal/node"
)

func main() { os.Exit(run()) }

// run is apart from main so that the signals are released before the exit.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second ^C ends the process at once
	env := cli.OSEnv()
	env.ExtraCommands = []*cobra.Command{node.ServeCommand(), node.TokenCommand(), certs.Command(), masterkey.Command(), node.ParseWorkerCommand()}
	return cli.Execute(ctx, cli.Root(env))
}
