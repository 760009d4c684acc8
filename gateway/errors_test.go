package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"granary.dev/granary/actors/journal"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
	"granary.dev/granary/proto/gen/granary/v1/granaryv1connect"
)

// details decodes the details of err by type.
type details struct {
	info  *errdetails.ErrorInfo
	bad   *errdetails.BadRequest
	retry *errdetails.RetryInfo
	quota *errdetails.QuotaFailure
}

func detailsOf(t *testing.T, err error) (d details) {
	t.Helper()
	e, ok := errors.AsType[*connect.Error](err)
	if !ok {
		t.Fatalf("%v is no connect error", err)
	}
	for _, detail := range e.Details() {
		m, err := connectproto.UnmarshalErrorDetail(detail)
		if err != nil {
			t.Fatal(err)
		}
		switch m := m.(type) {
		case *errdetails.ErrorInfo:
			d.info = m
		case *errdetails.BadRequest:
			d.bad = m
		case *errdetails.RetryInfo:
			d.retry = m
		case *errdetails.QuotaFailure:
			d.quota = m
		default:
			t.Errorf("unexpected detail %T", m)
		}
	}
	return d
}

func (w *world) get(ctx context.Context) error {
	c := granaryv1connect.NewKnowledgeBaseServiceClient(w.client(w.token("viewer")))
	_, err := c.GetKnowledgeBase(ctx, &v1.GetKnowledgeBaseRequest{Name: "handbook"})
	return err
}

func TestAGrainsErrorReachesTheClientWhole_E2(t *testing.T) {
	w := start(t)
	w.grains.answer(&nodev1.KnowledgeBaseReply{Result: &nodev1.KnowledgeBaseReply_Error{Error: &nodev1.Error{
		Code: 8, Reason: kb.ReasonDocumentLimit, Message: "1,000 documents are the most.",
		Metadata:   map[string]string{"limit": "1000"},
		Fields:     []*nodev1.FieldViolation{{Field: "spec", Description: "one too many"}},
		RetryAfter: durationpb.New(1500 * time.Millisecond),
	}}})
	ctx, info := connect.NewClientContext(t.Context())
	err := w.get(ctx)
	d := detailsOf(t, err)
	if connect.CodeOf(err) != connect.CodeResourceExhausted || !strings.Contains(err.Error(), "1,000 documents") {
		t.Errorf("error %v", err)
	}
	if d.info.GetReason() != kb.ReasonDocumentLimit || d.info.GetDomain() != "granary.dev" || d.info.GetMetadata()["limit"] != "1000" {
		t.Errorf("info %v", d.info)
	}
	if v := d.bad.GetFieldViolations(); len(v) != 1 || v[0].GetField() != "spec" {
		t.Errorf("bad request %v", d.bad)
	}
	if d.retry.GetRetryDelay().AsDuration() != 1500*time.Millisecond || info.ResponseHeader().Get("Retry-After") != "2" {
		t.Errorf("retry %v, header %q", d.retry, info.ResponseHeader().Get("Retry-After"))
	}
	if v := d.quota.GetViolations(); len(v) != 1 || v[0].GetSubject() != "tenants/acme" {
		t.Errorf("quota %v", d.quota)
	}
}

func TestEveryCodeOfTheDomainHasItsCodeOnTheWire(t *testing.T) {
	w := start(t)
	for code, want := range map[kb.Code]connect.Code{
		kb.CodeInvalidArgument: connect.CodeInvalidArgument, kb.CodeDeadlineExceeded: connect.CodeDeadlineExceeded,
		kb.CodeNotFound: connect.CodeNotFound, kb.CodeAlreadyExists: connect.CodeAlreadyExists,
		kb.CodePermissionDenied: connect.CodePermissionDenied, kb.CodeResourceExhausted: connect.CodeResourceExhausted,
		kb.CodeFailedPrecondition: connect.CodeFailedPrecondition, kb.CodeAborted: connect.CodeAborted,
		kb.CodeUnimplemented: connect.CodeUnimplemented, kb.CodeInternal: connect.CodeInternal,
		kb.CodeUnavailable: connect.CodeUnavailable, kb.CodeUnauthenticated: connect.CodeUnauthenticated,
	} {
		w.grains.fail(fmt.Errorf("delivery: %w", kb.Errorf(code, "SOME_REASON", "said so")))
		err := w.get(t.Context())
		if d := detailsOf(t, err); connect.CodeOf(err) != want || d.info.GetReason() != "SOME_REASON" || d.quota != nil {
			t.Errorf("%d: %v %v", code, err, d)
		}
	}
}

func TestForeignErrorsNeverReachAClient(t *testing.T) {
	w := start(t)
	secret := errors.New("pq: password hunter2 refused by 10.0.0.7")
	for name, script := range map[string]func(context.Context, asked) (proto.Message, error){
		"foreign error": func(context.Context, asked) (proto.Message, error) { return nil, secret },
		"unknown code": func(context.Context, asked) (proto.Message, error) {
			return refuse(99, "ODD", secret.Error()), nil
		},
		"wrong type":  func(context.Context, asked) (proto.Message, error) { return &nodev1.Done{}, nil },
		"no result":   func(context.Context, asked) (proto.Message, error) { return &nodev1.KnowledgeBaseReply{}, nil },
		"wrong reply": func(context.Context, asked) (proto.Message, error) { return addReply(false), nil },
		"nil":         func(context.Context, asked) (proto.Message, error) { return nil, nil },
		"panic":       func(context.Context, asked) (proto.Message, error) { panic(secret) },
	} {
		w.grains.setScript(script)
		err := w.get(t.Context())
		d := detailsOf(t, err)
		if connect.CodeOf(err) != connect.CodeInternal || d.info.GetReason() != kb.ReasonInternal ||
			len(d.info.GetMetadata()["request_id"]) != 36 || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v %v", name, err, d)
		}
		if !strings.Contains(w.log.String(), d.info.GetMetadata()["request_id"]) {
			t.Errorf("%s: the log does not have the request", name)
		}
	}
	if !strings.Contains(w.log.String(), "hunter2") || !strings.Contains(w.log.String(), "errors_test.go") {
		t.Error("the log has not the error and the panic's stack in full")
	}
}

func TestDeadlineAndStorageErrors_E2(t *testing.T) {
	w := start(t)
	w.grains.fail(fmt.Errorf("blob: %w", journal.ErrUnavailable))
	err := w.get(t.Context())
	if d := detailsOf(t, err); connect.CodeOf(err) != connect.CodeUnavailable || d.retry == nil {
		t.Errorf("storage down: %v %v", err, d)
	}
	w.grains.fail(fmt.Errorf("blob: %w: no connection: %w", journal.ErrUnavailable, context.DeadlineExceeded))
	if err = w.get(t.Context()); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("a time of the store's own has passed: %v", err)
	}
	w.grains.setScript(func(ctx context.Context, _ asked) (proto.Message, error) { <-ctx.Done(); return nil, ctx.Err() })
	res, body := w.post(w.token("viewer"), getKB, `{"name":"handbook"}`, "Connect-Timeout-Ms", "50")
	if res.StatusCode != 504 || !strings.Contains(body, kb.ReasonDeadline) {
		t.Errorf("deadline: %d %s", res.StatusCode, body)
	}
}

func TestAClientsDeadlineIsCapped_E2(t *testing.T) {
	w := start(t)
	w.grains.answer(knowledgeBaseReply("handbook", 1))
	w.post(w.token("viewer"), getKB, `{"name":"handbook"}`, "Connect-Timeout-Ms", "3600000")
	if left := w.grains.last(t).kb().GetHeader().GetRemaining().AsDuration(); left > time.Minute || left < 50*time.Second {
		t.Errorf("remaining %v of an hour asked, want the cap of a minute", left)
	}
}
