package cli

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	partsFolder  = "knowledge_bases/"
	tenantEntry  = "tenant.json"
	maxTenant    = 1 << 20
	zstdWindow   = 64 << 20
	tenantPieces = 512 << 10
)

// errTenantArchive tells a file that tenant export did not write, or not whole.
var errTenantArchive = errors.New("not an archive of a tenant")

// tenantParts reads an archive of a tenant once, front to back: what it says of the
// tenant, and then each knowledge base as an archive of its own.
func tenantParts(from io.Reader, tenant func(*granaryv1.Tenant) error, part func(id string, archive io.Reader) error) error {
	in := bufio.NewReaderSize(from, tenantPieces)
	var plain io.Reader = in
	if magic, _ := in.Peek(4); bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		z, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return fmt.Errorf("%w: %w", errTenantArchive, err)
		}
		defer z.Close()
		plain = z
	}
	t := tar.NewReader(plain)
	h, err := t.Next()
	if err != nil || h.Name != tenantEntry {
		return fmt.Errorf("%w: it does not begin with %s", errTenantArchive, tenantEntry)
	}
	raw, err := io.ReadAll(io.LimitReader(t, maxTenant))
	if err != nil {
		return fmt.Errorf("%w: %w", errTenantArchive, err)
	}
	var about granaryv1.Tenant
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, &about); err != nil {
		return fmt.Errorf("%w: %s cannot be read", errTenantArchive, tenantEntry)
	}
	if err := tenant(&about); err != nil {
		return err
	}
	h, err = t.Next()
	for err == nil && h.Name != "manifest.json" {
		id, _, ok := strings.Cut(strings.TrimPrefix(h.Name, partsFolder), "/")
		if !ok || !strings.HasPrefix(h.Name, partsFolder) || id == "" {
			return fmt.Errorf("%w: unexpected entry %q", errTenantArchive, h.Name)
		}
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			err := part(id, r)
			_ = r.CloseWithError(err) // whoever writes on hears why nobody reads
			done <- err
		}()
		var copied error
		h, copied = copyPart(t, h, id, w)
		_ = w.CloseWithError(copied)
		if err := <-done; err != nil {
			return err
		}
		if err = copied; errors.Is(copied, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		return fmt.Errorf("%w: it is cut off: %w", errTenantArchive, err)
	}
	return nil
}

// copyPart writes the entries of one knowledge base, from h on, and gives the header
// of the first entry behind them.
func copyPart(from *tar.Reader, h *tar.Header, id string, to io.Writer) (*tar.Header, error) {
	out := tar.NewWriter(to)
	for {
		name, ok := strings.CutPrefix(h.Name, partsFolder+id+"/")
		if !ok {
			return h, out.Close()
		}
		own := *h
		own.Name = name
		if err := out.WriteHeader(&own); err != nil {
			return nil, err
		}
		if _, err := io.Copy(out, from); err != nil { //nolint:gosec // streamed; the server bounds it
			return nil, err
		}
		var err error
		if h, err = from.Next(); err != nil {
			return nil, err
		}
	}
}

func (a *app) tenantImport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Make the knowledge bases of a tenant's archive from standard input",
		Long: "Makes the knowledge bases of an archive that tenant export wrote, of this server or another, under their ids,\n" +
			"and sets the tenant's default configuration. One that exists is an error; those before it stay. The same\n" +
			"--request-id goes on with an import that was cut off.",
		Example: "  granary tenant import < tenant.tar.zst",
		Args:    cobra.NoArgs,
	}
	request := cmd.Flags().String("request-id", "", "makes a retry safe (default: a new one)")
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, _ []string) error {
		request := *request
		if request == "" {
			request = requestID()
		}
		return tenantParts(a.env.Stdin, func(t *granaryv1.Tenant) error {
			if t.GetConfigVersion() == 0 {
				return nil
			}
			_, err := s.tenants.UpdateTenantConfig(ctx, &granaryv1.UpdateTenantConfigRequest{DefaultConfig: t.GetDefaultConfig()})
			return err
		}, func(id string, archive io.Reader) error {
			res, err := sendArchive(ctx, s, archive, &granaryv1.ImportSpec{KnowledgeBaseId: id, RequestId: request + "-" + id})
			if err != nil {
				return err
			}
			return out.printf("%s: imported %d documents, %s of sources\n", id, res.GetDocuments(), o2bytes(out, res.GetSourceBytes()))
		})
	})
	return cmd
}
