package gateway_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"granary.dev/granary/actors/kb"
	nodev1 "granary.dev/granary/proto/gen/granary/node/v1"
	v1 "granary.dev/granary/proto/gen/granary/v1"
)

// I5: each RPC that changes a tenant or its access takes a request id, in the request or
// in the header, and its grain is asked the same either way.
func TestI5_ChangesOfTenantsTravelUnderTheirKey(t *testing.T) {
	w := start(t)
	w.grains.fail(kb.Errorf(kb.CodeAborted, "REACHED", "the grain was reached"))
	bodies, checked := unaryMethods(t), 0
	for _, m := range publicMethods(t) {
		service := string(m.Parent().Name())
		procedure := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
		if m.IsStreamingClient() || !strings.HasPrefix(service, "Tenant") && service != "AccessService" || readsOnly(m) {
			continue
		}
		if m.Input().Fields().ByName("request_id") == nil {
			t.Errorf("%s has no request_id", m.FullName())
			continue
		}
		checked++
		token := w.token("admin")
		if ofOperators(procedure) {
			token = w.operatorToken()
		}
		in := bodies[procedure]
		in = strings.Replace(in, "{", `{"requestId":"key-1",`, 1)
		in = strings.Replace(in, ",}", "}", 1)
		w.post(token, procedure, in)
		first := w.grains.last(t)
		w.post(token, procedure, bodies[procedure], "Idempotency-Key", "key-1")
		second := w.grains.last(t)
		for _, a := range []asked{first, second} {
			if h := headerOf(a.msg); h.GetIdempotencyKey() != "key-1" || h.GetMethod() != procedure[1:] {
				t.Errorf("%s travels under %q of %q", m.Name(), h.GetIdempotencyKey(), h.GetMethod())
			}
			call := a.msg.(*nodev1.TenantCall)
			call.Header = nil
			if k := call.GetCreateKey(); k != nil {
				k.Id, k.Mac = "", nil
			}
		}
		if !proto.Equal(first.msg, second.msg) {
			t.Errorf("%s asks %v with the field and %v with the header", m.Name(), first.msg, second.msg)
		}
		if res, _ := w.post(token, procedure, in, "Idempotency-Key", "key-2"); res.StatusCode != 400 {
			t.Errorf("%s with two keys: %d", m.Name(), res.StatusCode)
		}
	}
	if checked != 14 {
		t.Errorf("%d RPCs change tenants", checked)
	}
}

// readsOnly tells a method that says that it changes nothing.
func readsOnly(m protoreflect.MethodDescriptor) bool {
	return strings.Contains(fmt.Sprint(m.Options()), "NO_SIDE_EFFECTS")
}

// I5: a repeated request makes no second key, and says which one it has made.
func TestI5_ARepeatedRequestForAKeyTellsWhichOneItMade(t *testing.T) {
	w := start(t)
	const create, body = "/granary.v1.AccessService/CreateApiKey", `{"grants":[{"role":"viewer"}],"requestId":"r"}`
	var first string
	w.grains.setScript(func(_ context.Context, a asked) (proto.Message, error) {
		if first == "" {
			first = a.msg.(*nodev1.TenantCall).GetCreateKey().GetId()
		}
		return &nodev1.TenantReply{Result: &nodev1.TenantReply_Key{Key: &v1.ApiKey{Name: "apiKeys/" + first}}}, nil
	})
	if res, out := w.post(w.token("admin"), create, body); res.StatusCode != 200 || !strings.Contains(out, `"secret"`) || res.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %s", res.StatusCode, out)
	}
	res, out := w.post(w.token("admin"), create, body)
	if res.StatusCode != 409 || !strings.Contains(out, kb.ReasonKeyExists) || !strings.Contains(out, `"api_key":"apiKeys/`+first+`"`) || strings.Contains(out, "secret") {
		t.Errorf("again: %d %s", res.StatusCode, out)
	}
}

// B4: an operator sees the recount of a tenant there is.
func TestB4_OperatorsRecountATenant(t *testing.T) {
	w := start(t)
	w.grains.setScript(func(_ context.Context, a asked) (proto.Message, error) {
		switch a.msg.(*nodev1.TenantCall).GetOperation().(type) {
		case *nodev1.TenantCall_DescribeTenant:
			if a.tenant != "acme" {
				return nil, kb.Errorf(kb.CodeNotFound, kb.ReasonTenantNotFound, "no")
			}
			return &nodev1.TenantReply{Result: &nodev1.TenantReply_Tenant{Tenant: &v1.Tenant{}}}, nil
		case *nodev1.TenantCall_RecountUsage:
			return &nodev1.TenantReply{Result: &nodev1.TenantReply_Recount{Recount: &v1.RecountUsageResponse{Recounts: []*v1.Recount{{Metric: "storage_bytes", Counter: 7}}}}}, nil
		}
		return nil, fmt.Errorf("asked %v", a.msg)
	})
	const recount = tenantAdminService + "RecountTenantUsage"
	if res, out := w.post(w.operatorToken(), recount, `{"name":"tenants/acme"}`); res.StatusCode != 200 || !strings.Contains(out, `"counter":"7"`) {
		t.Errorf("%d %s", res.StatusCode, out)
	}
	n := len(w.grains.all())
	if res, out := w.post(w.operatorToken(), recount, `{"name":"umbrella"}`); res.StatusCode != 404 || !strings.Contains(out, kb.ReasonTenantNotFound) || len(w.grains.all()) != n+1 {
		t.Errorf("%d %s", res.StatusCode, out)
	}
}
