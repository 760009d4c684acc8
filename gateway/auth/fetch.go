package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

// maxDocumentBytes bounds what discovery answers.
const maxDocumentBytes = 64 << 10

// newClient makes a client that asks issuers: it follows no redirect, so that what
// the configuration names is what is asked.
func newClient() *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: fetchTime}).DialContext,
			TLSHandshakeTimeout:    fetchTime,
			ResponseHeaderTimeout:  fetchTime,
			MaxResponseHeaderBytes: 64 << 10,
			IdleConnTimeout:        time.Second,
			DisableKeepAlives:      true, // a read is rare
			ForceAttemptHTTP2:      true,
		},
	}
}

// get reads a document of at most limit bytes.
func get(ctx context.Context, c *http.Client, from string, limit int64) ([]byte, error) {
	if err := checkURL(from); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %d", from, res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = fmt.Errorf("%s answers more than %d bytes", from, limit)
	}
	return body, err
}

// discover asks an issuer where its keys are (OpenID Connect Discovery 1.0, §4).
func discover(ctx context.Context, c *http.Client, issuer string) (string, error) {
	body, err := get(ctx, c, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration", maxDocumentBytes)
	if err != nil {
		return "", err
	}
	var doc struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return "", fmt.Errorf("%w: discovery answers no JSON", ErrKeySet)
	}
	if doc.Issuer != issuer {
		return "", fmt.Errorf("%w: discovery answers for the issuer %.256q", ErrKeySet, doc.Issuer)
	}
	return doc.Keys, nil
}

// checkURL admits https, and http on this machine.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return fmt.Errorf("%.256q is not an address of the web without user and fragment", text)
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !local(u.Hostname())) {
		return fmt.Errorf("%.256q is not https", text)
	}
	return nil
}

func local(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// source is how the keys of an issuer are read.
func (c *IssuerConfig) source(client *http.Client) func(context.Context) ([]byte, error) {
	switch {
	case c.File != "":
		return func(context.Context) ([]byte, error) { return readSet(c.File) }
	case c.URL != "":
		return func(ctx context.Context) ([]byte, error) { return get(ctx, client, c.URL, maxSetBytes) }
	}
	return func(ctx context.Context) ([]byte, error) {
		from, err := discover(ctx, client, c.Issuer)
		if err != nil {
			return nil, err
		}
		return get(ctx, client, from, maxSetBytes)
	}
}

func readSet(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxSetBytes+1))
	if err == nil && len(text) > maxSetBytes {
		err = fmt.Errorf("%s has more than %d bytes", path, maxSetBytes)
	}
	return text, err
}
