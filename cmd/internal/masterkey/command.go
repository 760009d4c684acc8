// Package masterkey is `granary master-key`: it makes and edits the file of master
// keys, which nodes read and never write.
package masterkey

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"granary.dev/granary/storage/sealed"
)

// usageError is an error in how the command was called.
type usageError struct{ error }

// ExitCode implements what the command line asks of errors.
func (usageError) ExitCode() int { return 2 }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Command is `granary master-key`.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "master-key",
		Short: "Make and edit the file of master keys",
		Long: `The master key wraps the keys under which each tenant's data is stored. Nodes read it
from the file of encryption.master_key_file, or from GRANARY_MASTER_KEY: one key of 32
bytes a line, in base64. The first wraps, all unwrap. Without it nothing can be read.

To rotate it: add a key on all nodes, make it the first on all nodes, run "granary
cluster keys rotate-master", and remove the old one when no back-up needs it.`,
		Example: `  granary master-key new /etc/granary/master-key
  granary master-key add /etc/granary/master-key
  granary master-key list /etc/granary/master-key
  granary master-key first /etc/granary/master-key 0a1b2c3d
  granary master-key remove /etc/granary/master-key 99887766`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCommand(), addCommand(), listCommand(), firstCommand(), removeCommand())
	return cmd
}

func newCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "new [FILE]",
		Short:   "Make a key, as a new file or on standard output",
		Example: `  granary master-key new /etc/granary/master-key`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := sealed.NewMasterKey()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				_, err := cmd.OutOrStdout().Write(key)
				return err
			}
			if _, err := os.Lstat(args[0]); !errors.Is(err, fs.ErrNotExist) {
				return usagef("%s is there already; a node that lost its master key cannot read its data", args[0])
			}
			if err := write(args[0], key); err != nil {
				return err
			}
			return name(cmd, key)
		},
	}
}

func addCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "add FILE",
		Short:   "Add a new key as the last one: known, not used yet",
		Example: `  granary master-key add /etc/granary/master-key`,
		Args:    cobra.ExactArgs(1),
		RunE: edit(func(lines []string, _ int) ([]string, error) {
			key, err := sealed.NewMasterKey()
			return append(lines, strings.TrimSpace(string(key))), err
		}),
	}
}

func listCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list FILE",
		Short:   "Name the keys of a file",
		Example: `  granary master-key list /etc/granary/master-key`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			return name(cmd, text)
		},
	}
}

func firstCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "first FILE ID",
		Short:   "Make a key the first: it wraps from now on",
		Example: `  granary master-key first /etc/granary/master-key 0a1b2c3d`,
		Args:    cobra.ExactArgs(2),
		RunE: edit(func(lines []string, at int) ([]string, error) {
			key := lines[at]
			return append([]string{key}, slices.Delete(lines, at, at+1)...), nil
		}),
	}
}

func removeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove FILE ID",
		Short: "Remove a key that wraps nothing any more",
		Long: `Remove a key. Look at "granary cluster keys list" first: what is wrapped by a key that
is gone cannot be read again, nor can back-ups from before the rotation.`,
		Example: `  granary master-key remove /etc/granary/master-key 99887766`,
		Args:    cobra.ExactArgs(2),
		RunE: edit(func(lines []string, at int) ([]string, error) {
			if at == 0 {
				return nil, usagef("it is the first key: make another one the first before")
			}
			return slices.Delete(lines, at, at+1), nil
		}),
	}
}

// edit changes the keys of the file args[0]; at is the line of the key args[1] names.
func edit(change func(lines []string, at int) ([]string, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		text, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		m, err := sealed.FixedMaster(text)
		if err != nil {
			return err
		}
		at := -1
		if len(args) > 1 {
			if at = slices.Index(m.IDs(), args[1]); at < 0 {
				return usagef("%s has no key %s, but %s", args[0], args[1], strings.Join(m.IDs(), ", "))
			}
		}
		var lines []string
		for l := range strings.Lines(string(text)) {
			if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
				lines = append(lines, l)
			}
		}
		if lines, err = change(lines, at); err != nil {
			return err
		}
		out := sealed.Secret(strings.Join(lines, "\n") + "\n")
		if err := write(args[0], out); err != nil {
			return err
		}
		return name(cmd, out)
	}
}

// name names the keys; it never shows them.
func name(cmd *cobra.Command, text sealed.Secret) error {
	m, err := sealed.FixedMaster(text)
	if err != nil {
		return err
	}
	for i, id := range m.IDs() {
		what := "unwraps"
		if i == 0 {
			what = "wraps and unwraps"
		}
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", id, what); err != nil {
			return err
		}
	}
	return nil
}

// write puts the file in place whole, readable by its owner only.
func write(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".master-key-*") // 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
