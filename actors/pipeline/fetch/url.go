package fetch

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// maxURL is the longest URL taken, in bytes.
const maxURL = 4096

// parseURL checks a URL before anything is resolved. Addresses in it are judged
// here only to answer early: what counts is the address that is dialled.
func (f *Fetcher) parseURL(raw string) (*url.URL, error) {
	if len(raw) > maxURL {
		return nil, urlError("it is longer than 4096 bytes", nil)
	}
	if strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7F || r == '\\' }) {
		return nil, urlError("it holds white space, a control character or a backslash", nil)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, urlError("it cannot be read", withoutURL(err))
	}
	return u, f.checkURL(u)
}

// checkURL checks the parts of a URL, also of every redirect.
func (f *Fetcher) checkURL(u *url.URL) error {
	host := u.Hostname()
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return urlError("only http and https are fetched", nil)
	case u.User != nil:
		return urlError("it holds credentials", nil)
	case u.Opaque != "" || host == "":
		return urlError("it names no host", nil)
	case strings.Contains(host, "%"):
		return urlError("its host holds an escape or a zone", nil)
	case len(host) > 253:
		return urlError("its host name is too long", nil)
	}
	if !slices.Contains(f.cfg.Ports, portOf(u)) {
		return urlError("its port is not allowed", nil)
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil // a name
	}
	if addr.Is4In6() {
		return addressError("IPv4-mapped addresses are not fetched", nil)
	}
	if err := f.policy.check(addr); err != nil {
		return addressError("the address is not on the public Internet", err)
	}
	return nil
}

// portOf is the port of a URL, 0 when it is none.
func portOf(u *url.URL) uint16 {
	switch p := u.Port(); {
	case p != "":
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return 0
		}
		return uint16(n)
	case u.Scheme == "https":
		return 443
	}
	return 80
}
