package node_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// wire speaks the protocols of the API byte by byte: what a client library would
// hide is what the isolation matrix compares.
type wire struct {
	t      *testing.T
	base   string
	http1  *http.Client
	http2  *http.Client
	window time.Duration // how long an endless stream is listened to
}

// protocols a method can be called by.
const (
	overConnect = "connect"
	overGet     = "connect GET"
	overWeb     = "grpc-web"
	overGRPC    = "grpc"
)

func newWire(t *testing.T, base string) *wire {
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	h1 := &http.Transport{}
	t.Cleanup(func() { h1.CloseIdleConnections(); h2.CloseIdleConnections() })
	return &wire{t: t, base: base, http1: &http.Client{Transport: h1}, http2: &http.Client{Transport: h2}, window: 300 * time.Millisecond}
}

// protocolsOf lists the ways a method can be called.
func protocolsOf(m protoreflect.MethodDescriptor) []string {
	ways := []string{overConnect, overWeb, overGRPC}
	if safe(m) {
		ways = append(ways, overGet)
	}
	return ways
}

// answer is everything a client sees of a response, but for the date.
type answer struct {
	code connect.Code // 0 is OK
	text string       // status line, headers, body and trailers
}

// call sends the messages of one request with an Authorization header as given,
// or none.
func (w *wire) call(m protoreflect.MethodDescriptor, way, authorization string, messages ...proto.Message) answer {
	w.t.Helper()
	ctx := w.t.Context()
	if m.IsStreamingServer() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.window)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.base+"/"+string(m.Parent().FullName())+"/"+string(m.Name()), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.fill(req, m, way, messages)
	req.Header.Set("X-Request-Id", "matrix")
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	client := w.http1
	if way == overGRPC {
		client = w.http2
	}
	res, err := client.Do(req)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return answer{text: "an open stream"}
		}
		w.t.Fatalf("%s over %s: %v", m.FullName(), way, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		w.t.Fatalf("%s over %s: %v", m.FullName(), way, err)
	}
	return answer{code: codeOf(w.t, way, m, res, body), text: transcript(res, body)}
}

// fill makes the body and headers of a request.
func (w *wire) fill(req *http.Request, m protoreflect.MethodDescriptor, way string, messages []proto.Message) {
	var body []byte
	stream := m.IsStreamingClient() || m.IsStreamingServer()
	for _, msg := range messages {
		raw, err := proto.Marshal(msg)
		if err != nil {
			w.t.Fatal(err)
		}
		if way == overConnect && !stream || way == overGet {
			body = raw
			continue
		}
		body = append(binary.BigEndian.AppendUint32(append(body, 0), uint32(len(raw))), raw...)
	}
	kind := map[string]string{overConnect: "application/proto", overWeb: "application/grpc-web+proto", overGRPC: "application/grpc"}[way]
	switch {
	case way == overGet:
		req.Method = http.MethodGet
		req.URL.RawQuery = url.Values{"connect": {"v1"}, "encoding": {"proto"}, "base64": {"1"},
			"message": {base64.RawURLEncoding.EncodeToString(body)}}.Encode()
		return
	case way == overConnect && stream:
		kind = "application/connect+proto"
	case way == overGRPC:
		req.Header.Set("Te", "trailers")
	}
	req.Header.Set("Content-Type", kind)
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
}

// codeOf reads a response's code.
func codeOf(t *testing.T, way string, m protoreflect.MethodDescriptor, res *http.Response, body []byte) connect.Code {
	t.Helper()
	if way == overConnect || way == overGet {
		if !m.IsStreamingClient() && !m.IsStreamingServer() {
			if res.StatusCode == http.StatusOK {
				return 0
			}
			return connectCode(t, body)
		}
		last := lastFrame(body, 0x02)
		if last == nil {
			return 0 // cut off while it was open
		}
		var end struct{ Error json.RawMessage }
		if err := json.Unmarshal(last, &end); err != nil {
			t.Fatalf("%s: %v in %q", m.FullName(), err, last)
		}
		if len(end.Error) == 0 {
			return 0
		}
		return connectCode(t, end.Error)
	}
	status := res.Header.Get("Grpc-Status")
	if status == "" {
		status = res.Trailer.Get("Grpc-Status")
	}
	if status == "" {
		_, after, _ := strings.Cut(strings.ToLower(string(lastFrame(body, 0x80))), "grpc-status:")
		status, _, _ = strings.Cut(strings.TrimSpace(after), "\r\n")
	}
	n, err := strconv.Atoi(status)
	if err != nil && !m.IsStreamingServer() {
		t.Fatalf("%s over %s: no grpc-status in %q", m.FullName(), way, transcript(res, body))
	}
	return connect.Code(n)
}

func connectCode(t *testing.T, body []byte) connect.Code {
	t.Helper()
	var e struct{ Code string }
	var code connect.Code
	if err := json.Unmarshal(body, &e); err != nil || code.UnmarshalText([]byte(e.Code)) != nil {
		t.Fatalf("no code in %q", body)
	}
	return code
}

// lastFrame gives the payload of the last frame if it has the flag.
func lastFrame(body []byte, flag byte) []byte {
	for len(body) >= 5 {
		size := int(binary.BigEndian.Uint32(body[1:5]))
		if len(body) < 5+size {
			return nil
		}
		if body[0]&flag != 0 {
			return body[5 : 5+size]
		}
		body = body[5+size:]
	}
	return nil
}

// spent is what changes from one call to the next whatever is asked: how much is
// left of the caller's own quota.
var spent = regexp.MustCompile(`;[rt]=\d+`)

// transcript writes a response down.
func transcript(res *http.Response, body []byte) string {
	var lines []string
	for _, part := range []http.Header{res.Header, res.Trailer} {
		for name, values := range part {
			if name == "Date" {
				continue
			}
			line := name + ": " + strings.Join(values, ", ")
			if strings.HasPrefix(name, "Ratelimit") {
				line = spent.ReplaceAllString(line, "")
			}
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return fmt.Sprintf("%d\n%s\n\n%q", res.StatusCode, strings.Join(lines, "\n"), body)
}
