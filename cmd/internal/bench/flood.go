package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	"granary.dev/granary/gateway/auth"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// floodFlags are those of bench flood.
type floodFlags struct {
	granary string
	english bool
	conns   int
	docs    int // of the tenant that floods
	singles int // of the other, one after another, in each phase
}

// flood measures fairness on the real program: how long a tenant waits for a single
// document while another has thousands waiting, beside the same on an idle server.
// The limits of tiers are off, since they would hold the flood back.
func flood(ctx context.Context, args []string) (err error) {
	var f floodFlags
	fs := flag.NewFlagSet("flood", flag.ContinueOnError)
	fs.StringVar(&f.granary, "granary", "bin/granary", "the program")
	fs.IntVar(&f.docs, "docs", 10_000, "documents of 4 KB that one tenant adds")
	fs.IntVar(&f.conns, "connections", 8, "that the flood comes through")
	fs.BoolVar(&f.english, "english", true, "documents in English")
	fs.IntVar(&f.singles, "singles", 100, "documents of the other tenant, in each phase")
	if err := fs.Parse(args); err != nil {
		return err
	}
	s, err := startFlooded(ctx, f.granary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	calm, err := s.tenant(ctx, "calm", f.english)
	if err != nil {
		return err
	}
	noisy, err := s.tenant(ctx, "noisy", f.english)
	if err != nil {
		return err
	}
	if _, err := calm.singles(ctx, "warm", 10); err != nil {
		return err
	}
	idle, err := calm.singles(ctx, "idle", f.singles)
	if err != nil {
		return err
	}
	flooding, stop := context.WithCancel(ctx)
	defer stop()
	done := noisy.pour(flooding, f.docs, f.conns)
	if err := pause(ctx, 5*time.Second); err != nil {
		return err
	}
	during, err := calm.singles(ctx, "flood", f.singles)
	stop()
	sent := <-done
	if err != nil {
		return err
	}
	row(fmt.Sprintf("a single document of 4 KB to READY while another tenant floods %d", f.docs),
		fmt.Sprintf("p50 %s, p95 %s", millis(during, 50), millis(during, 95)), fmt.Sprintf("on the idle server p50 %s, p95 %s", millis(idle, 50), millis(idle, 95)),
		fmt.Sprintf("p50 %.1f ×, p95 %.1f × (goal 2 × at p95)", ratioAt(during, idle, 50), ratioAt(during, idle, 95)),
		fmt.Sprintf("one node, built-in embedder, English: %t, %d connections, %d documents each, %d of the flood sent by then", f.english, f.conns, f.singles, sent))
	return nil
}

func at(d []time.Duration, percent int) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[min(len(d)-1, len(d)*percent/100)]
}

func millis(d []time.Duration, percent int) string {
	return fmt.Sprintf("%.0f ms", float64(at(d, percent))/1e6)
}

func ratioAt(a, b []time.Duration, percent int) float64 {
	return float64(at(a, percent)) / float64(at(b, percent))
}

// flooded is one server with a folder of its own.
type flooded struct {
	dir, address string
	cmd          *exec.Cmd
	authority    *auth.Authority
}

func startFlooded(ctx context.Context, granary string) (s *flooded, err error) {
	s = &flooded{}
	if s.dir, err = os.MkdirTemp("", "granary-flood-*"); err != nil {
		return nil, err
	}
	if s.address, err = freeAddress(ctx); err != nil {
		return nil, errors.Join(err, s.end())
	}
	s.cmd = exec.CommandContext(ctx, granary, "serve", "--dev", "--tier", "unlimited", "--log-level", "warn", "--data", s.dir, "--listen", s.address, "--metrics", "127.0.0.1:0")
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(err, s.end())
	}
	if err := s.ready(ctx); err != nil {
		return nil, errors.Join(err, s.end())
	}
	if s.authority, err = auth.Open(filepath.Join(s.dir, "dev-key")); err != nil {
		return nil, errors.Join(err, s.end())
	}
	return s, nil
}

// ready waits until the server is.
func (s *flooded) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/ready", nil)
		if err != nil {
			return err
		}
		if res, err := http.DefaultClient.Do(r); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func (s *flooded) end() error {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		_ = s.cmd.Wait() // ended by our signal
	}
	return os.RemoveAll(s.dir)
}

// floodTenant is a client of one tenant with one knowledge base.
type floodTenant struct {
	name    string
	english bool
	docs    granaryv1connect.DocumentServiceClient
}

func (s *flooded) tenant(ctx context.Context, name string, english bool) (*floodTenant, error) {
	token, err := s.authority.Issue(auth.Grant{Tenant: name, Subject: "bench", Roles: []string{"admin"}})
	if err != nil {
		return nil, err
	}
	client := connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: withToken{token.Reveal()}}, "http://"+s.address))
	_, err = granaryv1connect.NewKnowledgeBaseServiceClient(client).CreateKnowledgeBase(ctx, &granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: "kb"})
	return &floodTenant{name: name, english: english, docs: granaryv1connect.NewDocumentServiceClient(client)}, err
}

// manyConnections keeps as many open as the flood comes through.
var manyConnections = &http.Transport{MaxIdleConnsPerHost: 1024}

// withToken sends a token with each request.
type withToken struct{ token string }

// RoundTrip implements http.RoundTripper.
func (t withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+t.token)
	return manyConnections.RoundTrip(r)
}

// floodText is about 4 KB of sentences of its own: English, which the model embeds, or
// of a language that is not, which takes less of the processor and more of the disk.
func (t *floodTenant) text(seed uint64) string {
	if t.english {
		return string(newDocuments(seed, 4000).document(int(seed & 0xffffff)))
	}
	words := strings.Fields("alpha beta gamma grain store index signing rotation window network ledger harvest barley cellar meadow river bridge market copper silver candle lantern orchard")
	r := rand.New(rand.NewPCG(seed, 7)) //nolint:gosec // a text, no secret
	var b strings.Builder
	for b.Len() < 4000 {
		for range 12 {
			b.WriteString(words[r.IntN(len(words))] + " ")
		}
		b.WriteString("end. ")
	}
	return b.String()
}

func (t *floodTenant) add(ctx context.Context, id string, seed uint64) (string, error) {
	r, err := t.docs.CreateDocument(ctx, &granaryv1.CreateDocumentRequest{Spec: &granaryv1.DocumentSpec{KnowledgeBase: "kb", DocumentId: id},
		Source: &granaryv1.CreateDocumentRequest_Text{Text: t.text(seed)}})
	return r.GetDocument().GetName(), err
}

// singles adds documents one after another, with a pause after each that is as long as
// it took, and times each from its upload to READY.
func (t *floodTenant) singles(ctx context.Context, phase string, n int) ([]time.Duration, error) {
	out := make([]time.Duration, 0, n)
	for i := range n {
		start := time.Now()
		name, err := t.add(ctx, fmt.Sprintf("%s-%d", phase, i), uint64(i)<<8|uint64(phase[0]))
		if err != nil {
			return nil, err
		}
		for state := granaryv1.DocumentState_DOCUMENT_STATE_UNSPECIFIED; state != granaryv1.DocumentState_DOCUMENT_STATE_READY; {
			if err := pause(ctx, 2*time.Millisecond); err != nil {
				return nil, err
			}
			r, err := t.docs.GetDocument(ctx, &granaryv1.GetDocumentRequest{Name: name})
			if err != nil {
				return nil, err
			}
			if state = r.GetDocument().GetState(); state == granaryv1.DocumentState_DOCUMENT_STATE_FAILED {
				return nil, fmt.Errorf("%s failed: %v", name, r.GetDocument().GetError())
			}
		}
		out = append(out, time.Since(start))
		if err := pause(ctx, time.Since(start)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// pour adds documents through some connections until all are sent or ctx ends,
// and then tells how many there were.
func (t *floodTenant) pour(ctx context.Context, n, conns int) <-chan int {
	var mu sync.Mutex
	next, sent := 0, 0
	var all sync.WaitGroup
	for range conns {
		all.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= n {
					return
				}
				if _, err := t.add(ctx, fmt.Sprintf("f-%d", i), uint64(i)|1<<40); err == nil {
					mu.Lock()
					sent++
					mu.Unlock()
				}
			}
		})
	}
	done := make(chan int, 1)
	go func() {
		all.Wait()
		done <- sent
	}()
	return done
}
