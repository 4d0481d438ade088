package edge

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/headrace/headrace/router"
)

// Bounds of the results kept for idempotency keys. The time is that of the log,
// which answers repeated publications to channels with history.
const (
	onceEntries = 16384
	onceBytes   = 64 << 20
	onceTTL     = 2 * time.Minute
)

// onceCache keeps the results of calls by idempotency key, of this node only. Above
// its bounds the oldest is forgotten.
type onceCache struct {
	ttl      time.Duration
	maxBytes int

	mu      sync.Mutex // guards the fields below
	entries *simplelru.LRU[string, *onceEntry]
	bytes   int
}

type onceEntry struct {
	done   chan struct{} // closed when the call has ended
	result json.RawMessage
	ok     bool // false: it failed and may be tried again
	at     time.Time
}

func newOnceCache(entries, maxBytes int, ttl time.Duration) *onceCache {
	c := &onceCache{ttl: ttl, maxBytes: maxBytes}
	// It fails for a size below 1 only.
	c.entries, _ = simplelru.NewLRU(entries, func(_ string, e *onceEntry) { c.bytes -= len(e.result) })
	return c
}

// do returns the result of the call that had key before, or of f. A call under way
// is waited for. Failures are not kept.
func (c *onceCache) do(ctx context.Context, key string, f func() (any, error)) (any, error) {
	for {
		e, mine := c.claim(key)
		if mine {
			return c.run(key, e, f)
		}
		select {
		case <-e.done:
		case <-ctx.Done():
			return nil, router.Unavailable("the call with this idempotency key", ctx.Err())
		}
		if e.ok {
			return e.result, nil
		}
	}
}

// claim returns the entry of key, and whether the caller has to fill it.
func (c *onceCache) claim(key string) (e *onceEntry, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries.Peek(key); ok && time.Since(e.at) < c.ttl {
		return e, false
	}
	e = &onceEntry{done: make(chan struct{}), at: time.Now()}
	c.entries.Remove(key) // so that the order stays that of age
	c.entries.Add(key, e)
	return e, true
}

func (c *onceCache) run(key string, e *onceEntry, f func() (any, error)) (any, error) {
	result, err := f()
	var encoded []byte
	if err == nil {
		encoded, err = json.Marshal(result)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(e.done)
	if kept, ok := c.entries.Peek(key); ok && kept == e {
		if err != nil {
			c.entries.Remove(key)
		} else {
			c.bytes += len(encoded)
		}
	}
	if err != nil {
		return nil, err
	}
	e.result, e.ok = encoded, true
	for c.bytes > c.maxBytes {
		c.entries.RemoveOldest()
	}
	return e.result, nil
}
