//go:build unix

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// follower follows the events of a knowledge base through every fault: when a
// stream ends or falls silent it resumes at the next node.
type follower struct {
	base    base
	client  *client
	begun   *load
	streams int

	mu    sync.Mutex
	seen  []*granaryv1.Event
	token string
}

// silence is how long a stream with a heartbeat a second may say nothing.
const silence = 4 * time.Second

// run follows until ctx ends.
func (f *follower) run(ctx context.Context) {
	for node := 0; ctx.Err() == nil; node = (node + 1) % len(f.client.http) {
		f.streams++
		f.stream(ctx, node)
		sleep(ctx, 50*time.Millisecond)
	}
}

// stream reads one stream until it ends, whyever.
func (f *follower) stream(ctx context.Context, node int) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dog := time.AfterFunc(silence, cancel)
	defer dog.Stop()
	hc := &http.Client{Transport: asTenant{f.client.http[node].Transport, f.client.tenant.token}}
	events := granaryv1connect.NewEventServiceClient(connect.NewClient(connecthttp.NewTransport(hc, "http://"+f.client.cluster.members[node].api)))
	stream, err := events.WatchEvents(ctx, &granaryv1.WatchEventsRequest{KnowledgeBase: f.base.kb, FromStart: f.token == "",
		ResumeToken: f.token, Heartbeat: durationpb.New(time.Second)})
	if err != nil {
		return
	}
	defer func() { _ = stream.Close() }()
	for {
		m, err := stream.Receive()
		if err != nil {
			remote, ok := errors.AsType[*connect.Error](err)
			wrong := []connect.Code{connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeInternal}
			if ok && remote.IsRemote() && slices.Contains(wrong, remote.Code()) {
				f.begun.breaks("following %s: %v", f.base, err)
			}
			return
		}
		dog.Reset(silence)
		f.take(m)
	}
}

func (f *follower) take(m *granaryv1.WatchEventsResponse) {
	if raw, err := proto.Marshal(m); err == nil {
		f.client.leaks.look(f.client.tenant, f.client.all, "WatchEvents", raw)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := m.GetEvent(); e != nil {
		f.seen = append(f.seen, e)
	}
	if m.GetResumeToken() != "" {
		f.token = m.GetResumeToken()
	}
}

func (f *follower) reached() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int64(len(f.seen))
}

// check waits until the stream has what a journal has, and compares them one by
// one: no gap, nothing twice, and nothing that was not committed.
func (f *follower) check(ctx context.Context, j *journal) (wrong []string) {
	for patience := time.Now().Add(settleTime); f.reached() < j.head && time.Now().Before(patience); {
		sleep(ctx, 20*time.Millisecond)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, want := range j.events {
		if i == len(f.seen) {
			return append(wrong, fmt.Sprintf("%s: %d of %d events were streamed %v after the end", f.base, i, len(j.events), settleTime))
		}
		if e := f.seen[i]; e.GetRevision() != want.seq || e.GetType() != want.kind || e.GetRequestId() != want.requestID {
			return append(wrong, fmt.Sprintf("%s: streamed as message %d is event %d, %s of %q; the journal has %d, %s of %q",
				f.base, i+1, e.GetRevision(), e.GetType(), e.GetRequestId(), want.seq, want.kind, want.requestID))
		}
	}
	return wrong
}

// asTenant adds the tenant's token.
type asTenant struct {
	next  http.RoundTripper
	token string
}

// RoundTrip implements http.RoundTripper.
func (a asTenant) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+a.token)
	return a.next.RoundTrip(r)
}
