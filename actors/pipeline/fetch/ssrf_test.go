package fetch

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"granary.dev/granary/actors/pipeline"
)

// B1, C3: whatever IPv4 addresses are wrapped in, they are not reached that way.
func TestB1_C3_TunnelsToIPv4AreNotDialled(t *testing.T) {
	p := policy{nat64: []netip.Prefix{netip.MustParsePrefix("2a0a:1234::/32"), netip.MustParsePrefix("2a0b:1:2:3::/64"), netip.MustParsePrefix("2a0c::/96")}}
	for addr, ok := range map[string]bool{
		"2a00::5efe:a00:1": false, "2a00::200:5efe:10.0.0.1": false, "2606:4700:1:2:0:5efe:808:808": false, // ISATAP
		"2a00:0:0:0:1:5efe:a00:1": true,                               // only looks like it
		"::ffff:0:10.0.0.1":       false,                              // IPv4-translated (SIIT)
		"::10.0.0.1":              false,                              // IPv4-compatible
		"2002:a00:1::1":           false,                              // 6to4
		"2001:0:a00:1::1":         false,                              // Teredo
		"64:ff9b:1:a00:0:100::":   false,                              // NAT64 for local use
		"2a0a:1234:a00:1::":       false, "2a0a:1234:808:808::": true, // NAT64 of the network's own, /32
		"2a0b:1:2:3:a:0:100:0": false, "2a0b:1:2:3:8:808:800:0": true, // /64: 10.0.0.1 and 8.8.8.8 after the octet that is skipped
		"2a0c::10.0.0.1": false, "2a0c::8.8.8.8": true, "2a0c::169.254.169.254": false, // /96
	} {
		if err := p.check(netip.MustParseAddr(addr)); (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
	}
	for prefix, ok := range map[string]bool{"2a0c::/96": true, "2a0c::/33": false, "10.0.0.0/32": false, "64:ff9b:1::/48": true} {
		if ValidNAT64(netip.MustParsePrefix(prefix)) != ok {
			t.Errorf("%s: want %v", prefix, ok)
		}
	}
}

// B1, C3: a host that reads like an address to some and like a name to others is
// judged by what is dialled, whatever a resolver makes of it.
func TestB1_C3_HostsInDisguiseAreJudgedByTheAddressDialled(t *testing.T) {
	loose := func(_ context.Context, host string) ([]netip.Addr, error) { // as inet_aton would
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	f := New(Config{Lookup: loose})
	for _, host := range []string{
		"2130706433", "0x7f000001", "017700000001", "0177.0.0.1", "0x7f.1", "127.1", "127.0.1", "127.0.0.1.", "00127.0.0.1",
		"localhost", "localhost.", "LOCALHOST", "localhost.localdomain", "１２７.０.０.１", "①②⑦.⓪.⓪.①", "127。0。0。1", "ⓛocalhost",
		"xn--localhost-.example", "127.0.0.1.nip.example", "metadata.google.internal", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[0:0:0:0:0:ffff:7f00:1]",
	} {
		_, err := f.Fetch(t.Context(), "http://"+host+"/", io.Discard)
		switch pipeline.ReasonOf(err) {
		case ReasonAddress, ReasonURL:
		case ReasonDNS:
			wantRefused(t, err)
		default:
			t.Errorf("%s was dialled, or: %v", host, err)
		}
	}
}

// B1, C3: nothing of one hop, of the caller or of the server goes to the next.
func TestB1_C3_RedirectsCarryNothingAlong(t *testing.T) {
	base, port := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			w.Header().Set("Set-Cookie", "session=1")
			http.Redirect(w, r, fmt.Sprintf("http://localhost:%s/next", r.Host[strings.LastIndex(r.Host, ":")+1:]), http.StatusTemporaryRedirect)
			return
		}
		for _, name := range []string{"Cookie", "Referer", "Authorization", "Proxy-Authorization"} {
			if v := r.Header.Get(name); v != "" {
				t.Errorf("%s: %s", name, v)
			}
		}
		_, _ = io.WriteString(w, "ok")
	})
	c := local(port)
	c.Lookup = answers("127.0.0.1")
	if _, err := New(c).Fetch(t.Context(), base+"/?token=secret", io.Discard); err != nil {
		t.Error(err)
	}
}

// B1: no connection is reused for another host, and so none that was checked for one
// name serves another: neither kept alive nor shared by HTTP/2.
func TestB1_EachHopDialsAnew(t *testing.T) {
	var remotes []string
	base, port := serve(t, func(w http.ResponseWriter, r *http.Request) {
		remotes = append(remotes, r.RemoteAddr+" "+r.Proto)
		if len(remotes) < 3 {
			http.Redirect(w, r, "/more", http.StatusFound)
		}
	})
	f := New(local(port))
	if _, err := f.Fetch(t.Context(), base, io.Discard); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range remotes {
		if seen[r] || !strings.HasSuffix(r, "HTTP/1.1") {
			t.Errorf("hops came from %v", remotes)
		}
		seen[r] = true
	}
	if tr := f.client.Transport.(*http.Transport); tr.ForceAttemptHTTP2 || !tr.DisableKeepAlives || tr.Proxy != nil {
		t.Error("connections may be shared, or a proxy asked")
	}
}

// B1: a resolver that never answers ends with the fetch.
func TestB1_ASilentResolverTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New(Config{Lookup: func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		_, err := f.Fetch(t.Context(), "http://silent.test/", io.Discard)
		wantReason(t, err, ReasonTimeout)
	})
}

// B1, C3: causes go to the log. They quote neither the URL, which may be signed, nor
// what the server sent.
func TestB1_C3_ErrorsQuoteNoURLAndNoAnswer(t *testing.T) {
	base, port := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/resets":
			panic(http.ErrAbortHandler)
		case "/location":
			w.Header().Set("Location", "http://[::1/?sig=SECRET")
			w.WriteHeader(http.StatusFound)
		case "/loops":
			http.Redirect(w, r, r.URL.String(), http.StatusFound)
		case "/private":
			http.Redirect(w, r, "http://10.0.0.1/?sig=SECRET", http.StatusFound)
		default:
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(c, "SECRET is no HTTP\r\n\r\n")
				_ = c.Close()
			}
		}
	})
	f := New(local(port))
	for _, u := range []string{base + "/resets", base + "/location", base + "/loops", base + "/private", base + "/junk", "http://nowhere.invalid/", "http://127.0.0.1:1/", base + "/%zz", "http://u:SECRET@x/"} {
		_, err := f.Fetch(t.Context(), u+"?sig=SECRET", io.Discard)
		if err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", u, err)
		}
	}
}
