package check

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// keyState is a key as it should be. The zero keyState is one without versions.
type keyState struct {
	life    string // lifeUnknown and more: nobody has been told it
	version uint64
	value   string // "" is removed
	// expires is when the value expires at the soonest, latest at the latest; both
	// differ when nobody was told. 0 is never.
	expires, latest time.Duration
	time            int64 // of the client that made the change
}

const lifeUnknown = "?"

const forever = time.Duration(math.MaxInt64)

// keyCall is an operation on a key as the model sees it. Its times are what a clock
// may have said while it took effect.
type keyCall struct {
	*State
	from, to time.Duration
	// settled is the version that an operation without answer is known to have
	// become; version 0 is not known.
	settled Version
}

// keyModel decides what sequences of operations a key may have seen.
var keyModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{keyState{}} },
	Step: func(state, input, _ any) (next []any) {
		s, c := state.(keyState), input.(keyCall)
		for _, before := range c.swept(s) {
			for _, present := range c.present(before) {
				for _, after := range c.step(before, present) {
					if !slices.Contains(next, any(after)) {
						next = append(next, after)
					}
				}
			}
		}
		return next
	},
}).ToModel()

// swept returns what s may be when c takes effect: an expired value may have been
// removed.
func (c keyCall) swept(s keyState) []keyState {
	if s.value == "" || s.expires == 0 || c.to < s.expires {
		return []keyState{s}
	}
	return []keyState{s, {life: s.life, version: s.version + 1}}
}

// present returns whether s may count as a value when c takes effect.
func (c keyCall) present(s keyState) (may []bool) {
	if s.value != "" && (s.expires == 0 || c.from <= s.latest) {
		may = append(may, true)
	}
	if s.value == "" || s.expires > 0 && c.to >= s.expires {
		may = append(may, false)
	}
	return may
}

// step returns what may come of s.
func (c keyCall) step(s keyState, present bool) []keyState {
	switch c.Op {
	case OpClear:
		if c.Outcome == Open {
			return []keyState{s, {}}
		}
		return []keyState{{}}
	case OpGet:
		return c.read(s, present)
	case OpHistory, OpFinal:
		return c.read(s, s.value != "") // expired or not
	}
	if c.refused(s, present) {
		if c.Outcome == Open {
			return []keyState{s}
		}
		if c.Outcome != Refused {
			return nil
		}
		for _, still := range c.present(s) { // it may expire between judgement and answer
			if next := c.read(s, still); next != nil {
				return next
			}
		}
		return nil
	}
	after := c.apply(s, present)
	switch c.Outcome {
	case Applied:
		return c.stored(after)
	case Open:
		if c.settled.Version > 0 { // known to have been applied
			return c.known(after, c.settled)
		}
		return []keyState{s, after}
	default:
		return nil
	}
}

// read returns s if the answer shows it.
func (c keyCall) read(s keyState, present bool) []keyState {
	if len(c.Entries) == 0 {
		if s.version == 0 {
			return []keyState{s}
		}
		return nil
	}
	got := c.Entries[0]
	if s.version == 0 || got.Removed == present || present && got.Value != s.value {
		return nil
	}
	return c.known(s, got)
}

// known returns s if it may be version got, with what that tells.
func (c keyCall) known(s keyState, got Version) []keyState {
	if s.version != got.Version {
		return nil
	}
	if got.Life != "" {
		if s.life != got.Life && !strings.HasPrefix(s.life, lifeUnknown) {
			return nil
		}
		s.life = got.Life
	}
	if s.value != "" && got.Expires > 0 {
		s.expires, s.latest = got.Expires, got.Expires
	}
	return []keyState{s}
}

// stored returns after if the answer shows it.
func (c keyCall) stored(after keyState) []keyState {
	if len(c.Entries) == 0 { // a duplicate whose original is not stored any more
		return []keyState{after}
	}
	got := c.Entries[0]
	if !got.Removed && got.Value != after.value {
		return nil
	}
	return c.known(after, got)
}

// refused reports whether c has to be refused.
func (c keyCall) refused(s keyState, present bool) bool {
	switch {
	case c.Strategy == strategyLast:
		// An expired value does not count, a removal does.
		if (present || s.value == "") && c.Time != 0 && s.time != 0 && c.Time < s.time {
			return true
		}
		return c.Op == OpDelete && !present && c.Time == 0
	case c.Strategy == strategyMerge || c.Expect == nil:
	case c.Expect.Version == 0:
		if present {
			return true
		}
	case !present || s.version != c.Expect.Version || c.Expect.Life != "" && s.life != c.Expect.Life && !strings.HasPrefix(s.life, lifeUnknown):
		return true
	}
	return c.Op == OpDelete && !present
}

// apply returns what c makes of s.
func (c keyCall) apply(s keyState, present bool) keyState {
	after := keyState{life: s.life, version: s.version + 1, time: c.Time}
	if s.version == 0 {
		after.life = lifeUnknown + c.ID
	}
	if c.Op == OpDelete {
		return after
	}
	after.value = c.Value
	if c.Strategy == strategyMerge {
		if !present {
			s.value = ""
		}
		after.value = mergeFlat(s.value, c.Value)
	}
	if c.TTL > 0 {
		after.expires, after.latest = c.from+c.TTL, forever
	}
	return after
}

// mergeFlat applies a merge patch to an object, both without objects inside.
func mergeFlat(target, patch string) string {
	all := make(map[string]any)
	json.Unmarshal([]byte(target), &all) //nolint:errcheck // nothing is an empty object
	p := make(map[string]any)
	json.Unmarshal([]byte(patch), &p) //nolint:errcheck // as it was sent
	for k, v := range p {
		if v == nil {
			delete(all, k)
		} else {
			all[k] = v
		}
	}
	b, _ := json.Marshal(all) //nolint:errcheck // came from JSON
	return string(b)
}
