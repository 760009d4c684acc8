// Package fetch downloads URL sources.
//
// Authority: none. It reads what a tenant names from the network the server
// stands in, so its first duty is to reach nothing but the public Internet.
//
// Invariants:
//   - the address that is dialled is checked, after resolution, in the socket's
//     control hook, on every hop: a name that resolves to a public address when
//     it is checked and to a private one when it is used gains nothing;
//   - whoever names a host learns the same of one that does not exist and of one
//     that only has addresses that are refused: names of the network the server
//     stands in cannot be found out;
//   - no proxy, no cookies, no credentials, no referrer; at most MaxRedirects
//     redirects, each checked like the first URL;
//   - at most MaxBytes decoded bytes are written, whatever is claimed or packed;
//   - every connection is closed when Fetch returns.
package fetch

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Config configures a [Fetcher]. Zero fields take the defaults named here.
type Config struct {
	AllowedNetworks []netip.Prefix // dialled although not public; default none
	NAT64           []netip.Prefix // public prefixes that lead to IPv4 here (RFC 6052); judged as the IPv4 address
	Ports           []uint16       // default 80, 443, 8080, 8443
	MaxBytes        int64          // decoded bytes; default 64 MiB
	MaxRedirects    int            // default 3; negative: none
	Timeout         time.Duration  // of the whole fetch; default 60 s
	HeaderTimeout   time.Duration  // from request to response header, each hop; default 15 s
	UserAgent       string         // default "granary-fetch/1"
	RootCAs         *x509.CertPool // default: those of the system
	// Lookup resolves a host name. Default: the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Limits of a connection that no operator needs to change.
const (
	dialTimeout    = 10 * time.Second // per address
	maxAddresses   = 8                // of one name that are tried
	maxHeaderBytes = 64 << 10
)

// Fetcher fetches URLs. It keeps no connections between fetches, and its
// methods may be called from many goroutines.
type Fetcher struct {
	cfg    Config
	policy policy
	client *http.Client
}

// Meta tells what was fetched.
type Meta struct {
	FinalURL     string // after redirects
	MediaType    string // Content-Type with its parameters, as sent
	FileName     string // base name, of Content-Disposition or of the path; may be ""
	ETag         string
	LastModified string // as sent
	Size         int64  // decoded bytes written
	SHA256       string // of those bytes, lower case hex
}

// New makes a Fetcher.
func New(c Config) *Fetcher {
	if len(c.Ports) == 0 {
		c.Ports = []uint16{80, 443, 8080, 8443}
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = 64 << 20
	}
	if c.MaxRedirects == 0 {
		c.MaxRedirects = 3
	}
	if c.Timeout <= 0 {
		c.Timeout = time.Minute
	}
	if c.HeaderTimeout <= 0 {
		c.HeaderTimeout = 15 * time.Second
	}
	if c.UserAgent == "" {
		c.UserAgent = "granary-fetch/1"
	}
	if c.Lookup == nil {
		c.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	f := &Fetcher{cfg: c, policy: policy{allowed: slices.Clone(c.AllowedNetworks), nat64: slices.Clone(c.NAT64)}}
	f.client = &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil, // a proxy would dial for us, unchecked
			DialContext:            f.dial,
			DisableKeepAlives:      true,
			ResponseHeaderTimeout:  c.HeaderTimeout,
			TLSHandshakeTimeout:    dialTimeout,
			MaxResponseHeaderBytes: maxHeaderBytes,
			TLSClientConfig:        &tls.Config{RootCAs: c.RootCAs, MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: f.redirect,
	}
	return f
}

// Fetch writes the document at rawURL to w. It returns *pipeline.Error with
// Stage "fetch" and one of the Reason constants, or an error of w, or one that
// wraps ctx.Err() when the caller gave up. On failure w may hold a part.
func (f *Fetcher) Fetch(ctx context.Context, rawURL string, w io.Writer) (Meta, error) {
	u, err := f.parseURL(rawURL)
	if err != nil {
		return Meta{}, err
	}
	hopCtx, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	hopCtx = context.WithValue(hopCtx, fetchKey{}, hopCtx)
	req, err := http.NewRequestWithContext(hopCtx, http.MethodGet, u.String(), nil)
	if err != nil {
		return Meta{}, urlError("it cannot be read", withoutURL(err))
	}
	req.Header.Set("User-Agent", f.cfg.UserAgent)
	resp, err := f.client.Do(req)
	if err != nil {
		return Meta{}, transportError(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := f.checkResponse(resp); err != nil {
		return Meta{}, err
	}
	meta := metaOf(resp)
	body := &countingReader{r: resp.Body, limit: f.cfg.MaxBytes, sum: sha256.New()}
	if _, err := io.Copy(w, body); err != nil {
		if body.err == nil {
			return Meta{}, fmt.Errorf("fetch: store the document: %w", err)
		}
		return Meta{}, transportError(ctx, body.err)
	}
	meta.Size, meta.SHA256 = body.n, hex.EncodeToString(body.sum.Sum(nil))
	return meta, nil
}

// checkResponse takes responses that carry the document, in an encoding the
// transport has undone.
func (f *Fetcher) checkResponse(resp *http.Response) error {
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNonAuthoritativeInfo {
		return statusError(resp, time.Now())
	}
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return fetchError(ReasonEncoding, "the server sent an encoding it was not asked for", false, nil)
	}
	if resp.ContentLength > f.cfg.MaxBytes {
		return tooLarge(f.cfg.MaxBytes)
	}
	return nil
}

func tooLarge(limit int64) error {
	return fetchError(ReasonTooLarge, fmt.Sprintf("the document has more than %d bytes", limit), false, nil)
}

// redirect checks the next hop.
func (f *Fetcher) redirect(req *http.Request, via []*http.Request) error {
	if len(via) > max(f.cfg.MaxRedirects, 0) {
		return fetchError(ReasonTooManyRedirects, fmt.Sprintf("more than %d redirects", max(f.cfg.MaxRedirects, 0)), false, nil)
	}
	req.Header.Del("Referer")
	return f.checkURL(req.URL)
}

// fetchKey finds the context of the fetch among a dial's values.
type fetchKey struct{}

// dial resolves the host and connects to the first address that answers. The
// transport dials on when a request has ended, for the next one, of which there is
// none here: names and addresses that never answer would keep goroutines and sockets.
func (f *Fetcher) dial(ctx context.Context, network, hostPort string) (net.Conn, error) {
	if fetch, ok := ctx.Value(fetchKey{}).(context.Context); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(fetch, cancel)()
	}
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	addrs, err := f.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: dialTimeout, Control: f.control}
	var errs, refused []error
	for _, a := range addrs[:min(len(addrs), maxAddresses)] {
		conn, err := d.DialContext(ctx, network, net.JoinHostPort(a.Unmap().String(), port))
		if err == nil {
			return conn, nil
		}
		if _, not := errors.AsType[*refusedError](err); not {
			refused = append(refused, err)
		} else {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 0 {
		return nil, nameError(errors.Join(refused...))
	}
	return nil, errors.Join(errs...)
}

// lookup resolves a host, which may be an address.
func (f *Fetcher) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	addrs, err := f.cfg.Lookup(ctx, host)
	if err == nil && len(addrs) == 0 {
		err = &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addrs, err
}

// control is called by the dialer for every socket, right before it connects:
// address is where the connection goes in truth.
func (f *Fetcher) control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return &refusedError{err}
	}
	if !slices.Contains(f.cfg.Ports, ap.Port()) {
		return urlError("its port is not allowed", nil)
	}
	if err := f.policy.check(ap.Addr()); err != nil {
		return &refusedError{err}
	}
	return nil
}

// countingReader counts, hashes and caps the decoded body, and remembers its
// own failures, to tell them from those of the writer.
type countingReader struct {
	r     io.Reader
	limit int64
	n     int64
	sum   hash.Hash
	err   error
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	if room := c.limit - c.n; int64(n) > room {
		n, err = int(room), tooLarge(c.limit)
	}
	c.n += int64(n)
	_, _ = c.sum.Write(b[:n]) // never fails
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// metaOf reads the header of a response.
func metaOf(resp *http.Response) Meta {
	return Meta{
		FinalURL:     resp.Request.URL.String(),
		MediaType:    headerValue(resp, "Content-Type"),
		FileName:     fileName(resp.Header.Get("Content-Disposition"), resp.Request.URL),
		ETag:         headerValue(resp, "ETag"),
		LastModified: headerValue(resp, "Last-Modified"),
	}
}

// headerValue drops values that are longer than such values are.
func headerValue(resp *http.Response, name string) string {
	v := resp.Header.Get(name)
	if len(v) > 1024 {
		return ""
	}
	return strings.ToValidUTF8(v, "")
}

// fileName is a base name without anything that could lead elsewhere.
func fileName(disposition string, u *url.URL) string {
	name := u.Path
	if _, params, err := mime.ParseMediaType(disposition); err == nil && params["filename"] != "" {
		name = params["filename"]
	}
	name = path.Base(strings.ReplaceAll(name, `\`, "/"))
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7F && r < 0xA0 || r == '\uFFFD' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(name, ""))
	if name == "." || name == ".." || name == "/" {
		return ""
	}
	if len(name) > 255 { // keep the extension, which tells the type
		ext := path.Ext(name)
		ext = ext[:min(len(ext), 32)]
		name = strings.ToValidUTF8(name[:255-len(ext)], "") + ext
	}
	return name
}
