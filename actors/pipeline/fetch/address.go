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
	for _, a := range p.allowed {
		if a.Contains(addr) {
			// A network behind NAT64 may be allowed as the way to IPv4; what is
			// reached through it is judged as IPv4.
			if nat64.Contains(addr) {
				return p.check(embeddedIPv4(addr))
			}
			return nil
		}
	}
	for _, r := range refusedPrefixes {
		if r.prefix.Contains(addr) {
			return fmt.Errorf("%s is %s address space", addr, r.what)
		}
	}
	if addr.Is6() && !globalUnicast.Contains(addr) {
		return fmt.Errorf("%s is not global unicast address space", addr)
	}
	return nil
}

// embeddedIPv4 is the address in the last 32 bits of a NAT64 address.
func embeddedIPv4(addr netip.Addr) netip.Addr {
	b := addr.As16()
	return netip.AddrFrom4([4]byte(b[12:]))
}
