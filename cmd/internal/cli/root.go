package cli

import (
	"context"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Where a client looks when it is told nothing else.
const (
	DefaultServer  = "http://127.0.0.1:8080"
	DefaultDataDir = "./data"
	// DevTokenFile is the file below the data directory that holds the token of
	// a server started with --dev.
	DevTokenFile = "dev-token"
	// DevOperatorTokenFile holds the operator's beside it.
	DevOperatorTokenFile = "dev-operator-token"
)

// Env is what the command line takes from the process around it. Nil functions
// are filled with ones that fit a process without a terminal.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Getenv reads an environment variable.
	Getenv func(string) string
	// IsTerminal reports whether a stream, one of the three above, is a terminal.
	IsTerminal func(stream any) bool
	// Width is the number of columns of the terminal.
	Width func() int
	// BuildInfo is debug.ReadBuildInfo.
	BuildInfo func() (*debug.BuildInfo, bool)
	// Sleep waits for d, or fails when ctx ends first.
	Sleep func(ctx context.Context, d time.Duration) error
	// ExtraCommands stand beside the client commands, for example serve.
	ExtraCommands []*cobra.Command
}

// OSEnv is the Env of this process.
func OSEnv() Env {
	return Env{
		Stdin:  os.Stdin,
		Stdout: os.Stdout,
		Stderr: os.Stderr,
		Getenv: os.Getenv,
		IsTerminal: func(stream any) bool {
			f, ok := stream.(*os.File)
			return ok && term.IsTerminal(int(f.Fd()))
		},
		Width: func() int {
			width, _, err := term.GetSize(int(os.Stdout.Fd()))
			if err != nil {
				return 0
			}
			return width
		},
	}
}

// complete fills what is left open.
func (e Env) complete() Env {
	if e.Stdin == nil {
		e.Stdin = strings.NewReader("")
	}
	if e.Stdout == nil {
		e.Stdout = io.Discard
	}
	if e.Stderr == nil {
		e.Stderr = io.Discard
	}
	if e.Getenv == nil {
		e.Getenv = func(string) string { return "" }
	}
	if e.IsTerminal == nil {
		e.IsTerminal = func(any) bool { return false }
	}
	if e.Width == nil {
		e.Width = func() int { return 0 }
	}
	if e.BuildInfo == nil {
		e.BuildInfo = debug.ReadBuildInfo
	}
	if e.Sleep == nil {
		e.Sleep = sleep
	}
	return e
}

// app is one run of the command line: its surroundings and its flags.
type app struct {
	env   Env
	flags clientFlags
}

// Root builds the granary command. Run it with [Execute].
func Root(env Env) *cobra.Command {
	a := &app{env: env.complete()}
	root := a.group(&cobra.Command{
		Use:   "granary",
		Short: "A multi-tenant knowledge-base server and its client",
		Long: "Granary keeps documents in knowledge bases, parses, chunks, embeds and indexes them,\n" +
			"and answers searches with citations.",
		Example: `  granary serve --dev                    # a server on this machine
  granary kb create handbook             # a knowledge base
  granary doc add handbook ./docs --wait # documents
  granary search handbook "how do I take parental leave"`,
	})
	root.AddCommand(a.kbCommand(), a.docCommand(), a.watchCommand(), a.searchCommand(),
		a.tenantCommand(), a.usageCommand(), a.receiptCommand(), a.workspaceCommand(), a.keyCommand(), a.roleCommand(), a.whoamiCommand(),
		a.clusterCommand(), a.auditCommand(), a.versionCommand())
	root.AddCommand(a.env.ExtraCommands...)
	root.SetIn(a.env.Stdin)
	root.SetOut(a.env.Stdout)
	root.SetErr(a.env.Stderr)
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.InitDefaultCompletionCmd()
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{msg: err.Error()} })
	typeArgErrors(root)
	return root
}

// group makes cmd a command that only holds others: alone it shows its help,
// and an unknown subcommand is a usage error.
func (a *app) group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
			return usagef("unknown command %q, did you mean %q?", args[0], s[0])
		}
		return usagef("unknown command %q", args[0])
	}
	cmd.SuggestionsMinimumDistance = 2
	return cmd
}

// typeArgErrors makes what the argument checks of cmd and below it find usage errors.
func typeArgErrors(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &usageError{msg: err.Error()}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		typeArgErrors(sub)
	}
}

// interruptible runs a read of standard input that ends no later than ctx. A
// blocked read cannot be ended: it is left behind in a process about to exit.
func interruptible[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := read()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}

// sleep waits for d or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
