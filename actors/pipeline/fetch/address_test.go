package fetch

import (
	"net/netip"
	"strings"
	"testing"

	"granary.dev/granary/actors/pipeline"
)

func TestOnlyPublicAddressesAreDialled(t *testing.T) {
	for _, addr := range []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16", "169.254.169.254",
		"172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.7",
		"203.0.113.9", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1",
		"100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:c0a8:101::1", "3fff::1",
		"5f00::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "4000::1",
	} {
		if err := (policy{}).check(netip.MustParseAddr(addr)); err == nil {
			t.Errorf("%s may be dialled", addr)
		}
	}
	for _, addr := range []string{"1.1.1.1", "8.8.8.8", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1", "192.0.1.1", "198.17.0.1", "223.255.255.255", "2606:4700:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8"} {
		if err := (policy{}).check(netip.MustParseAddr(addr)); err != nil {
			t.Errorf("%s is refused: %v", addr, err)
		}
	}
	if err := (policy{}).check(netip.Addr{}); err == nil {
		t.Error("no address may be dialled")
	}
}

func TestAllowedNetworksOpenOnlyThemselves(t *testing.T) {
	p := policy{allowed: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("fd12::/64")}}
	for addr, ok := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false, "fd12::5": true, "fd13::5": false,
		"64:ff9b::808:808": true, "64:ff9b::7f00:1": false, "64:ff9b::a01:203": true, "64:ff9b::a02:203": false,
	} {
		if err := p.check(netip.MustParseAddr(addr)); (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestURLsAreCheckedBeforeAnythingIsResolved(t *testing.T) {
	f := New(Config{})
	for raw, reason := range map[string]string{
		"": ReasonURL, "example.com": ReasonURL, "//example.com/": ReasonURL, "ftp://example.com/": ReasonURL, "javascript:alert(1)": ReasonURL, "file:///etc/passwd": ReasonURL,
		"http://": ReasonURL, "http:///x": ReasonURL, "http:example.com": ReasonURL, "http://user@example.com/": ReasonURL, "http://user:pw@example.com/": ReasonURL, "http://@example.com/": ReasonURL,
		"http://example.com:22/": ReasonURL, "http://example.com:0/": ReasonURL, "http://example.com:99999/": ReasonURL, "http://example.com:80a/": ReasonURL,
		"http://exa mple.com/": ReasonURL, "http://example.com/\n": ReasonURL, "http://example.com\\@10.0.0.1/": ReasonURL, "http://[fe80::1%25eth0]/": ReasonURL, "http://%31%32%37.0.0.1/x": ReasonURL,
		"http://example.com/" + strings.Repeat("x", maxURL): ReasonURL, "http://" + strings.Repeat("x.", 200) + "com/": ReasonURL,
		"http://127.0.0.1/": ReasonAddress, "http://[::1]/": ReasonAddress, "http://[::ffff:8.8.8.8]/": ReasonAddress, "http://[::ffff:7f00:1]/": ReasonAddress, "http://[64:ff9b::7f00:1]/": ReasonAddress, "http://169.254.169.254/": ReasonAddress,
		"http://example.com": "", "HTTPS://Example.com:8443/a?b#c": "", "http://münchen.example/": "", "http://example.com:/": "", "http://[2606:4700::1111]:8080/": "", "http://8.8.8.8/": "",
	} {
		_, err := f.parseURL(raw)
		got := ""
		if err != nil {
			got = pipeline.ReasonOf(err)
		}
		if got != reason {
			t.Errorf("%.60q: %v, want %q", raw, err, reason)
		}
	}
}

// FuzzURL looks for a URL that is taken although it names what is refused.
func FuzzURL(f *testing.F) {
	for _, s := range []string{"http://example.com/", "http://a@b", "http://[::ffff:1.2.3.4]:80/", "http://0x7f.1/", "https://x:443", "http://%6c/", "http://[::1]", "http://1.2.3.4\\@5"} {
		f.Add(s)
	}
	fetcher := New(Config{})
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := fetcher.parseURL(raw)
		if err != nil {
			if r := pipeline.ReasonOf(err); r != ReasonURL && r != ReasonAddress {
				t.Errorf("%q: %v", raw, err)
			}
			return
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Hostname() == "" {
			t.Errorf("%q was taken as %v", raw, u)
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && fetcher.policy.check(a) != nil {
			t.Errorf("%q names a refused address", raw)
		}
		// What is sent must be read again as the same.
		again, err := fetcher.parseURL(u.String())
		if err != nil || again.Host != u.Host || again.Scheme != u.Scheme {
			t.Errorf("%q is written as %q: %v", raw, u, err)
		}
	})
}
