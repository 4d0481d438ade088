package router

// maxAhead bounds the keys of a channel whose remembered value is ahead of the flow.
const maxAhead = 256

// flowValues are what the flow of a map has of keys of which a newer value is
// remembered already: of a change made here the answer may come before the copy. They
// hold during one stateGen.
type flowValues struct {
	gen  uint64
	keys map[string]StateEntry
}

// before returns the value that e replaces, if this node knows it. e is the next
// entry, and learnState has not seen it.
func (c *liveChannel) before(e *Entry) *StateEntry {
	if len(c.ns.DeltaTypes) == 0 || e.Mark == nil {
		return nil
	}
	key := e.Mark.Key
	// What is remembered at an offset below e is the newest value before e: every
	// change of the key passes learnState.
	have, known := c.sh.states.keys.Peek(stateID{c, c.stateGen, key})
	base, found := have, known && have.Offset < e.Number
	if c.ahead.gen != c.stateGen {
		c.ahead = flowValues{}
	} else if v, ok := c.ahead.keys[key]; ok {
		base, found = v, v.Offset < e.Number
		if delete(c.ahead.keys, key); known && have.Offset > e.Number {
			c.ahead.keys[key] = e.State() // still ahead
		}
	}
	if !found || base.Removed || len(c.subs) == 0 {
		return nil
	}
	return &base
}

// putState remembers e of a key of which have was remembered, if known, and which may
// be ahead of the flow.
func (c *liveChannel) putState(id stateID, have StateEntry, known bool, e StateEntry) {
	c.stateSeen = max(c.stateSeen, e.Offset)
	c.sh.states.put(id, e)
	if len(c.ns.DeltaTypes) == 0 || !known || have.Offset > c.head.Number || e.Offset <= c.head.Number {
		return
	}
	if c.ahead.gen != c.stateGen || c.ahead.keys == nil {
		c.ahead = flowValues{gen: c.stateGen, keys: make(map[string]StateEntry)}
	}
	if len(c.ahead.keys) < maxAhead {
		c.ahead.keys[id.key] = have
	}
}

// learnPage remembers the state that a subscriber was told, as far as it is that of
// the channel's head. res is what it got with it.
func (c *liveChannel) learnPage(page []StateEntry, res *SubscribeResult) {
	if len(page) == 0 || !res.Recovered {
		return
	}
	changed := make(map[string]bool, len(res.Publications))
	for _, p := range res.Publications {
		changed[p.Key] = true
	}
	for _, e := range page {
		id := stateID{c, c.stateGen, e.Key}
		have, known := c.sh.states.keys.Peek(id)
		if !changed[e.Key] && (!known || have.Offset < e.Offset) {
			c.putState(id, have, known, e)
		}
	}
}
