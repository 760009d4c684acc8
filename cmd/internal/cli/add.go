package cli

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// addOptions are the flags of doc add.
type addOptions struct {
	wait        bool
	id          string
	name        string
	mediaType   string
	meta        []string
	onDuplicate string
	noRecursive bool
	concurrency int
	ttl         string
	expires     string
}

func (a *app) docAdd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add KB SOURCE...",
		Short: "Add files, folders, web pages or standard input",
		Long: `Adds documents. SOURCE is a file, a folder, a glob, an http(s) URL or - for standard input.

Of a folder, everything is added but hidden files and folders, node_modules, symbolic links and
files that hold no text by their extension. Documents are named by their path in the folder and
keep their id: adding an edited file again makes it the next version of its document, adding an
unchanged one changes nothing.

One source that fails does not stop the others. Without --wait the command ends when all are
durably queued; with it, when all are processed. --json prints each answer of the server as one
object, and with --wait the event that ended each document.`,
		Example: `  granary doc add handbook ./docs --wait
  granary doc add handbook leave.md travel.pdf --meta team=people --meta year=2027
  granary doc add handbook https://example.com/policy.html
  pandoc notes.odt -t markdown | granary doc add handbook - --name notes.md --id notes`,
		Args: minArgs("KB", "SOURCE"),
	}
	var o addOptions
	f := cmd.Flags()
	f.BoolVar(&o.wait, "wait", false, "wait until all documents are processed; fail if one failed")
	f.StringVar(&o.id, "id", "", "document id, for a single source")
	f.StringVar(&o.name, "name", "", "display name, for a single source")
	f.StringVar(&o.mediaType, "type", "", "media type (default: told from name and content)")
	f.StringArrayVar(&o.meta, "meta", nil, "metadata for filters, `key=value`; may be repeated")
	f.StringVar(&o.onDuplicate, "on-duplicate", "return", "when the same bytes are there: return, new-version or fail")
	f.BoolVar(&o.noRecursive, "no-recursive", false, "leave out folders inside folders")
	f.IntVar(&o.concurrency, "concurrency", 4, "sources sent at the same time")
	f.StringVar(&o.ttl, "ttl", "", "erase the documents after this time, e.g. 30d or 12h")
	f.StringVar(&o.expires, "expires", "", "erase the documents at this `time` (RFC 3339)")
	cmd.RunE = a.run(func(ctx context.Context, s *session, out *output, args []string) error {
		template, err := o.spec(args[0])
		if err != nil {
			return err
		}
		sources, err := o.sources(ctx, a, args[1:])
		if err != nil {
			return err
		}
		ad := &adder{session: s, options: o, template: template, kb: kbName(args[0]), show: newDisplay(out)}
		return ad.run(ctx, sources)
	})
	return cmd
}

// spec is what all documents of one command have in common.
func (o *addOptions) spec(kb string) (*granaryv1.DocumentSpec, error) {
	if o.concurrency < 1 || o.concurrency > 64 {
		return nil, usagef("--concurrency must be 1 to 64")
	}
	n, err := parseEnum(granaryv1.OnDuplicate(0).Descriptor(), o.onDuplicate)
	if err != nil {
		return nil, usagef("--on-duplicate: %s", err)
	}
	spec := &granaryv1.DocumentSpec{
		KnowledgeBase: kbName(kb), MediaType: o.mediaType, OnDuplicate: granaryv1.OnDuplicate(n), Metadata: map[string]string{},
	}
	for _, m := range o.meta {
		key, value, ok := strings.Cut(m, "=")
		if !ok || key == "" {
			return nil, usagef("--meta %s: want key=value", m)
		}
		spec.Metadata[key] = value
	}
	return spec, o.expire(spec)
}

// sources finds what to add, and says what it leaves out.
func (o *addOptions) sources(ctx context.Context, a *app, args []string) ([]source, error) {
	stdins := 0
	for _, arg := range args {
		if arg == "-" {
			stdins++
		}
	}
	if stdins > 1 {
		return nil, usagef("standard input can be read once only")
	}
	if (o.id != "" || o.name != "") && len(args) > 1 {
		return nil, usagef("--id and --name are for a single source")
	}
	set := expand(args, func() ([]byte, error) {
		return interruptible(ctx, func() ([]byte, error) { return readStdin(a.env.Stdin) })
	}, !o.noRecursive)
	if set.hidden+set.unsupported > 0 {
		_, _ = fmt.Fprintf(a.env.Stderr, "skipped %d hidden, %d of unsupported types\n", set.hidden, set.unsupported)
	}
	if len(set.list) == 0 {
		return nil, &failure{message: "there is nothing to add in " + strings.Join(args, ", ")}
	}
	if o.id != "" || o.name != "" {
		if len(set.list) > 1 {
			return nil, usagef("--id and --name are for a single source, %s has %d", args[0], len(set.list))
		}
		set.list[0].id = firstOf(o.id, set.list[0].id)
		set.list[0].name = firstOf(o.name, set.list[0].name)
	}
	return set.list, nil
}

// adder adds sources with some at a time.
type adder struct {
	session  *session
	options  addOptions
	template *granaryv1.DocumentSpec
	kb       string
	show     *display

	mu                                sync.Mutex
	added, changed, unchanged, failed int
	fatal                             error // what no source can succeed after
}

func (ad *adder) run(ctx context.Context, sources []source) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var waiting *waiter
	if ad.options.wait {
		waiting = newWaiter(ad.session, ad.kb, ad.show)
		// Events are followed from before the first document on, so that none is missed.
		waiting.start(ctx)
		defer waiting.stop()
	}
	ad.show.total(len(sources), ad.options.wait)
	ad.sendAll(ctx, sources, waiting)
	err := ad.fatal
	if waiting != nil && ctx.Err() == nil && err == nil {
		err = waiting.wait(ctx)
	}
	ad.show.close()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if ad.fatal == nil || ad.added+ad.changed+ad.unchanged > 0 {
		ad.summary(waiting)
	}
	switch {
	case err != nil:
		return err
	case ad.failed > 0:
		return &failure{message: fmt.Sprintf("%d of %d sources were not added", ad.failed, len(sources))}
	case waiting != nil && waiting.failed > 0:
		return &failure{message: fmt.Sprintf("%d of %d documents were not processed", waiting.failed, len(sources))}
	}
	return nil
}

// sendAll sends the sources until there are no more or one met what all others
// would meet too.
func (ad *adder) sendAll(ctx context.Context, sources []source, waiting *waiter) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	work := make(chan source)
	var workers sync.WaitGroup
	for range min(ad.options.concurrency, len(sources)) {
		workers.Go(func() {
			for src := range work {
				if !ad.send(ctx, src, waiting) {
					cancel()
				}
			}
		})
	}
	for _, src := range sources {
		select {
		case work <- src:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(work)
	workers.Wait()
}

// send adds one source and reports what became of it. It answers false when
// there is no sense in sending others.
func (ad *adder) send(ctx context.Context, src source, waiting *waiter) bool {
	spec := &granaryv1.DocumentSpec{
		KnowledgeBase: ad.template.GetKnowledgeBase(),
		DocumentId:    src.id,
		DisplayName:   tail(src.name, maxDisplayName),
		MediaType:     ad.template.GetMediaType(),
		Metadata:      ad.template.GetMetadata(),
		OnDuplicate:   ad.template.GetOnDuplicate(),
		Expiration:    ad.template.GetExpiration(),
		RequestId:     requestID(),
	}
	added, err := ad.session.add(ctx, spec, src)
	if err != nil {
		if ctx.Err() != nil {
			return false
		}
		if ad.session.hopeless(err) {
			ad.mu.Lock()
			defer ad.mu.Unlock()
			ad.fatal = err
			return false
		}
		ad.count(&ad.failed)
		ad.show.failed(src.name, ad.session.explain(ctx, err))
		return true
	}
	verb := "added"
	switch {
	case added.duplicate:
		verb = "unchanged"
		ad.count(&ad.unchanged)
	case added.document.GetVersion() > 1:
		verb = "new version"
		ad.count(&ad.changed)
	default:
		ad.count(&ad.added)
	}
	ad.show.accepted(verb, src.name, added)
	if waiting != nil {
		waiting.expect(src.name, added.document)
	}
	return true
}

func (ad *adder) count(n *int) {
	ad.mu.Lock()
	defer ad.mu.Unlock()
	*n++
}

// summary says on standard error how it went.
func (ad *adder) summary(waiting *waiter) {
	text := fmt.Sprintf("%d added, %d new versions, %d unchanged, %d failed", ad.added, ad.changed, ad.unchanged, ad.failed)
	if waiting != nil {
		text += fmt.Sprintf("; %d processed, %d not", waiting.ready, waiting.failed)
	}
	ad.show.out.notef("%s", text)
}

// maxDisplayName is the longest display name the API takes, in characters.
const maxDisplayName = 1024

// tail is the last n characters of text.
func tail(text string, n int) string {
	runes := []rune(text)
	if len(runes) <= n {
		return text
	}
	return string(runes[len(runes)-n:])
}
