package gossip

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// advertised says which address others reach us at: what was configured (host
// or host:port), else where we listen, else the first address of the machine
// that looks reachable.
func advertised(ctx context.Context, configured string, bound netip.AddrPort) (netip.AddrPort, error) {
	if configured == "" {
		if !bound.Addr().IsUnspecified() {
			return bound, nil
		}
		ip, err := machineAddr(bound.Addr().Is4())
		return netip.AddrPortFrom(ip, bound.Port()), err
	}
	if ip, err := netip.ParseAddr(configured); err == nil { // an IPv6 address has colons too
		return netip.AddrPortFrom(ip, bound.Port()), nil
	}
	host, portText, err := net.SplitHostPort(configured)
	if err != nil {
		host, portText = configured, strconv.Itoa(int(bound.Port()))
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return netip.AddrPort{}, fmt.Errorf("%w: advertise %q: not a port", ErrConfig, configured)
	}
	ips, err := lookUp(ctx, host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("gossip: advertise: %w", err)
	}
	return netip.AddrPortFrom(ips[0], uint16(port)), nil
}

// lookUp gives at least one address of a host, which may be an address itself.
func lookUp(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	return ips, nil
}

// machineAddr prefers a private IPv4 address, then any other.
func machineAddr(only4 bool) (netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("gossip: addresses of this machine: %w", err)
	}
	best, rank := netip.Addr{}, 0
	for _, a := range all {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		ip, r := prefix.Addr().Unmap(), 0
		switch {
		case !ip.IsGlobalUnicast() || only4 && !ip.Is4():
			continue
		case ip.Is4() && ip.IsPrivate():
			r = 4
		case ip.Is4():
			r = 3
		case ip.IsPrivate():
			r = 2
		default:
			r = 1
		}
		if r > rank {
			best, rank = ip, r
		}
	}
	if rank == 0 {
		return netip.Addr{}, fmt.Errorf("%w: this machine has no address that others could reach; name one to advertise", ErrConfig)
	}
	return best, nil
}
