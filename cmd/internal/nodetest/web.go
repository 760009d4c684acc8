package nodetest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"granary.dev/granary/cmd/internal/node"
)

// Web is a web server whose pages a test can hold back: a document that is
// fetched from it is under way for as long as the test wants.
type Web struct {
	asked chan string // the path of each page that was held back

	s  *httptest.Server
	mu sync.Mutex
	ok chan struct{} // closed while pages are served
}

// NewWeb starts a web server, until the test ends, that serves at once.
func NewWeb(t testing.TB) *Web {
	w := &Web{asked: make(chan string, 100), ok: make(chan struct{})}
	close(w.ok)
	w.s = httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(func() {
		w.Release()
		w.s.Close()
	})
	return w
}

func (w *Web) gate() chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ok
}

func (w *Web) serve(out http.ResponseWriter, r *http.Request) {
	gate := w.gate()
	select {
	case <-gate:
	default:
		w.asked <- r.URL.Path
		select {
		case <-gate:
		case <-r.Context().Done():
			return
		}
	}
	_, _ = fmt.Fprintf(out, "The page %s is about %s.", r.URL.Path, r.URL.Path[1:])
}

// Hold holds all pages back that are asked for from now on.
func (w *Web) Hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.ok:
		w.ok = make(chan struct{})
	default:
	}
}

// Release serves what was held back.
func (w *Web) Release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.ok:
	default:
		close(w.ok)
	}
}

// Await waits until n pages that are held back were asked for.
func (w *Web) Await(t testing.TB, n int) {
	t.Helper()
	limit := time.NewTimer(askedWithin)
	defer limit.Stop()
	for i := range n {
		select {
		case <-w.asked:
		case <-limit.C:
			t.Fatalf("%d of %d pages were asked for within %v", i, n, askedWithin)
		}
	}
}

// askedWithin is less than the time after which any node picks up what its owner forgot.
const askedWithin = 20 * time.Second

// URL is where a page about a word is.
func (w *Web) URL(word string) string { return w.s.URL + "/" + word }

// Allow lets a node fetch from this server.
func (w *Web) Allow(c *node.Config) {
	u, err := url.Parse(w.s.URL)
	if err != nil {
		return
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err == nil {
		c.Fetch.Ports = append(c.Fetch.Ports, uint16(port))
	}
}
