package router

import (
	"context"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// The keys that a shard remembers of the maps with interest here (rule S3). While the
// flow of a channel is unbroken every change of a key passes by, so what is remembered
// is never older than anything delivered or answered here before. It may be older
// than what another node stored a moment ago: who must not miss that asks for a fresh
// read, or says what it saw.

// stateID names a key during one unbroken flow of a channel.
type stateID struct {
	c   *liveChannel
	gen uint64
	key string
}

// stateCacheBytes bounds the remembered keys of a node.
const stateCacheBytes = 32 << 20

// stateCache belongs to a shard.
type stateCache struct {
	keys  *simplelru.LRU[stateID, StateEntry]
	bytes int
	limit int
}

func newStateCache(limit int) *stateCache {
	s := &stateCache{limit: limit}
	// Bytes are the bound. NewLRU fails for a limit below 1 only.
	s.keys, _ = simplelru.NewLRU(1<<30, func(id stateID, e StateEntry) { s.bytes -= stateCost(&id, &e) })
	return s
}

func stateCost(id *stateID, e *StateEntry) int { return 320 + len(id.key) + len(e.Key) + len(e.Data) }

func (s *stateCache) put(id stateID, e StateEntry) {
	s.keys.Remove(id) // so that its bytes are counted out
	s.keys.Add(id, e)
	for s.bytes += stateCost(&id, &e); s.bytes > s.limit; {
		s.keys.RemoveOldest()
	}
}

// learnState notes e, which was just accepted. Answers to changes made here may be
// ahead of the flow: what they brought is not overwritten by what comes after them.
func (c *liveChannel) learnState(e *Entry) {
	if e.Mark == nil {
		return
	}
	id := stateID{c, c.stateGen, e.Mark.Key}
	if have, known := c.sh.states.keys.Peek(id); !known && e.Number >= c.stateSeen || known && have.Offset < e.Number {
		c.sh.states.put(id, e.State())
	}
}

// cachedState returns what this node remembers of a key, if it may answer.
func (n *Node) cachedState(ctx context.Context, channel, key string) (StateEntry, bool) {
	if n.cfg.Store.Healthy() != nil {
		return StateEntry{}, false // the store knows better, or says that nobody knows
	}
	type found struct {
		e  StateEntry
		ok bool
	}
	answer := make(chan found, 1)
	sh := n.shardOf(channel)
	posted := sh.post(func() {
		var f found
		if c := sh.channels[channel]; c != nil && c.flow == flowLive {
			f.e, f.ok = sh.states.keys.Get(stateID{c, c.stateGen, key})
		}
		answer <- f
	})
	if !posted {
		return StateEntry{}, false
	}
	select {
	case f := <-answer:
		return f.e, f.ok
	case <-ctx.Done():
		return StateEntry{}, false
	}
}

// sawState notes e, which reflects the channel at pos.
func (n *Node) sawState(channel string, e StateEntry, pos Position) {
	if pos.Offset == 0 || e.Key == "" {
		return
	}
	sh := n.shardOf(channel)
	sh.post(func() {
		c := sh.channels[channel]
		if c == nil || c.flow != flowLive || c.head.Number == 0 || pos.Epoch != c.epoch() {
			return
		}
		id := stateID{c, c.stateGen, e.Key}
		have, known := sh.states.keys.Peek(id)
		// A change above pos may have come and been forgotten again.
		if known && have.Offset >= e.Offset || !known && c.head.Number > pos.Offset {
			return
		}
		c.putState(id, have, known, e)
	})
}
