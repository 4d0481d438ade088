package persistence

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/headrace/headrace/router"
)

// channelState is what was last known of a channel: its newest entry, which is in
// the image. It is never changed, only replaced.
type channelState struct {
	head head
	// image is where the newest entry lies in the key store; 0 for a marker.
	image uint64
	keys  int
	// gen names a time during which every entry of the channel passed here. What is
	// known of a key of this generation is current.
	gen uint64
}

// keyID names a key of a channel.
type keyID struct{ channel, key string }

type knownKey struct {
	gen   uint64
	entry router.Entry // Seq is the place in the key store; zero when there is none
}

// keyCache remembers keys. What it says counts only for the generation it was said
// in.
type keyCache struct {
	mu    sync.Mutex // guards the fields below
	keys  *simplelru.LRU[keyID, knownKey]
	bytes int
	gens  uint64
}

// keyCacheBytes bounds a cache, values and an estimate of the rest.
const keyCacheBytes = 32 << 20

func newKeyCache() *keyCache {
	c := &keyCache{}
	// Bytes are the bound, see put. NewLRU fails for a limit below 1 only.
	c.keys, _ = simplelru.NewLRU(1<<30, func(id keyID, k knownKey) { c.bytes -= cost(id, &k) })
	return c
}

func cost(id keyID, k *knownKey) int {
	n := 256 + len(id.channel) + len(id.key) + len(k.entry.Data) + len(k.entry.Meta)
	if k.entry.Mark != nil {
		n += 128 + 8*len(k.entry.Mark.Prev)
	}
	return n
}

// generation begins a new one.
func (c *keyCache) generation() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gens++
	return c.gens
}

func (c *keyCache) get(id keyID, gen uint64) (router.Entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.keys.Get(id)
	if !ok || k.gen != gen {
		return router.Entry{}, false
	}
	return k.entry, true
}

// drop forgets a key.
func (c *keyCache) drop(id keyID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys.Remove(id)
}

func (c *keyCache) put(id keyID, gen uint64, e router.Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := knownKey{gen, e}
	c.keys.Remove(id) // so that its bytes are counted out
	c.keys.Add(id, k)
	c.bytes += cost(id, &k)
	for c.bytes > keyCacheBytes {
		c.keys.RemoveOldest()
	}
}
