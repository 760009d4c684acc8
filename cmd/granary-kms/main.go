// Command granary-kms wraps and unwraps Granary's master key with a key of a key
// service: AWS KMS, Google Cloud KMS or the transit engine of HashiCorp Vault. It is a
// program of its own, and a module of its own, so that the drivers of key services are
// no part of granary, which runs it when a node starts and when the master key is
// rotated.
//
//	granary-kms wrap|unwrap --uri URI --bind TEXT
//
// What is to be wrapped comes on standard input, what is wrapped goes to standard
// output. Credentials are the driver's own: the environment and files of the AWS and
// Google SDKs, VAULT_TOKEN. Nothing of the input ever goes to standard error.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/hashicorp/vault/api"
	"github.com/tink-crypto/tink-go-awskms/v3/integration/awskms"
	"github.com/tink-crypto/tink-go-gcpkms/v2/integration/gcpkms"
	"github.com/tink-crypto/tink-go-hcvault/v2/integration/hcvault"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// maxInput bounds what is wrapped: some master keys.
const maxInput = 64 << 10

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "granary-kms:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	if len(args) == 0 || args[0] != "wrap" && args[0] != "unwrap" {
		return errors.New("usage: granary-kms wrap|unwrap --uri URI --bind TEXT")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	uri := flags.String("uri", "", "the key: aws-kms://…, gcp-kms://… or hcvault://…")
	bind := flags.String("bind", "", "what the wrapped key is bound to")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	key, err := keyOf(ctx, *uri)
	if err != nil {
		return err
	}
	input, err := io.ReadAll(io.LimitReader(bufio.NewReader(in), maxInput+1))
	if err != nil {
		return err
	}
	if len(input) == 0 || len(input) > maxInput {
		return fmt.Errorf("input of %d bytes, want 1 to %d", len(input), maxInput)
	}
	do := key.Encrypt
	if args[0] == "unwrap" {
		do = key.Decrypt
	}
	result, err := do(input, []byte(*bind))
	if err != nil {
		return fmt.Errorf("%s with %s: %w", args[0], *uri, err)
	}
	_, err = out.Write(result)
	return err
}

// client is what the drivers have in common.
type client interface {
	GetAEAD(keyURI string) (tink.AEAD, error)
}

// keyOf opens the key a URI names.
func keyOf(ctx context.Context, uri string) (tink.AEAD, error) {
	var c client
	var err error
	switch {
	case strings.HasPrefix(uri, "aws-kms://"):
		c, err = awskms.NewClientWithOptions(ctx, uri)
	case strings.HasPrefix(uri, "gcp-kms://"):
		c, err = gcpkms.NewClient(ctx, uri, gcpkms.WithTransport(gcpkms.TransportREST))
	case strings.HasPrefix(uri, "hcvault://"):
		c, err = vaultOf(uri)
	default:
		return nil, fmt.Errorf("--uri: %q is not aws-kms://, gcp-kms:// or hcvault://", uri)
	}
	if err != nil {
		return nil, fmt.Errorf("key service: %w", err)
	}
	key, err := c.GetAEAD(uri)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", uri, err)
	}
	return key, nil
}

// vaultOf speaks to the transit engine at the URI's host. Token, authority and what
// else a client of Vault needs come from the environment (VAULT_TOKEN, VAULT_CACERT …).
func vaultOf(uri string) (client, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, err
	}
	cfg := api.DefaultConfig()
	if cfg.Error != nil {
		return nil, cfg.Error
	}
	cfg.Address = "https://" + u.Host
	vault, err := api.NewClient(cfg)
	if err != nil {
		return nil, err
	}
	return hcvault.NewClientWithAEADOptions(uri, vault.Logical())
}
