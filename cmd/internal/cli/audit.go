package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"granary.dev/granary/actors/journal/trail"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func (a *app) auditCommand() *cobra.Command {
	cmd := a.client(a.group(&cobra.Command{
		Use:   "audit",
		Short: "Show, export and verify who did what",
		Long: "Every call and every change is recorded, tamper-evident: records are chained, and signed checkpoints\n" +
			"say how far all chains had come. It takes a token of a tenant's admin; with --tenant one of an operator\n" +
			"($GRANARY_OPERATOR_TOKEN, DATA/" + DevOperatorTokenFile + "), who sees no data of events.",
		Example: `  granary audit list --since 24h --principal ci
  granary audit verify
  granary audit export > audit.jsonl
  granary audit key > audit-key.pem
  granary audit verify --from-export audit.jsonl --public-key audit-key.pem`,
	}))
	cmd.AddCommand(a.auditList(), a.auditVerify(), a.auditExport(), a.auditCheckpoint(), a.auditKey())
	return cmd
}

// auditScope is whose audit a command is about.
type auditScope struct {
	tenant string
	given  bool
	life   *timestamppb.Timestamp // of a later tenant of the name
}

// audited adds --tenant to a command, and picks the credential by it.
func (a *app) audited(cmd *cobra.Command, body func(ctx context.Context, s *session, out *output, of auditScope) error) *cobra.Command {
	tenant := cmd.Flags().String("tenant", "", "as an operator: the `tenant`; \"\" is calls of nobody known, and operators' own")
	life := cmd.Flags().String("life", "", "with --tenant: a later tenant of the name, by the `time` the one before was erased; verify and list name them")
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(c *cobra.Command, args []string) error {
		of := auditScope{tenant: *tenant, given: c.Flags().Changed("tenant")}
		if *life != "" {
			at, err := time.Parse(time.RFC3339Nano, *life)
			if err != nil || !of.given {
				return usagef("--life takes a time as list and verify print it, and needs --tenant")
			}
			of.life = timestamppb.New(at)
		}
		from := tenantCredential()
		if of.given {
			from = operatorCredential()
		}
		return a.runWith(from, func(ctx context.Context, s *session, out *output, _ []string) error { return body(ctx, s, out, of) })(c, args)
	}
	return cmd
}

func (a *app) auditList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List calls: who, what, when, from where, what came of it",
		Long:  "Lists calls by time. A record is in the list some seconds after the call.",
		Example: `  granary audit list --since 1h
  granary audit list --method granary.v1.DocumentService/DeleteDocument --json | jq -r '.events[].principal'`,
	}
	since := cmd.Flags().Duration("since", time.Hour, "how far back; 0: from the start")
	principal := cmd.Flags().String("principal", "", "only calls of this `subject`")
	method := cmd.Flags().String("method", "", "only calls of this `method`, as package.Service/Method")
	limit := cmd.Flags().Int("limit", 1000, "at most so many")
	return a.audited(cmd, func(ctx context.Context, s *session, out *output, of auditScope) error {
		if *since < 0 || *limit <= 0 {
			return usagef("--since must not be below 0, and --limit above it")
		}
		f := &granaryv1.AuditFilter{Principal: *principal, Method: *method}
		if *since > 0 {
			f.From = timestamppb.New(time.Now().Add(-*since))
		}
		all, err := s.auditEvents(ctx, of, f, *limit)
		if err != nil {
			return err
		}
		if out.json {
			return out.message(all)
		}
		if err := out.auditEvents(all.GetEvents()); err != nil {
			return err
		}
		for _, at := range all.GetLaterLives() {
			out.notef("a later tenant of the name: --life %s", lifeText(at))
		}
		return nil
	})
}

// auditEvents reads up to limit records.
func (s *session) auditEvents(ctx context.Context, of auditScope, f *granaryv1.AuditFilter, limit int) (*granaryv1.ListAuditEventsResponse, error) {
	all := &granaryv1.ListAuditEventsResponse{}
	for token := ""; ; {
		size := int32(min(listPage, limit-len(all.Events)))
		var page *granaryv1.ListAuditEventsResponse
		var err error
		if of.given {
			page, err = call(ctx, s, s.audits.ListTenantAuditEvents,
				&granaryv1.ListTenantAuditEventsRequest{Tenant: of.tenant, Life: of.life, Filter: f, PageSize: size, PageToken: token})
		} else {
			page, err = call(ctx, s, s.audit.ListAuditEvents, &granaryv1.ListAuditEventsRequest{Filter: f, PageSize: size, PageToken: token})
		}
		if err != nil {
			return nil, err
		}
		all.Events, all.LaterLives = append(all.Events, page.GetEvents()...), page.GetLaterLives()
		if token = page.GetNextPageToken(); token == "" || len(all.Events) >= limit {
			return all, nil
		}
	}
}

func (o *output) auditEvents(list []*granaryv1.AuditEvent) error {
	if len(list) == 0 {
		o.notef("there are no records")
		return nil
	}
	var rows [][]cell
	for _, e := range list {
		code := cell{e.GetCode(), green}
		if e.GetCode() != "ok" && e.GetCode() != "not_modified" {
			code = cell{strings.TrimSpace(e.GetCode() + " " + e.GetReason()), red}
		}
		what := strings.TrimPrefix(e.GetMethod(), "granary.v1.")
		if e.GetPhase() != "" {
			what += " (" + e.GetPhase() + ")"
		}
		if e.GetCount() > 1 {
			what += fmt.Sprintf(" × %d", e.GetCount())
		}
		row := cells(stamp(e.GetTime()), dash(e.GetPrincipal()), dash(e.GetRemoteAddress()), strings.TrimSpace(what), dash(e.GetResource()))
		rows = append(rows, append(row, code))
	}
	return o.aligned([]string{"TIME", "WHO", "FROM", "WHAT", "RESOURCE", "OUTCOME"}, rows, 0)
}

func (a *app) auditExport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the whole audit to standard output, as lines of JSON",
		Long: "Writes checkpoints, journals and accesses, one JSON object a line. granary audit verify --from-export\n" +
			"proves it anywhere, without a server. An operator's export has hashes instead of the data of events.",
		Example: `  granary audit export > audit.jsonl
  granary audit export --tenant acme > acme.jsonl`,
	}
	return a.audited(cmd, func(ctx context.Context, s *session, out *output, of auditScope) error {
		stream, err := s.exportAudit(ctx, of)
		if err != nil {
			return err
		}
		for stream.next() {
			if _, err := out.out.Write(stream.message().GetLines()); err != nil {
				return err
			}
		}
		return stream.err()
	})
}

// problemsError ends a verification that found something.
type problemsError struct{ n int }

// Error implements error.
func (e problemsError) Error() string { return fmt.Sprintf("the audit is not whole: %d problems", e.n) }

func (a *app) auditVerify() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that the audit is whole, or name what is wrong first",
		Long: "Verifies all chains against each other and against the signed checkpoints: on the server, or with\n" +
			"--from-export here, without one. Exit code 1 when something is wrong.\n\n" +
			"A database that was set back as a whole looks whole. Keep number and hash of the last checkpoint\n" +
			"elsewhere, and give them with --expect.",
		Example: `  granary audit verify
  granary audit verify --tenant acme --expect 42:9f3c…
  granary audit verify --from-export audit.jsonl --public-key audit-key.pem`,
	}
	file := cmd.Flags().String("from-export", "", "verify this `file` of granary audit export, without a server")
	keys := cmd.Flags().String("public-key", "", "`file` with the public keys (PEM) the checkpoints must be signed with")
	expect := cmd.Flags().String("expect", "", "`number:hash` of a checkpoint known from before")
	online := a.audited(cmd, func(ctx context.Context, s *session, out *output, of auditScope) error {
		r, err := s.verifyAudit(ctx, of, func(items int64) { out.notef("%d rows are verified", items) })
		if err != nil {
			return err
		}
		if *expect != "" {
			return usagef("--expect needs --from-export: a server cannot prove what it had")
		}
		return out.auditReport(r)
	})
	run := online.RunE
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if *file == "" {
			return run(c, args)
		}
		if *keys == "" {
			return usagef("--from-export needs --public-key: keys from the export itself prove nothing")
		}
		out, err := a.output()
		if err != nil {
			return err
		}
		return out.verifyFile(*file, *keys, *expect)
	}
	return cmd
}

// verifyFile verifies an export where it lies.
func (o *output) verifyFile(file, keyFile, expect string) error {
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return &failure{message: "cannot read the public key: " + err.Error(), cause: err}
	}
	keys, err := trail.ParsePublicKeys(text)
	if err != nil {
		return &failure{message: keyFile + ": " + err.Error(), cause: err}
	}
	f, err := os.Open(file)
	if err != nil {
		return &failure{message: "cannot read the export: " + err.Error(), cause: err}
	}
	v, err := trail.Read(f, keys)
	if err = errors.Join(err, f.Close()); err != nil {
		return &failure{message: file + ": " + err.Error(), cause: err}
	}
	if expect != "" {
		v.Expect(expect)
	}
	r := &granaryv1.AuditReport{MoreProblems: v.More, Journals: v.Journals, Events: v.Events, UnchainedEvents: v.Unchained, Streams: v.Streams,
		Accesses: v.Accesses, Checkpoints: v.Checkpoints, Uncovered: v.Uncovered, LastCheckpoint: v.Last, LastCheckpointHash: v.LastHash}
	if v.Last > 0 {
		r.LastCheckpointTime = timestamppb.New(v.LastTime)
	}
	if r.Retired, r.FirstCheckpoint = v.Retired, v.First; v.First > 0 {
		r.FirstCheckpointTime = timestamppb.New(v.FirstTime)
	}
	for _, p := range v.Problems {
		r.Problems = append(r.Problems, &granaryv1.AuditProblem{Chain: p.Chain, Sequence: p.Seq, What: p.What})
	}
	for _, e := range v.Erased {
		r.Erasures = append(r.Erasures, &granaryv1.AuditErasure{Chain: e.Chain, Sequence: e.Seq})
	}
	return o.auditReport(r)
}

// auditReport prints what was found; an error when something is wrong.
func (o *output) auditReport(r *granaryv1.AuditReport) error {
	var err error
	if o.json {
		err = o.message(r)
	} else {
		err = o.auditReportText(r)
	}
	if n := len(r.GetProblems()) + int(r.GetMoreProblems()); err == nil && n > 0 {
		return problemsError{n}
	}
	return err
}

func (o *output) auditReportText(r *granaryv1.AuditReport) error {
	for _, p := range r.GetProblems() {
		if err := o.printf("%s\n", o.paint(red, oneLine(fmt.Sprintf("%s %d: %s", p.GetChain(), p.GetSequence(), p.GetWhat())))); err != nil {
			return err
		}
	}
	if len(r.GetProblems()) == 0 {
		if err := o.printf("%s\n", o.paint(green, "the audit is whole")); err != nil {
			return err
		}
	}
	last := "-"
	if r.GetLastCheckpoint() > 0 {
		last = fmt.Sprintf("%d:%x of %s", r.GetLastCheckpoint(), r.GetLastCheckpointHash(), stamp(r.GetLastCheckpointTime()))
	}
	pairs := [][2]string{
		{"journals", fmt.Sprint(r.GetJournals())}, {"events", fmt.Sprint(r.GetEvents())}, {"streams of calls", fmt.Sprint(r.GetStreams())},
		{"calls", fmt.Sprint(r.GetAccesses())}, {"checkpoints", fmt.Sprint(r.GetCheckpoints())},
		{"after the last checkpoint", fmt.Sprint(r.GetUncovered())}, {"last checkpoint", last},
	}
	if r.GetUnchainedEvents() > 0 {
		pairs = append(pairs, [2]string{"events of before chains", fmt.Sprint(r.GetUnchainedEvents())})
	}
	if r.GetRetired() > 0 || r.GetFirstCheckpoint() > 1 {
		pairs = append(pairs, [2]string{"retired calls", fmt.Sprint(r.GetRetired())},
			[2]string{"proved from checkpoint", fmt.Sprintf("%d of %s", r.GetFirstCheckpoint(), stamp(r.GetFirstCheckpointTime()))})
	}
	for _, at := range r.GetLaterLives() {
		pairs = append(pairs, [2]string{"later tenant of the name", "--life " + lifeText(at)})
	}
	for _, e := range r.GetErasures() {
		pairs = append(pairs, [2]string{"erased", fmt.Sprintf("%s up to %d", e.GetChain(), e.GetSequence())})
	}
	return o.pairs(nil, pairs)
}

// lifeText is a life as --life takes it.
func lifeText(at *timestamppb.Timestamp) string { return at.AsTime().Format(time.RFC3339Nano) }

func (a *app) auditCheckpoint() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Sign a checkpoint now, if anything changed since the last",
		Long:  "Prints number:hash of the last checkpoint. Kept elsewhere, it shows later that the store was not set back.",
		Example: `  granary audit checkpoint
  granary audit checkpoint --tenant acme --json`,
	}
	return a.audited(cmd, func(ctx context.Context, s *session, out *output, of auditScope) error {
		c, err := s.checkpoint(ctx, of)
		if err != nil {
			return err
		}
		if out.json {
			return out.message(c)
		}
		return out.printf("%d:%x\n", c.GetNumber(), c.GetHash())
	})
}

func (a *app) auditKey() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "key",
		Short:   "Print the public keys that checkpoints are verified with",
		Example: "  granary audit key > audit-key.pem",
	}
	return a.audited(cmd, func(ctx context.Context, s *session, out *output, of auditScope) error {
		c, err := s.checkpoint(ctx, of)
		if err != nil {
			return err
		}
		return out.printf("%s", c.GetPublicKeys())
	})
}
