package auth

import (
	"crypto/sha256"
	"sync"
	"time"

	"granary.dev/granary/gateway"
)

const (
	cacheEntries = 4096            // about 1 MB
	cacheTime    = 5 * time.Minute // how long a token is not checked again
)

// cache remembers verified tokens by their hash, so that no token stays in memory.
// It is bounded: the oldest entry makes room. An entry's place in the ring is its
// age, which is all the order that entries of one fixed time need.
type cache struct {
	mu      sync.Mutex
	life    time.Duration
	entries map[[sha256.Size]byte]cached
	ring    [][sha256.Size]byte
	next    int
}

type cached struct {
	principal gateway.Principal
	until     time.Time
}

func newCache(size int, life time.Duration) *cache {
	return &cache{
		life: life, entries: make(map[[sha256.Size]byte]cached),
		ring: make([][sha256.Size]byte, 0, size),
	}
}

func (c *cache) get(token string, now time.Time) (gateway.Principal, bool) {
	key := sha256.Sum256([]byte(token))
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	return e.principal, ok && now.Before(e.until)
}

// put remembers the principal for the cache's time, never past exp.
func (c *cache) put(token string, p gateway.Principal, exp, now time.Time) {
	until := now.Add(c.life)
	if exp.Before(until) {
		until = exp
	}
	key := sha256.Sum256([]byte(token))
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.entries[key]; known {
		c.entries[key] = cached{p, until}
		return
	}
	if len(c.ring) < cap(c.ring) {
		c.ring = append(c.ring, key)
	} else {
		delete(c.entries, c.ring[c.next])
		c.ring[c.next] = key
		c.next = (c.next + 1) % len(c.ring)
	}
	c.entries[key] = cached{p, until}
}
