package cli

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"granary.dev/granary/actors/kb"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func (a *app) receiptCommand() *cobra.Command {
	cmd := a.client(a.group(&cobra.Command{
		Use:   "receipt",
		Short: "Proofs of what was erased",
		Long: "Each erasure of a document or a knowledge base leaves a receipt: who asked, when, how much was removed.\n" +
			"It is signed by the server and can be checked without it.",
		Example: `  granary receipt list handbook
  granary receipt get 0123456789abcdef0123456789abcdef > receipt.json
  granary receipt key > receipts.pem
  granary receipt verify receipt.json --public-key receipts.pem`,
	}))
	cmd.AddCommand(a.receiptList(), a.receiptGet(), a.receiptKey(), a.receiptVerify())
	return cmd
}

func (a *app) receiptList() *cobra.Command {
	return &cobra.Command{
		Use:     "list [KB]",
		Short:   "List receipts, the oldest first",
		Example: "  granary receipt list\n  granary receipt list handbook --json | jq -r '.receipts[].name'",
		Args:    cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, s *session, out *output, args []string) error {
			all := &granaryv1.ListErasureReceiptsResponse{}
			req := &granaryv1.ListErasureReceiptsRequest{PageSize: listPage}
			if len(args) == 1 {
				req.KnowledgeBase = kbName(args[0])
			}
			for {
				page, err := call(ctx, s, s.erasure.ListErasureReceipts, req)
				if err != nil {
					return err
				}
				all.Receipts = append(all.Receipts, page.GetReceipts()...)
				if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
					break
				}
			}
			if out.json {
				return out.message(all)
			}
			if len(all.GetReceipts()) == 0 {
				out.notef("nothing was erased")
				return nil
			}
			var rows [][]cell
			for _, r := range all.GetReceipts() {
				c := r.GetCounts()
				rows = append(rows, cells(strings.TrimPrefix(r.GetName(), kb.ReceiptPrefix), stamp(r.GetCompleteTime()), r.GetTarget(),
					r.GetRequestedBy(), r.GetReason(), fmt.Sprint(c.GetDocuments()), fmt.Sprint(c.GetChunks()), fmt.Sprint(c.GetVectors()), fmt.Sprint(c.GetBlobs())))
			}
			return out.table([]string{"RECEIPT", "ERASED", "TARGET", "BY", "REASON", "DOCUMENTS", "CHUNKS", "VECTORS", "SOURCES"}, rows)
		}),
	}
}

func (a *app) receiptGet() *cobra.Command {
	return &cobra.Command{
		Use:     "get RECEIPT",
		Short:   "Print a signed receipt",
		Long:    "Prints the receipt as it was signed: a DSSE envelope, for granary receipt verify and for the files.",
		Example: "  granary receipt get 0123456789abcdef0123456789abcdef > receipt.json",
		Args:    exactArgs("RECEIPT"),
		RunE: a.run(func(ctx context.Context, s *session, out *output, args []string) error {
			res, err := call(ctx, s, s.erasure.GetErasureReceipt, &granaryv1.GetErasureReceiptRequest{
				Name: kb.ReceiptPrefix + strings.TrimPrefix(args[0], kb.ReceiptPrefix)})
			if err != nil {
				return err
			}
			if out.json {
				return out.message(res)
			}
			return out.printf("%s\n", res.GetReceipt().GetEnvelope())
		}),
	}
}

func (a *app) receiptKey() *cobra.Command {
	return &cobra.Command{
		Use:     "key",
		Short:   "Print the public key that receipts are checked with",
		Long:    "Prints the public key. Keep it beside the receipts: it is what they are worth without the server.",
		Example: "  granary receipt key > receipts.pem",
		Args:    cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, s *session, out *output, _ []string) error {
			res, err := call(ctx, s, s.erasure.GetReceiptKey, &granaryv1.GetReceiptKeyRequest{})
			if err != nil {
				return err
			}
			if out.json {
				return out.message(res)
			}
			return out.printf("%s", res.GetPublicKey())
		}),
	}
}

func (a *app) receiptVerify() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "verify FILE",
		Short:   "Check a receipt, without a server",
		Long:    "Checks the signature of a receipt (FILE, or - for standard input) and prints what it says.",
		Example: "  granary receipt verify receipt.json --public-key receipts.pem",
		Args:    exactArgs("FILE"),
	}
	keyFile := cmd.Flags().String("public-key", "", "file with the server's public key (PEM)")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		out, err := a.output()
		if err != nil {
			return err
		}
		if *keyFile == "" {
			return usagef("--public-key is needed")
		}
		key, err := readPublicKey(*keyFile)
		if err != nil {
			return &failure{message: "cannot read the public key: " + err.Error(), cause: err}
		}
		data, err := a.readReceipt(args[0])
		if err != nil {
			return &failure{message: "cannot read the receipt: " + err.Error(), cause: err}
		}
		r, err := kb.VerifyReceipt(data, key)
		if err != nil {
			return &failure{message: "the receipt is not valid: " + err.Error(), cause: err}
		}
		return out.receipt(r)
	}
	return cmd
}

// maxReceiptFile bounds what is read as a receipt, in bytes.
const maxReceiptFile = 1 << 20

func (a *app) readReceipt(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(a.env.Stdin, maxReceiptFile))
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxReceiptFile))
}

func readPublicKey(path string) (ed25519.PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM block", path)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%s is not an Ed25519 key", path)
	}
	return key, nil
}

// receipt prints what a receipt says.
func (o *output) receipt(r kb.Receipt) error {
	key := "no"
	if r.KeyDestroyed {
		key = "yes"
	}
	return o.pairs(nil, [][2]string{
		{"signature", "good"},
		{"receipt", r.Name},
		{"erased", r.Target},
		{"uid", r.UID},
		{"tenant", r.Tenant},
		{"requested by", r.RequestedBy},
		{"requested", r.RequestTime.UTC().Format("2006-01-02T15:04:05Z")},
		{"completed", r.CompleteTime.UTC().Format("2006-01-02T15:04:05Z")},
		{"reason", r.Reason},
		{"documents", fmt.Sprint(r.Counts.Documents)},
		{"chunks", fmt.Sprint(r.Counts.Chunks)},
		{"vectors", fmt.Sprint(r.Counts.Vectors)},
		{"sources", fmt.Sprint(r.Counts.Blobs)},
		{"journal entries", fmt.Sprint(r.Counts.Events)},
		{"chunks in memory", fmt.Sprint(r.Counts.CachedChunks)},
		{"key destroyed", key},
		{"node", r.Node},
	})
}
