package gossip

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"
)

const (
	// lookUpEvery is how old the addresses of a seed's name may get.
	lookUpEvery   = 30 * time.Second
	lookUpTimeout = 2 * time.Second
	// aliasPause follows a join through an address at which no member says it
	// is: a balancer in front of the members, or another address of our own.
	aliasPause = 30 * time.Second
	// maxNoted bounds what is kept about addresses that are no member.
	maxNoted = 1000
)

// seeds keeps this node in touch with the configured addresses and with members
// that got lost, so that groups that formed apart become one.
type seeds struct {
	list    []*seed
	self    netip.AddrPort
	members *members
	join    func(addr string) error // exchange of all that is known with one peer
	log     *slog.Logger
	aliases map[netip.AddrPort]time.Time // until when to leave them alone
	failing map[netip.AddrPort]bool      // reported once
}

type seed struct {
	host  string
	port  uint16
	addrs []netip.AddrPort
	asked time.Time
}

func parseSeed(s string) (*seed, error) {
	host, portText, err := net.SplitHostPort(s)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 || host == "" {
		return nil, &net.AddrError{Err: "not host:port", Addr: s}
	}
	return &seed{host: host, port: uint16(port)}, nil
}

// run tries at once and then every so often, until ctx ends.
func (s *seeds) run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		s.round(ctx)
		s.members.forget(time.Now())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// round tries every seed that is no member here, and one lost member.
func (s *seeds) round(ctx context.Context) {
	for _, seed := range s.list {
		for _, addr := range s.resolve(ctx, seed) {
			s.try(ctx, addr)
		}
	}
	if addr, ok := s.members.lost(); ok {
		s.try(ctx, addr)
	}
}

// resolve gives the addresses of a seed, asked for anew when they are old or
// when one of them is no member.
func (s *seeds) resolve(ctx context.Context, seed *seed) []netip.AddrPort {
	present, fresh := s.members.present(), len(seed.addrs) > 0 && time.Since(seed.asked) < lookUpEvery
	for _, a := range seed.addrs {
		fresh = fresh && (present[a] || a == s.self)
	}
	if fresh {
		return seed.addrs
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	ips, err := lookUp(ctx, seed.host)
	if err != nil {
		s.log.Debug("gossip: a seed's name is not known", "seed", seed.host, "err", err)
		return seed.addrs // better old ones than none
	}
	seed.addrs, seed.asked = seed.addrs[:0:0], time.Now()
	for _, ip := range ips {
		seed.addrs = append(seed.addrs, netip.AddrPortFrom(ip, seed.port))
	}
	return seed.addrs
}

func (s *seeds) try(ctx context.Context, addr netip.AddrPort) {
	if ctx.Err() != nil || addr == s.self || s.members.present()[addr] || time.Now().Before(s.aliases[addr]) {
		return
	}
	if len(s.failing)+len(s.aliases) > maxNoted {
		clear(s.failing)
		clear(s.aliases)
	}
	if err := s.join(addr.String()); err != nil {
		level := slog.LevelDebug
		if !s.failing[addr] && ctx.Err() == nil {
			level = slog.LevelInfo
		}
		s.failing[addr] = true
		s.log.Log(ctx, level, "gossip: peer not reached, trying again", "addr", addr, "err", err)
		return
	}
	delete(s.failing, addr)
	delete(s.aliases, addr)
	if !s.members.present()[addr] {
		s.aliases[addr] = time.Now().Add(aliasPause)
	}
}
