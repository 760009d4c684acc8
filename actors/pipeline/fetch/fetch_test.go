package fetch

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"granary.dev/granary/actors/pipeline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// serve starts a server and returns its URL and port.
func serve(t testing.TB, h http.HandlerFunc) (string, uint16) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL, s.Listener.Addr().(*net.TCPAddr).AddrPort().Port()
}

// local is a configuration that reaches servers of the test.
func local(ports ...uint16) Config {
	return Config{AllowedNetworks: []netip.Prefix{loopback}, Ports: ports}
}

func wantReason(t *testing.T, err error, reason string) *pipeline.Error {
	t.Helper()
	e, ok := errors.AsType[*pipeline.Error](err)
	if !ok || e.Stage != "fetch" || e.Reason != reason || e.Message == "" {
		t.Fatalf("got %v, want %s", err, reason)
	}
	return e
}

func TestFetchWritesTheDocumentAndTellsOfIt_C3(t *testing.T) {
	const doc = "the document"
	base, port := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("User-Agent") != "granary-fetch/1" || r.Header.Get("Cookie") != "" || r.Header.Get("Referer") != "" {
			t.Errorf("header %v", r.Header)
		}
		switch r.URL.Path {
		case "/start":
			http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
			http.Redirect(w, r, "/docs/file.md?x=1", http.StatusFound)
		default:
			w.Header().Set("Content-Type", "text/markdown; charset=utf-8")
			w.Header().Set("ETag", `"v1"`)
			w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
			_, _ = io.WriteString(w, doc)
		}
	})
	var buf bytes.Buffer
	m, err := New(local(port)).Fetch(t.Context(), base+"/start", &buf)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(doc))
	want := Meta{FinalURL: base + "/docs/file.md?x=1", MediaType: "text/markdown; charset=utf-8", FileName: "file.md", ETag: `"v1"`,
		LastModified: "Mon, 02 Jan 2006 15:04:05 GMT", Size: int64(len(doc)), SHA256: hex.EncodeToString(sum[:])}
	if buf.String() != doc || m != want {
		t.Errorf("%q %+v", buf.String(), m)
	}
}

func TestLoopbackIsRefusedByDefault(t *testing.T) {
	base, port := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the server was reached") })
	f := New(Config{Ports: []uint16{port}})
	_, err := f.Fetch(t.Context(), base, io.Discard)
	wantReason(t, err, ReasonAddress)
	_, err = f.Fetch(t.Context(), strings.Replace(base, "127.0.0.1", "localhost", 1), io.Discard)
	wantRefused(t, err)
}

// wantRefused: what was dialled was refused, which the log tells and the owner does not hear.
func wantRefused(t *testing.T, err error) {
	t.Helper()
	e := wantReason(t, err, ReasonDNS)
	if _, refused := errors.AsType[*refusedError](err); !refused || e.Retryable || !strings.Contains(err.Error(), "address space") {
		t.Errorf("got %v, want an address refused", err)
	}
}

// B1: a name that does not exist and one of the server's own network are answered alike.
func TestB1_NamesOfTheServersNetworkCannotBeFoundOut(t *testing.T) {
	unknown := func(context.Context, string) ([]netip.Addr, error) {
		return nil, &net.DNSError{Err: "no such host", Name: "wiki.corp.test", IsNotFound: true}
	}
	none := func(context.Context, string) ([]netip.Addr, error) { return nil, nil }
	told := func(lookup func(context.Context, string) ([]netip.Addr, error)) pipeline.Error {
		_, err := New(Config{Lookup: lookup}).Fetch(t.Context(), "http://wiki.corp.test/", io.Discard)
		e := *wantReason(t, err, ReasonDNS)
		e.Err = nil // for the log
		return e
	}
	want := told(unknown)
	for name, lookup := range map[string]func(context.Context, string) ([]netip.Addr, error){
		"private": answers("10.0.0.1"), "loopback": answers("127.0.0.1"), "metadata": answers("169.254.169.254"), "unique local": answers("fd00:ec2::254"), "no address": none,
		"several": func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::1")}, nil
		},
	} {
		if got := told(lookup); got != want {
			t.Errorf("%s: %+v, a name that does not exist: %+v", name, got, want)
		}
	}
	// The same behind a redirect.
	base, port := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://wiki.corp.test/", http.StatusFound)
	})
	for _, lookup := range []func(context.Context, string) ([]netip.Addr, error){unknown, answers("10.0.0.1")} {
		c := local(80, port)
		c.Lookup = lookup
		_, err := New(c).Fetch(t.Context(), base, io.Discard)
		if e := *wantReason(t, err, ReasonDNS); e.Message != want.Message || e.Retryable {
			t.Errorf("behind a redirect: %v", err)
		}
	}
}

// B1: an address that may be dialled and does not answer is told as such, whatever else
// the name has.
func TestB1_RefusedAddressesDoNotHideThatAnotherDoesNotAnswer(t *testing.T) {
	c := local(1)
	c.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("127.0.0.1")}, nil
	}
	_, err := New(c).Fetch(t.Context(), "http://mixed.test:1/", io.Discard)
	wantReason(t, err, ReasonConnection)
}

func TestProxyOfTheEnvironmentIsIgnored(t *testing.T) {
	proxy, _ := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the proxy was asked") })
	t.Setenv("HTTP_PROXY", proxy)
	t.Setenv("http_proxy", proxy)
	f := New(Config{Lookup: answers("10.0.0.1")})
	_, err := f.Fetch(t.Context(), "http://example.com/", io.Discard)
	wantRefused(t, err)
}

// answers is a resolver that gives one answer after the other, the last for ever.
func answers(addrs ...string) func(context.Context, string) ([]netip.Addr, error) {
	n := 0
	return func(context.Context, string) ([]netip.Addr, error) {
		a := netip.MustParseAddr(addrs[min(n, len(addrs)-1)])
		n++
		return []netip.Addr{a}, nil
	}
}

func TestRedirectToARefusedAddress(t *testing.T) {
	for _, target := range []string{"http://10.1.2.3/", "http://169.254.169.254/latest/meta-data", "http://[::1]:80/", "http://[64:ff9b::7f00:1]/"} {
		base, port := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target, http.StatusFound) })
		_, err := New(local(80, port)).Fetch(t.Context(), base, io.Discard)
		wantReason(t, err, ReasonAddress)
	}
	for _, target := range []string{"file:///etc/passwd", "gopher://x/", "http://user:pw@example.com/", "http://example.com:22/"} {
		base, port := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", target)
			w.WriteHeader(http.StatusFound)
		})
		_, err := New(local(80, port)).Fetch(t.Context(), base, io.Discard)
		wantReason(t, err, ReasonURL)
	}
}

// TestRebindingIsCaughtOnTheDialledAddress: the first hop resolves to an allowed
// address, the same name on the second hop to a refused one.
func TestRebindingIsCaughtOnTheDialledAddress(t *testing.T) {
	_, port := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			t.Error("the second hop was reached")
		}
		http.Redirect(w, r, "/again", http.StatusFound)
	})
	c := Config{Ports: []uint16{port}, AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Lookup: answers("127.0.0.1", "127.0.0.2")}
	_, err := New(c).Fetch(t.Context(), fmt.Sprintf("http://rebind.test:%d/", port), io.Discard)
	wantRefused(t, err)
}

func TestEveryAddressOfANameIsChecked(t *testing.T) {
	_, port := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	c := local(port)
	c.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::ffff:127.0.0.1")}, nil
	}
	if _, err := New(c).Fetch(t.Context(), fmt.Sprintf("http://mixed.test:%d/", port), io.Discard); err != nil {
		t.Errorf("the allowed address was not tried: %v", err)
	}
}

func TestRedirectsAreCounted(t *testing.T) {
	hops := 0
	base, port := serve(t, func(w http.ResponseWriter, r *http.Request) {
		hops++
		http.Redirect(w, r, "/", http.StatusFound)
	})
	_, err := New(local(port)).Fetch(t.Context(), base, io.Discard)
	wantReason(t, err, ReasonTooManyRedirects)
	if hops != 4 {
		t.Errorf("%d requests for 3 redirects", hops)
	}
}

func TestSizeIsCappedOnDecodedBytes(t *testing.T) {
	bomb := gzipped(t, 8<<20)
	base, port := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/bomb":
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb)
		case "/claimed":
			w.Header().Set("Content-Length", "2000000")
			_, _ = w.Write(make([]byte, 2_000_000))
		case "/exact":
			_, _ = w.Write(make([]byte, 1<<20))
		default:
			for range 2000 {
				_, _ = w.Write(make([]byte, 1000))
			}
		}
	})
	c := local(port)
	c.MaxBytes = 1 << 20
	for _, p := range []string{"/bomb", "/claimed", "/chunked"} {
		var n counter
		_, err := New(c).Fetch(t.Context(), base+p, &n)
		wantReason(t, err, ReasonTooLarge)
		if n > 1<<20 {
			t.Errorf("%s: wrote %d bytes", p, n)
		}
	}
	if m, err := New(c).Fetch(t.Context(), base+"/exact", io.Discard); err != nil || m.Size != 1<<20 {
		t.Errorf("a document of the largest size: %v, %v", m.Size, err)
	}
}

type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

func gzipped(t *testing.T, n int) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestSlowServersTimeOut(t *testing.T) {
	release := make(chan struct{})
	base, port := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			for { // a byte at a time, for as long as anybody listens
				if _, err := io.WriteString(w, "x"); err != nil {
					return
				}
				w.(http.Flusher).Flush()
				select {
				case <-release:
					return
				case <-r.Context().Done():
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
		}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	c := local(port)
	c.Timeout = 150 * time.Millisecond
	_, err := New(c).Fetch(t.Context(), base+"/body", io.Discard)
	if e := wantReason(t, err, ReasonTimeout); !e.Retryable {
		t.Error("a slow server may be faster later")
	}
	c.Timeout, c.HeaderTimeout = time.Minute, 50*time.Millisecond
	_, err = New(c).Fetch(t.Context(), base+"/header", io.Discard)
	wantReason(t, err, ReasonTimeout)

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := New(local(port)).Fetch(ctx, base+"/header", io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestStatusTellsWhetherToTryAgain(t *testing.T) {
	base, port := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var code int
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &code)
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(code)
	})
	for code, retry := range map[int]bool{204: false, 304: false, 400: false, 401: false, 404: false, 408: true, 429: true, 500: true, 503: true} {
		_, err := New(local(port)).Fetch(t.Context(), fmt.Sprintf("%s/%d", base, code), io.Discard)
		e := wantReason(t, err, ReasonStatus)
		s, ok := errors.AsType[*StatusError](err)
		if e.Retryable != retry || !ok || s.Code != code || s.RetryAfter != 7*time.Second {
			t.Errorf("status %d: %v, %+v", code, e.Retryable, s)
		}
	}
}

func TestRetryAfterReadsSecondsAndDates(t *testing.T) {
	now := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"": 0, "x": 0, "-5": 0, "30": 30 * time.Second, "99999999": 24 * time.Hour,
		"Wed, 01 May 2024 12:01:00 GMT": time.Minute, "Wed, 01 May 2024 11:00:00 GMT": 0,
	} {
		if got := retryAfter(v, now); got != want {
			t.Errorf("%q: %v, want %v", v, got, want)
		}
	}
}

func TestTransportFailuresHaveTheirReasons(t *testing.T) {
	tlsServer := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	tlsServer.Config.ErrorLog = log.New(t.Output(), "", 0) // of the handshakes that fail on purpose
	tlsServer.StartTLS()
	t.Cleanup(tlsServer.Close)
	port := tlsServer.Listener.Addr().(*net.TCPAddr).AddrPort().Port()
	_, err := New(local(port)).Fetch(t.Context(), tlsServer.URL, io.Discard)
	wantReason(t, err, ReasonTLS)

	c := local(port)
	c.RootCAs = x509.NewCertPool()
	c.RootCAs.AddCert(tlsServer.Certificate())
	if _, err := New(c).Fetch(t.Context(), tlsServer.URL, io.Discard); err != nil {
		t.Errorf("trusted: %v", err)
	}

	plain, plainPort := serve(t, func(http.ResponseWriter, *http.Request) {})
	_, err = New(local(plainPort)).Fetch(t.Context(), strings.Replace(plain, "http:", "https:", 1), io.Discard)
	wantReason(t, err, ReasonTLS)

	c = local(port)
	c.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
	}
	_, err = New(c).Fetch(t.Context(), fmt.Sprintf("http://nowhere.test:%d/", port), io.Discard)
	if e := wantReason(t, err, ReasonDNS); e.Retryable {
		t.Error("a name that does not exist is no reason to try again")
	}

	gone := httptest.NewServer(nil)
	gonePort := gone.Listener.Addr().(*net.TCPAddr).AddrPort().Port()
	gone.Close()
	_, err = New(local(gonePort)).Fetch(t.Context(), gone.URL, io.Discard)
	wantReason(t, err, ReasonConnection)
}

func TestCutBodyAndForeignEncodingFail(t *testing.T) {
	base, port := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/brotli" {
			w.Header().Set("Content-Encoding", "br")
			return
		}
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "short")
	})
	_, err := New(local(port)).Fetch(t.Context(), base+"/cut", io.Discard)
	wantReason(t, err, ReasonConnection)
	_, err = New(local(port)).Fetch(t.Context(), base+"/brotli", io.Discard)
	wantReason(t, err, ReasonEncoding)
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestFailureOfTheWriterIsNotTheSources(t *testing.T) {
	base, port := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") })
	_, err := New(local(port)).Fetch(t.Context(), base, brokenWriter{})
	if !errors.Is(err, io.ErrClosedPipe) || pipeline.ReasonOf(err) != "INTERNAL" {
		t.Errorf("got %v", err)
	}
}

func TestFileNameIsABaseName(t *testing.T) {
	for _, c := range []struct{ disposition, url, want string }{
		{"", "http://a/b/c.pdf?x=/y", "c.pdf"},
		{"", "http://a/", ""},
		{"", "http://a", ""},
		{"", "http://a/b/..", ""},
		{"", "http://a/x%2Fy.txt", "y.txt"},
		{`attachment; filename="../../etc/passwd"`, "http://a/x", "passwd"},
		{`attachment; filename="C:\\tmp\\r.docx"`, "http://a/x", "r.docx"},
		{`attachment; filename*=UTF-8''M%C3%BChle.pdf`, "http://a/x", "Mühle.pdf"},
		{`attachment; filename="a` + "\x01" + `b"`, "http://a/x", "ab"},
		{"", "http://a/" + strings.Repeat("n", 400) + ".pdf", strings.Repeat("n", 251) + ".pdf"},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		if got := fileName(c.disposition, u); got != c.want {
			t.Errorf("%q %q: %q, want %q", c.disposition, c.url, got, c.want)
		}
	}
}
