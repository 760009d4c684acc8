package cli

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// importPiece is the size of one message of an import, in bytes.
const importPiece = 512 << 10

// compressionFlag gives cmd the flag of exports.
func compressionFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("compression", "zstd", "zstd or none")
}

func compressionOf(text string) (granaryv1.Compression, error) {
	n, err := parseEnum(granaryv1.Compression(0).Descriptor(), text)
	if err != nil {
		return 0, usagef("--compression: %s", err)
	}
	return granaryv1.Compression(n), nil
}

// receiveArchive writes what a stream brings. A stream that breaks off is an error:
// what was written is not an archive then.
func receiveArchive(to io.Writer, receive func() ([]byte, error)) error {
	for {
		data, err := receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := to.Write(data); err != nil {
			return err
		}
	}
}

func (a *app) kbExport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export NAME",
		Short: "Write an archive of a knowledge base to standard output",
		Long: "Writes an archive, a tar file with sources and documents, of the knowledge base as it is now. Writes that\n" +
			"come meanwhile are not in it. When the command fails, what it has written is no archive: begin anew.",
		Example: "  granary kb export handbook > handbook.tar.zst",
		Args:    exactArgs("NAME"),
	}
	compression := compressionFlag(cmd)
	cmd.RunE = a.run(func(ctx context.Context, s *session, _ *output, args []string) error {
		c, err := compressionOf(*compression)
		if err != nil {
			return err
		}
		stream, err := s.archive.ExportKnowledgeBase(ctx, &granaryv1.ExportKnowledgeBaseRequest{Name: kbName(args[0]), Compression: c})
		if err != nil {
			return err
		}
		defer func() { _ = stream.Close() }()
		return receiveArchive(a.env.Stdout, func() ([]byte, error) {
			msg, err := stream.Receive()
			return msg.GetData(), err
		})
	})
	return cmd
}

func (a *app) tenantExport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write an archive of everything your tenant has to standard output",
		Long: "Writes an archive with the tenant's settings, workspaces, role bindings and all of its knowledge bases. It holds no\n" +
			"secrets: of API keys it says that they are there, and import makes none.",
		Example: "  granary tenant export > tenant.tar.zst",
		Args:    cobra.NoArgs,
	}
	compression := compressionFlag(cmd)
	cmd.RunE = a.run(func(ctx context.Context, s *session, _ *output, _ []string) error {
		c, err := compressionOf(*compression)
		if err != nil {
			return err
		}
		stream, err := s.archive.ExportTenant(ctx, &granaryv1.ExportTenantRequest{Compression: c})
		if err != nil {
			return err
		}
		defer func() { _ = stream.Close() }()
		return receiveArchive(a.env.Stdout, func() ([]byte, error) {
			msg, err := stream.Receive()
			return msg.GetData(), err
		})
	})
	return cmd
}

func (a *app) kbImport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import NAME",
		Short: "Make a knowledge base of an archive from standard input",
		Long: "Makes a new knowledge base of an archive that kb export wrote, of this server or another. Documents are\n" +
			"processed again, under the limits of your tenant. When it fails nothing is left; the same --request-id goes\n" +
			"on with an import that was cut off.",
		Example: "  granary kb import handbook-copy < handbook.tar.zst",
		Args:    exactArgs("NAME"),
	}
	check := cmd.Flags().Bool("validate-only", false, "check the archive and change nothing")
	request := cmd.Flags().String("request-id", "", "makes a retry safe (default: a new one)")
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, args []string) error {
		id := *request
		if id == "" {
			id = requestID()
		}
		res, err := sendArchive(ctx, s, a.env.Stdin, &granaryv1.ImportSpec{KnowledgeBaseId: strings.TrimPrefix(args[0], kbPrefix),
			ValidateOnly: *check, RequestId: id})
		if err != nil {
			return err
		}
		if out.json {
			return out.message(res)
		}
		verb := "imported"
		if *check {
			verb = "the archive is good:"
		}
		if err := out.printf("%s %d documents, %s of sources", verb, res.GetDocuments(), o2bytes(out, res.GetSourceBytes())); err != nil {
			return err
		}
		if n := res.GetExpiredDocuments(); n > 0 {
			if err := out.printf("; %d whose time is over were left out", n); err != nil {
				return err
			}
		}
		return out.printf("\n")
	})
	return cmd
}

// o2bytes prints a size with its unit.
func o2bytes(out *output, n int64) string {
	text := out.bytesText(n)
	if strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' }) < 0 {
		text += " bytes"
	}
	return text
}

func sendArchive(ctx context.Context, s *session, from io.Reader, spec *granaryv1.ImportSpec) (*granaryv1.ImportKnowledgeBaseResponse, error) {
	stream, err := s.archive.ImportKnowledgeBase(ctx)
	if err != nil {
		return nil, err
	}
	err = stream.Send(&granaryv1.ImportKnowledgeBaseRequest{Part: &granaryv1.ImportKnowledgeBaseRequest_Spec{Spec: spec}})
	if err := sendPieces(from, err, func(data []byte) error {
		return stream.Send(&granaryv1.ImportKnowledgeBaseRequest{Part: &granaryv1.ImportKnowledgeBaseRequest_Data{Data: data}})
	}); err != nil {
		return nil, err
	}
	return stream.CloseAndReceive()
}

// sendPieces sends what it reads, unless the spec before it could not be sent. A server
// that takes no more has answered, and the answer says why.
func sendPieces(from io.Reader, err error, send func([]byte) error) error {
	buf := make([]byte, importPiece)
	for err == nil {
		var n int
		n, err = io.ReadFull(from, buf)
		if n > 0 && send(buf[:n]) != nil {
			err = io.EOF
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
