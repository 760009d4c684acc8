package embed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"granary.dev/granary/actors/pipeline"
)

const testKey = Secret("sk-very-secret")

// serve starts a server and returns a client of it with 3 dimensions and
// batches of 2.
func serve(t *testing.T, handler http.HandlerFunc) *OpenAI {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	o, err := NewOpenAI(OpenAIConfig{
		BaseURL: server.URL + "/v1/", APIKey: testKey, Model: "test-model", Dims: 3, Batch: 2, Timeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

// answer writes one vector (length of the text, 1, 0) for each text, last first.
func answer(t *testing.T, w http.ResponseWriter, r *http.Request) {
	t.Helper()
	var req embeddingRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		t.Error(err)
	}
	items := make([]string, 0, len(req.Input))
	for i := len(req.Input) - 1; i >= 0; i-- {
		items = append(items, fmt.Sprintf(`{"index":%d,"embedding":[%d,1,0]}`, i, len(req.Input[i])))
	}
	_, _ = fmt.Fprintf(w, `{"object":"list","data":[%s]}`, strings.Join(items, ","))
}

func TestOpenAIBatchesAndKeepsTheOrder(t *testing.T) {
	calls := 0
	o := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls++
		if r.URL.Path != "/v1/embeddings" || r.Header.Get("Authorization") != "Bearer "+string(testKey) {
			t.Errorf("%s with %q", r.URL.Path, r.Header.Get("Authorization"))
		}
		answer(t, w, r)
	})
	in := []Input{{Text: "a"}, {Text: "  "}, {Text: "bb"}, {Text: "ccc"}, {Text: ""}, {Text: "dddd"}, {Text: "eeeee"}, {Text: " "}}
	got, err := o.Passages(t.Context(), in)
	if err != nil || len(got) != len(in) || calls != 3 {
		t.Fatalf("%d embeddings in %d calls: %v", len(got), calls, err)
	}
	for i, e := range got {
		if isBlank(in[i].Text) {
			if len(e.Vectors) != 0 {
				t.Errorf("blank text %d has a vector", i)
			}
			continue
		}
		n := float64(len(in[i].Text))
		if len(e.Vectors) != 1 || math.Abs(float64(e.Vectors[0][0])-n/math.Hypot(n, 1)) > 1e-6 {
			t.Errorf("text %d: %v", i, e.Vectors)
		}
	}
	query, err := o.Query(t.Context(), Input{Text: "abc"})
	if err != nil || len(query) != 1 || query[0].Space != pipeline.SpaceModel || len(query[0].Vector) != 3 {
		t.Errorf("query: %v, %v", query, err)
	}
	if o.Model() != "test-model/3" || o.Dims() != 3 {
		t.Errorf("model %q, dims %d", o.Model(), o.Dims())
	}
}

func TestOpenAIFailuresHaveStableReasons(t *testing.T) {
	status := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if len(header) == 2 {
				w.Header().Set(header[0], header[1])
			}
			w.WriteHeader(code)
			_, _ = w.Write([]byte("no luck with " + string(testKey)))
		}
	}
	body := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }
	}
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte(`{"data":[{"index":0,`))
	}
	for name, c := range map[string]struct {
		handler   http.HandlerFunc
		reason    string
		retryable bool
	}{
		"429":         {status(429), ReasonRateLimited, true},
		"500":         {status(500), ReasonUnavailable, true},
		"503":         {status(503), ReasonUnavailable, true},
		"401":         {status(401), ReasonUnauthorized, true},
		"400":         {status(400), ReasonRejected, false},
		"redirect":    {status(307, "Location", "/elsewhere"), ReasonRejected, false},
		"truncated":   {cut, ReasonUnavailable, true},
		"not JSON":    {body("<html>"), ReasonBadResponse, true},
		"NaN":         {body(`{"data":[{"index":0,"embedding":[NaN,1,0]}]}`), ReasonBadResponse, true},
		"overflow":    {body(`{"data":[{"index":0,"embedding":[1e999,1,0]}]}`), ReasonBadResponse, true},
		"zero vector": {body(`{"data":[{"index":0,"embedding":[0,0,0]}]}`), ReasonBadResponse, true},
		"wrong dims":  {body(`{"data":[{"index":0,"embedding":[1,2]}]}`), ReasonWrongDims, false},
		"no vectors":  {body(`{"data":[]}`), ReasonBadResponse, true},
		"bad index":   {body(`{"data":[{"index":7,"embedding":[1,2,3]}]}`), ReasonBadResponse, true},
		"too long":    {body(strings.Repeat(" ", responseOverhead+3*bytesPerNumber+1)), ReasonBadResponse, true},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := serve(t, c.handler).Query(t.Context(), Input{Text: "x"})
			e, ok := errors.AsType[*pipeline.Error](err)
			if !ok || e.Reason != c.reason || e.Retryable != c.retryable || e.Stage != "embed" {
				t.Fatalf("got %#v (%v)", e, err)
			}
			if strings.Contains(err.Error(), string(testKey)) {
				t.Error("the error repeats the key")
			}
		})
	}
}

func TestOpenAIDoubledIndexIsRefused(t *testing.T) {
	o := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"data":[{"index":0,"embedding":[1,2,3]},{"index":0,"embedding":[1,2,3]}]}`))
	})
	if _, err := o.Passages(t.Context(), []Input{{Text: "x"}, {Text: "y"}}); pipeline.ReasonOf(err) != ReasonBadResponse {
		t.Errorf("got %v", err)
	}
}

func TestOpenAIReturnsWhatWasDoneBeforeAFailure(t *testing.T) {
	calls := 0
	o := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls == 2 {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		answer(t, w, r)
	})
	got, err := o.Passages(t.Context(), []Input{{Text: "a"}, {Text: "b"}, {Text: "c"}})
	if len(got) != 2 || len(got[1].Vectors) != 1 {
		t.Errorf("%d embeddings kept, want 2", len(got))
	}
	if after, ok := RetryAfter(err); !ok || after != 7*time.Second {
		t.Errorf("retry after %v (%v): %v", after, ok, err)
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"12": 12 * time.Second, "0": 0, "1.5": 1500 * time.Millisecond, "999999": time.Hour, "Inf": time.Hour,
		now.Add(time.Minute).Format(http.TimeFormat):    time.Minute,
		now.Add(-time.Minute).Format(http.TimeFormat):   0,
		now.Add(24 * time.Hour).Format(http.TimeFormat): time.Hour,
	} {
		if got, ok := parseRetryAfter(header, now); !ok || got != want {
			t.Errorf("%q: %v, %v; want %v", header, got, ok, want)
		}
	}
	for _, header := range []string{"", "-1", "soon", "NaN"} {
		if got, ok := parseRetryAfter(header, now); ok {
			t.Errorf("%q: %v", header, got)
		}
	}
}

func TestOpenAITimeoutAndCancellationDiffer(t *testing.T) {
	arrived := make(chan struct{}, 1)
	o := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		// The server notices a client that leaves only once the body is read.
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	o.config.Timeout = 20 * time.Millisecond
	if _, err := o.Query(t.Context(), Input{Text: "x"}); pipeline.ReasonOf(err) != ReasonTimeout {
		t.Errorf("timeout: %v", err)
	}
	<-arrived
	o.config.Timeout = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	_, err := o.Query(ctx, Input{Text: "x"})
	if _, ok := errors.AsType[*pipeline.Error](err); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestOpenAIUnreachableServerIsRetryable(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	o, err := NewOpenAI(OpenAIConfig{BaseURL: server.URL, Model: "m", Dims: 3})
	if err != nil {
		t.Fatal(err)
	}
	server.Close()
	_, err = o.Query(t.Context(), Input{Text: "x"})
	if e, ok := errors.AsType[*pipeline.Error](err); !ok || e.Reason != ReasonUnavailable || !e.Retryable {
		t.Errorf("got %v", err)
	}
}

func TestOpenAIConfigIsChecked(t *testing.T) {
	good := OpenAIConfig{BaseURL: "http://host/v1", Model: "m", Dims: 3}
	for name, change := range map[string]func(*OpenAIConfig){
		"no URL":      func(c *OpenAIConfig) { c.BaseURL = "" },
		"scheme":      func(c *OpenAIConfig) { c.BaseURL = "ftp://host" },
		"credentials": func(c *OpenAIConfig) { c.BaseURL = "http://user:pass@host" },
		"no model":    func(c *OpenAIConfig) { c.Model = "" },
		"no dims":     func(c *OpenAIConfig) { c.Dims = 0 },
		"batch":       func(c *OpenAIConfig) { c.Batch = -1 },
		"timeout":     func(c *OpenAIConfig) { c.Timeout = -1 },
	} {
		config := good
		change(&config)
		if _, err := NewOpenAI(config); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := NewOpenAI(good); err != nil {
		t.Error(err)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	config := OpenAIConfig{APIKey: testKey}
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "key", testKey, "config", config)
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "key", testKey, "config", config)
	all := fmt.Sprintf("%v %+v %#v %s %s %q", config, config, config, data, logged.String(), testKey)
	if strings.Contains(all, "very") {
		t.Errorf("printed: %s", all)
	}
}
