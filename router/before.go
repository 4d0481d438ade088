package router

// before returns the value that e replaces, if this node remembers it. e is the next
// entry, and learnState has not seen it.
func (c *liveChannel) before(e *Entry) *StateEntry {
	if len(c.ns.DeltaTypes) == 0 || e.Mark == nil || len(c.subs) == 0 {
		return nil
	}
	// What is remembered at an offset below e is the newest value before e: every
	// change of the key passes learnState. At e or above, it was an answer that was
	// ahead of the flow.
	have, known := c.sh.states.keys.Peek(stateID{c, c.stateGen, e.Mark.Key})
	if !known || have.Removed || have.Offset >= e.Number {
		return nil
	}
	return &have
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
			c.stateSeen = max(c.stateSeen, e.Offset)
			c.sh.states.put(id, e)
		}
	}
}
