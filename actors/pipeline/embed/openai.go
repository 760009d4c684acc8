package embed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	"granary.dev/granary/actors/pipeline"
)

// Limits of [OpenAIConfig].
const (
	defaultBatch   = 64
	maxBatch       = 2048 // of the OpenAI API
	maxBatchBytes  = 512 << 10
	maxDims        = 16384
	defaultTimeout = 30 * time.Second

	// A number takes at most some 25 bytes of JSON; the rest is for what
	// surrounds the vectors.
	bytesPerNumber   = 32
	responseOverhead = 64 << 10
)

// OpenAIConfig describes an OpenAI-compatible embedding server.
type OpenAIConfig struct {
	BaseURL string        // up to and without "/embeddings", e.g. "https://api.openai.com/v1"
	APIKey  Secret        // sent as a bearer token; empty for servers without one
	Model   string        // model name of the server
	Dims    int           // length of its vectors; an answer of another length is refused
	Batch   int           // texts per request, 64 if 0
	Timeout time.Duration // of one request, 30 s if 0
}

func (c OpenAIConfig) complete() (OpenAIConfig, error) {
	u, err := url.Parse(c.BaseURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return c, errors.New("embed: the base URL must be http(s)://host[/path] without credentials")
	}
	c.BaseURL = strings.TrimSuffix(c.BaseURL, "/")
	if c.Batch == 0 {
		c.Batch = defaultBatch
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	switch {
	case c.Model == "":
		return c, errors.New("embed: no model named")
	case c.Dims < 1 || c.Dims > maxDims:
		return c, fmt.Errorf("embed: %d dimensions, want 1 to %d", c.Dims, maxDims)
	case c.Batch < 1 || c.Batch > maxBatch:
		return c, fmt.Errorf("embed: batch of %d, want 1 to %d", c.Batch, maxBatch)
	case c.Timeout < 0:
		return c, errors.New("embed: negative timeout")
	}
	return c, nil
}

// OpenAI asks an OpenAI-compatible server. It does not retry: failures say
// whether and when to (see [RetryAfter]), and the caller has the budget.
type OpenAI struct {
	config OpenAIConfig
	client *http.Client
}

// NewOpenAI checks the configuration; it does not call the server.
func NewOpenAI(config OpenAIConfig) (*OpenAI, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
	}
	// A redirect would carry texts, and on the same host the key, to an address
	// that nobody configured.
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &OpenAI{config: config, client: &http.Client{Transport: transport, CheckRedirect: refuse}}, nil
}

// Close closes idle connections. Calls under way go on.
func (o *OpenAI) Close() { o.client.CloseIdleConnections() }

// Model returns the id of the vectors: the model's name and their length.
func (o *OpenAI) Model() string { return fmt.Sprintf("%s/%d", o.config.Model, o.config.Dims) }

// Dims returns the length of a vector.
func (o *OpenAI) Dims() int { return o.config.Dims }

// Passages embeds each text as one window. Failures of the server are a
// *[pipeline.Error]; then the embeddings of the batches before are returned, so
// that they need not be paid for twice.
func (o *OpenAI) Passages(ctx context.Context, in []Input) ([]pipeline.Embedding, error) {
	out := make([]pipeline.Embedding, 0, len(in))
	for len(out) < len(in) {
		n, texts := o.nextBatch(in[len(out):])
		vectors, err := o.request(ctx, texts)
		if err != nil {
			return out, err
		}
		for _, input := range in[len(out) : len(out)+n] {
			e := pipeline.Embedding{Space: pipeline.SpaceModel}
			if !isBlank(input.Text) {
				e.Vectors, vectors = vectors[:1:1], vectors[1:]
			}
			out = append(out, e)
		}
	}
	return out, nil
}

// nextBatch returns how many inputs the next request covers, and their texts
// without blank ones, which servers refuse.
func (o *OpenAI) nextBatch(in []Input) (n int, texts []string) {
	size := 0
	for _, input := range in {
		size += len(input.Text)
		if len(texts) == o.config.Batch || (n > 0 && size > maxBatchBytes) {
			break
		}
		n++
		if !isBlank(input.Text) {
			texts = append(texts, strings.ToValidUTF8(input.Text, "\uFFFD"))
		}
	}
	return n, texts
}

// Query embeds a question in [pipeline.SpaceModel].
func (o *OpenAI) Query(ctx context.Context, in Input) ([]pipeline.QueryVector, error) {
	if isBlank(in.Text) {
		return nil, emptyQuery()
	}
	vectors, err := o.request(ctx, []string{strings.ToValidUTF8(in.Text, "\uFFFD")})
	if err != nil {
		return nil, err
	}
	return []pipeline.QueryVector{{Space: pipeline.SpaceModel, Vector: vectors[0]}}, nil
}

type embeddingRequest struct {
	Model    string   `json:"model"`
	Input    []string `json:"input"`
	Encoding string   `json:"encoding_format"`
}

type embeddingResponse struct {
	Data []struct {
		Index     int       `json:"index"`
		Embedding []float32 `json:"embedding"`
	} `json:"data"`
}

// request embeds texts in one call and returns their vectors in order.
func (o *OpenAI) request(parent context.Context, texts []string) ([][]float32, error) {
	if len(texts) == 0 {
		return nil, parent.Err()
	}
	body, err := json.Marshal(embeddingRequest{Model: o.config.Model, Input: texts, Encoding: "float"})
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	ctx, cancel := context.WithTimeout(parent, o.config.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.config.BaseURL+"/embeddings", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if o.config.APIKey != "" {
		req.Header.Set("Authorization", "Bearer "+string(o.config.APIKey))
	}
	resp, err := o.client.Do(req)
	if err != nil {
		return nil, o.transportError(parent, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, o.statusError(resp)
	}
	return o.decode(parent, resp.Body, len(texts))
}

func (o *OpenAI) decode(parent context.Context, body io.Reader, n int) ([][]float32, error) {
	limit := int64(n*o.config.Dims*bytesPerNumber + responseOverhead)
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, o.transportError(parent, err)
	}
	if int64(len(data)) > limit {
		return nil, badResponse(fmt.Errorf("response longer than %d bytes", limit))
	}
	var answer embeddingResponse
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, badResponse(err)
	}
	if len(answer.Data) != n {
		return nil, badResponse(fmt.Errorf("%d vectors for %d texts", len(answer.Data), n))
	}
	out := make([][]float32, n)
	for _, item := range answer.Data {
		if item.Index < 0 || item.Index >= n || out[item.Index] != nil {
			return nil, badResponse(fmt.Errorf("index %d is out of range or doubled", item.Index))
		}
		if len(item.Embedding) != o.config.Dims {
			return nil, wrongDims(len(item.Embedding), o.config.Dims)
		}
		if !unit(item.Embedding) {
			return nil, badResponse(errors.New("a vector is zero or not finite"))
		}
		out[item.Index] = item.Embedding
	}
	return out, nil
}

// unit scales v to unit length and reports whether that was possible.
func unit(v []float32) bool {
	sum := 0.0
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	if sum == 0 || math.IsNaN(sum) || math.IsInf(sum, 0) {
		return false
	}
	inverse := 1 / math.Sqrt(sum)
	for i, x := range v {
		v[i] = float32(float64(x) * inverse)
	}
	return true
}
