package cli

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// watchHeartbeat is how often an idle server is asked to say that it is there.
const watchHeartbeat = 15 * time.Second

func (a *app) watchCommand() *cobra.Command {
	cmd := a.client(&cobra.Command{
		Use:   "watch KB",
		Short: "Follow what happens in a knowledge base",
		Long: "Prints each event of a knowledge base, without gaps, and the progress of processing, until you\n" +
			"press ^C. A lost connection is taken up after the last event. With --json each message is one\n" +
			"object; the resumeToken of any of them is good for --resume.",
		Example: `  granary watch handbook
  granary watch handbook --from-start --no-progress
  granary watch handbook --json --resume "$TOKEN" | jq .event.type`,
		Args: exactArgs("KB"),
	})
	fromStart := cmd.Flags().Bool("from-start", false, "begin with the first event there ever was")
	resume := cmd.Flags().String("resume", "", "begin after the message with this `token`")
	noProgress := cmd.Flags().Bool("no-progress", false, "leave out progress, print events only")
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, args []string) error {
		if *fromStart && *resume != "" {
			return usagef("--from-start and --resume exclude each other")
		}
		f := &follower{
			session: s,
			request: &granaryv1.WatchEventsRequest{
				KnowledgeBase: kbName(args[0]), FromStart: *fromStart, ResumeToken: *resume, IncludeProgress: !*noProgress,
			},
			heartbeat: watchHeartbeat,
			handle:    out.watched,
			lost:      func(why string) { out.notef("%s", why) },
		}
		if err := f.run(ctx); ctx.Err() == nil {
			return err
		}
		return nil // ^C is how a watch ends
	})
	return cmd
}

// watched prints one message of a watch. Heartbeats are for the connection only.
func (o *output) watched(msg *granaryv1.WatchEventsResponse) error {
	if msg.GetHeartbeat() != nil {
		return nil
	}
	if o.json {
		return o.message(msg)
	}
	if e := msg.GetEvent(); e != nil {
		return o.event(e)
	}
	p := msg.GetProgress()
	if p == nil {
		return nil // from a newer server
	}
	line := fmt.Sprintf("%-20s  %6s  %-20s  %s  v%d  %s  %3.0f%%", "", "", "progress", shortDoc(p.GetDocument()), p.GetVersion(),
		stateText(p.GetState()), p.GetFraction()*100)
	if p.GetRetryTime() != nil {
		line += "  next try " + stamp(p.GetRetryTime())
	}
	if w := waitText(p.GetWaitReason(), p.GetWaitUntil()); w != "" {
		line += "  waits: " + w
	}
	return o.printf("%s\n", o.paint(dim, oneLineKeepingGaps(line)))
}

// event prints an entry of the journal in one line.
func (o *output) event(e *granaryv1.Event) error {
	parts := []string{
		o.paint(dim, fmt.Sprintf("%-20s", stamp(e.GetTime()))),
		fmt.Sprintf("%6d", e.GetRevision()),
		o.paint(bold, fmt.Sprintf("%-20s", oneLine(e.GetType()))),
	}
	if e.GetDocument() != "" {
		parts = append(parts, oneLine(shortDoc(e.GetDocument())), fmt.Sprintf("v%d", e.GetVersion()))
	}
	if e.GetState() != granaryv1.DocumentState_DOCUMENT_STATE_UNSPECIFIED {
		parts = append(parts, o.paint(stateStyle(e.GetState()), stateText(e.GetState())))
	}
	if e.GetError() != nil {
		parts = append(parts, o.paint(red, oneLine(errorText(e.GetError()))))
	}
	details := make([]string, 0, len(e.GetDetails()))
	for k, v := range e.GetDetails() {
		details = append(details, oneLine(k+"="+v))
	}
	sort.Strings(details)
	parts = append(parts, details...)
	return o.printf("%s\n", strings.TrimRight(strings.Join(parts, "  "), " "))
}

// oneLineKeepingGaps drops control characters and line feeds, and keeps columns.
func oneLineKeepingGaps(text string) string {
	return strings.NewReplacer("\n", " ", "\t", " ").Replace(sanitize(text))
}
