package router

import "testing"

// The value before is that of the flow, in whatever order changes and what is read or
// answered about them come.
func TestValueBeforeAChange(t *testing.T) {
	type step struct {
		flow   uint64 // the offset of a change that the flow brings
		saw    uint64 // or of one that an answer or a page brings
		remove bool
		before uint64 // offset of the value before; 0 is not known
	}
	for name, steps := range map[string][]step{
		"nothing is known of a key":                     {{flow: 1}},
		"one change after the other":                    {{flow: 1}, {flow: 2, before: 1}, {flow: 3, before: 2}},
		"a removal leaves nothing":                      {{flow: 1}, {flow: 2, remove: true, before: 1}, {flow: 3}, {flow: 4, before: 3}},
		"what was read is known":                        {{saw: 1}, {flow: 2, before: 1}, {saw: 2}, {flow: 3, before: 2}},
		"an answer comes before the change":             {{flow: 1}, {saw: 2}, {flow: 2, before: 1}, {flow: 3, before: 2}},
		"two answers come before the changes":           {{flow: 1}, {saw: 2}, {saw: 3}, {flow: 2, before: 1}, {flow: 3, before: 2}, {flow: 4, before: 3}},
		"only the second answer does":                   {{flow: 1}, {saw: 3}, {flow: 2, before: 1}, {flow: 3, before: 2}, {flow: 4, before: 3}},
		"an answer to a key of which nothing was known": {{saw: 2}, {flow: 1}, {flow: 2}, {flow: 3, before: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			c := &liveChannel{sh: &shard{states: newStateCache(1 << 20)}, ns: &Namespace{DeltaTypes: []string{DeltaFossil}}, subs: []*Subscription{{}}}
			for i, s := range steps {
				if s.saw > 0 {
					id := stateID{c, c.stateGen, "k"}
					have, known := c.sh.states.keys.Peek(id)
					if s.saw == c.head.Number+1 && c.head.Number == 0 {
						c.head.Number = s.saw // it was read before there was a flow
					}
					if !known || have.Offset < s.saw {
						c.putState(id, have, known, StateEntry{Key: "k", Offset: s.saw})
					}
					continue
				}
				e := Entry{Number: s.flow, Mark: &KeyMark{Key: "k", Version: s.flow, Removed: s.remove}}
				var got uint64
				if b := c.before(&e); b != nil {
					got = b.Offset
				}
				if got != s.before {
					t.Errorf("step %d: %d was there before %d, want %d", i+1, got, s.flow, s.before)
				}
				c.head.Number = s.flow
				c.learnState(&e)
			}
			if n := len(c.ahead.keys); n > 0 {
				t.Errorf("%d values are kept for nothing", n)
			}
		})
	}
}
