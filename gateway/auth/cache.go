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
	entry
	until time.Time
}

// entry is what is remembered of a token. It is forgotten with the keys it was
// checked by; without keys, those are this server's own.
type entry struct {
	principal  gateway.Principal
	keys       *keySet
	generation uint64
}

// good reports whether the keys that proved the token are still the issuer's.
func (e entry) good() bool {
	if e.keys == nil {
		return true
	}
	generation, ok := e.keys.current()
	return ok && generation == e.generation
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
	e, ok := c.entries[key]
	c.mu.Unlock()
	return e.principal, ok && now.Before(e.until) && e.good()
}

// put remembers a token for the cache's time, never past exp.
func (c *cache) put(token string, e entry, exp, now time.Time) {
	until := now.Add(c.life)
	if exp.Before(until) {
		until = exp
	}
	key := sha256.Sum256([]byte(token))
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.entries[key]; known {
		c.entries[key] = cached{e, until}
		return
	}
	if len(c.ring) < cap(c.ring) {
		c.ring = append(c.ring, key)
	} else {
		delete(c.entries, c.ring[c.next])
		c.ring[c.next] = key
		c.next = (c.next + 1) % len(c.ring)
	}
	c.entries[key] = cached{e, until}
}
