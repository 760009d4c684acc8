package fetch

import (
	"fmt"
	"net/netip"
)

// refusedPrefixes lists the address space that no source on the public
// Internet stands in, by the special-purpose registries of IANA, and what
// clouds serve to their machines from public space.
var refusedPrefixes = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "carrier-grade NAT"}, // Alibaba's metadata too
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("168.63.129.16/32"), "cloud metadata"}, // Azure
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},       // cloud metadata of nearly all
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.0.0.0/24"), "protocol assignments"}, // Oracle's metadata too
	{netip.MustParsePrefix("192.0.2.0/24"), "documentation"},
	{netip.MustParsePrefix("192.88.99.0/24"), "6to4 relay"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmarking"},
	{netip.MustParsePrefix("198.51.100.0/24"), "documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},

	// Of IPv6, global unicast is 2000::/3; all else is refused below. Inside:
	{netip.MustParsePrefix("2001::/23"), "protocol assignments"}, // Teredo, ORCHID, benchmarking
	{netip.MustParsePrefix("2001:db8::/32"), "documentation"},
	{netip.MustParsePrefix("2002::/16"), "6to4"},
	{netip.MustParsePrefix("3fff::/20"), "documentation"},
}

var (
	globalUnicast = netip.MustParsePrefix("2000::/3")
	nat64         = netip.MustParsePrefix("64:ff9b::/96")
)

// policy decides which addresses may be dialled.
type policy struct {
	allowed []netip.Prefix // of the configuration
	nat64   []netip.Prefix // of the configuration: public addresses that are ways to IPv4
}

// check returns why an address may not be dialled, nil if it may.
func (p policy) check(addr netip.Addr) error {
	addr = addr.Unmap()
	if !addr.IsValid() {
		return fmt.Errorf("no address")
	}
	if addr.Zone() != "" {
		return fmt.Errorf("%s has a zone", addr)
	}
	for _, n := range p.nat64 {
		if n.Contains(addr) {
			return p.check(embeddedIPv4(n.Bits(), addr))
		}
	}
	for _, a := range p.allowed {
		if a.Contains(addr) {
			// A network behind NAT64 may be allowed as the way to IPv4; what is
			// reached through it is judged as IPv4.
			if nat64.Contains(addr) {
				return p.check(embeddedIPv4(nat64.Bits(), addr))
			}
			return nil
		}
	}
	for _, r := range refusedPrefixes {
		if r.prefix.Contains(addr) {
			return fmt.Errorf("%s is %s address space", addr, r.what)
		}
	}
	switch {
	case !addr.Is6():
	case !globalUnicast.Contains(addr):
		return fmt.Errorf("%s is not global unicast address space", addr)
	case isISATAP(addr):
		return fmt.Errorf("%s is a tunnel to an IPv4 address", addr)
	}
	return nil
}

// isISATAP tells an address whose last 64 bits are those of ISATAP (RFC 5214), in any
// prefix: a router of it would send on to the IPv4 address in the last 32, which is
// mostly a private one.
func isISATAP(addr netip.Addr) bool {
	b := addr.As16()
	return b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}

// ValidNAT64 tells whether a prefix is one that IPv4 addresses are embedded in.
func ValidNAT64(p netip.Prefix) bool {
	switch p.Bits() {
	case 32, 40, 48, 56, 64, 96:
		return p.Addr().Is6() && !p.Addr().Is4In6()
	}
	return false
}

// embeddedIPv4 is the IPv4 address behind a prefix of NAT64 (RFC 6052, 2.2). Bits
// 64 to 71 are not part of it.
func embeddedIPv4(bits int, addr netip.Addr) netip.Addr {
	b := addr.As16()
	var v4 [4]byte
	for i, at := 0, bits/8; i < len(v4); at++ {
		if at == 8 {
			continue
		}
		v4[i] = b[at]
		i++
	}
	return netip.AddrFrom4(v4)
}
