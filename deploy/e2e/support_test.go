package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// logBuffer collects what a process writes while the test reads it.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String is everything written so far.
func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (s *server) token() string {
	s.t.Helper()
	token, err := os.ReadFile(filepath.Join(s.data, "dev-token"))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(token))
}

// answer is the raw answer to a raw request.
type answer struct {
	status  int
	body    string
	header  http.Header
	code    string // of a Connect error
	message string
	reason  string // of its ErrorInfo
}

func (a answer) String() string {
	body := a.body
	if len(body) > 400 {
		body = body[:400] + "…"
	}
	return fmt.Sprintf("%d %s %s %q", a.status, a.code, a.reason, body)
}

// send makes a request with the server's token, or without if the headers have
// an Authorization of their own. headers are name, value, name, value ….
func (s *server) send(method, path string, body io.Reader, headers ...string) (answer, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+s.addr+path, body)
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Authorization", "Bearer "+s.token())
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return answer{}, err
	}
	a := answer{status: res.StatusCode, body: string(raw), header: res.Header}
	a.decode(raw)
	return a, nil
}

// decode reads a Connect error, as its protocol writes it in JSON.
func (a *answer) decode(raw []byte) {
	var e struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Details []struct {
			Type  string `json:"type"`
			Value string `json:"value"`
		} `json:"details"`
	}
	if json.Unmarshal(raw, &e) != nil {
		return
	}
	a.code, a.message = e.Code, e.Message
	for _, d := range e.Details {
		value, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(d.Value, "="))
		info := &errdetails.ErrorInfo{}
		if err == nil && d.Type == "google.rpc.ErrorInfo" && proto.Unmarshal(value, info) == nil {
			a.reason = info.GetReason()
		}
	}
}

// post sends a unary call in JSON.
func (s *server) post(method string, body string) answer {
	s.t.Helper()
	a, err := s.send(http.MethodPost, "/granary.v1."+method, strings.NewReader(body), "Content-Type", "application/json")
	if err != nil {
		s.t.Errorf("%s: %v", method, err)
	}
	return a
}

// ended reports whether processing of a document is over.
func ended(d *granaryv1.Document) bool {
	switch d.GetState() {
	case granaryv1.DocumentState_DOCUMENT_STATE_READY, granaryv1.DocumentState_DOCUMENT_STATE_READY_EMPTY,
		granaryv1.DocumentState_DOCUMENT_STATE_FAILED, granaryv1.DocumentState_DOCUMENT_STATE_CANCELLED:
		return true
	}
	return false
}

// outcome is how a document ended: its state, or the reason it failed for.
func outcome(d *granaryv1.Document) string {
	if d.GetState() == granaryv1.DocumentState_DOCUMENT_STATE_FAILED {
		return d.GetError().GetReason()
	}
	return strings.TrimPrefix(d.GetState().String(), "DOCUMENT_STATE_")
}

// documents reads all documents of a knowledge base, by name.
func (c clients) documents(t *testing.T, kb string) map[string]*granaryv1.Document {
	t.Helper()
	out := make(map[string]*granaryv1.Document)
	for token := ""; ; {
		page, err := c.docs.ListDocuments(t.Context(), &granaryv1.ListDocumentsRequest{Parent: kb, PageSize: 1000, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page.GetDocuments() {
			out[d.GetName()] = d
		}
		if token = page.GetNextPageToken(); token == "" {
			return out
		}
	}
}

// awaitAll waits until all documents of a knowledge base have ended.
func (c clients) awaitAll(t *testing.T, kb string, within time.Duration) map[string]*granaryv1.Document {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		docs := c.documents(t, kb)
		var open []string
		for _, d := range docs {
			if !ended(d) {
				open = append(open, fmt.Sprintf("%s %s attempt %d %v", d.GetDisplayName(), d.GetState(), d.GetAttempts(), d.GetError()))
			}
		}
		if len(open) == 0 {
			return docs
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d documents have not ended after %v: %s", len(open), within, strings.Join(open, "; "))
		}
		time.Sleep(100 * time.Millisecond) // polling another process
	}
}

// meter samples the memory of a server and of its parse workers.
type meter struct {
	pid  int
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex
	peak    int64 // of the server, bytes resident
	worker  int64 // most private memory of one worker
	workers int64 // most private memory of all workers at a time
	seen    map[int]bool
}

func (s *server) meter() *meter {
	m := &meter{pid: s.cmd.Process.Pid, stop: make(chan struct{}), done: make(chan struct{}), seen: map[int]bool{}}
	go func() {
		defer close(m.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			m.sample()
			select {
			case <-m.stop:
				return
			case <-tick.C:
			}
		}
	}()
	return m
}

// end stops the sampling; the figures may be read then.
func (m *meter) end() {
	close(m.stop)
	<-m.done
	m.sample()
}

func (m *meter) sample() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.peak = max(m.peak, status(m.pid)["VmHWM"])
	var all int64
	for _, pid := range childrenOf(m.pid) {
		m.seen[pid] = true
		private := status(pid)["RssAnon"]
		m.worker = max(m.worker, private)
		all += private
	}
	m.workers = max(m.workers, all)
}

// checkGone wants that workers were seen at all, and that none outlived the server.
func (m *meter) checkGone(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "linux" && (m.peak == 0 || len(m.seen) == 0) {
		t.Error("memory was not measured")
	}
	for pid := range m.seen {
		if status(pid) != nil {
			t.Errorf("parse worker %d outlived the server", pid)
		}
	}
}

func (m *meter) String() string {
	return fmt.Sprintf("server peak %d MiB; %d parse workers, largest %d MiB, together at most %d MiB",
		m.peak>>20, len(m.seen), m.worker>>20, m.workers>>20)
}

// status reads the memory lines of /proc/PID/status, in bytes. Elsewhere than on
// Linux, and of a process that has ended, there are none.
func status(pid int) map[string]int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil
	}
	out := make(map[string]int64)
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) == 3 && f[2] == "kB" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			out[strings.TrimSuffix(f[0], ":")] = n << 10
		}
	}
	return out
}

// childrenOf lists the children of all threads of a process.
func childrenOf(pid int) (pids []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		raw, _ := os.ReadFile(file)
		for f := range strings.FieldsSeq(string(raw)) {
			if n, err := strconv.Atoi(f); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}
