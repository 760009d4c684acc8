// Command protodeps prints the protos ours import (protovalidate's rules) from
// the descriptors compiled into their Go modules, so that `make generate`
// needs the Go module proxy and no schema registry.
//
// Usage: protodeps DIR
package main

import (
	"fmt"
	"os"
	"path/filepath"

	_ "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate" // registers buf/validate/validate.proto
	"github.com/jhump/protoreflect/v2/protoprint"
	"google.golang.org/protobuf/reflect/protoregistry"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: protodeps DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1], "buf/validate/validate.proto"); err != nil {
		fmt.Fprintln(os.Stderr, "protodeps:", err)
		os.Exit(1)
	}
}

// run prints each file below dir under its import path.
func run(dir string, files ...string) error {
	printer := protoprint.Printer{Compact: true}
	for _, name := range files {
		desc, err := protoregistry.GlobalFiles.FindFileByPath(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		text, err := printer.PrintProtoToString(desc)
		if err != nil {
			return fmt.Errorf("print %s: %w", name, err)
		}
		out := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(out, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
