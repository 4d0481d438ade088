package check

import (
	"slices"
	"testing"
	"time"
)

var stateTestRules = Rules{States: map[string]StateRules{"kv": {History: 3, Clock: 100 * time.Millisecond, Stale: 5 * time.Second}}}

// story is a record of state made by hand: each operation takes 10 ms, one after the
// other.
type story struct {
	now    time.Duration
	offset uint64
	events []Event
}

func (s *story) op(st State, entries ...Version) *Event {
	e := Event{Kind: Operated, Who: "w", Channel: "kv:c", Began: s.now, T: s.now + 10*time.Millisecond, State: &st}
	s.now += 20 * time.Millisecond
	if st.Key == "" {
		st.Key = "k"
	}
	st.Entries = entries
	if st.Outcome == Applied && st.Op != OpClear {
		s.offset++
		e.Offset, e.Epoch = s.offset, "i.L"
		for i := range entries {
			entries[i].Offset = s.offset
		}
	}
	s.events = append(s.events, e)
	return &s.events[len(s.events)-1]
}

func version(n uint64, value string) Version {
	return Version{Version: n, Life: "a", Value: value, Removed: value == ""}
}

func born(n uint64, value string) Version {
	return Version{Version: n, Life: "b", Value: value, Removed: value == ""}
}

func (s *story) set(n uint64, value string) *Event {
	return s.op(State{Op: OpSet, Value: value, Outcome: Applied}, version(n, value))
}

func (s *story) cas(expect uint64, life, value string, outcome Outcome, answer Version) *Event {
	return s.op(State{Op: OpSet, Value: value, Expect: &VersionOf{expect, life}, Outcome: outcome}, answer)
}

func (s *story) open(value string) *Event {
	e := s.op(State{Op: OpSet, Value: value, Outcome: Open, ID: value})
	return e
}

func (s *story) remove(n uint64) { s.op(State{Op: OpDelete, Outcome: Applied}, version(n, "")) }

func (s *story) get(entries ...Version) *Event {
	return s.op(State{Op: OpGet, Outcome: Answered}, entries...)
}

func (s *story) cached(seen uint64, entry Version) {
	s.op(State{Op: OpCached, Seen: &VersionOf{seen, "a"}, Outcome: Answered}, entry)
}

func (s *story) final(entries ...Version) { s.op(State{Op: OpFinal, Outcome: Answered}, entries...) }

func (s *story) clear(outcome Outcome) { s.op(State{Op: OpClear, Outcome: outcome}) }

// tell records what subscriber m was told.
func (s *story) tell(kind Kind, at uint64, entries ...Version) {
	for i := range entries {
		entries[i].Life = ""
		if entries[i].Key == "" {
			entries[i].Key = "k"
		}
	}
	s.events = append(s.events, Event{T: s.now, Began: s.now, Kind: kind, Who: "m", Channel: "kv:c", Epoch: "i.L", Offset: at, State: &State{Entries: entries}})
	s.now += 10 * time.Millisecond
}

func at(offset uint64, v Version) Version {
	v.Offset = offset
	return v
}

// brokenStates are records that break a rule.
var brokenStates = map[string]struct {
	tell func(s *story)
	rule string
}{
	"an answer from before the last change": {func(s *story) { s.set(1, "x"); s.set(2, "y"); s.get(version(1, "x")) }, RuleStateLinear},
	"two changes of one version": {func(s *story) {
		s.set(1, "x")
		s.cas(1, "a", "y", Applied, version(2, "y"))
		s.cas(1, "a", "z", Applied, version(2, "z"))
	}, RuleStateLinear},
	"a refusal without a cause":              {func(s *story) { s.set(1, "x"); s.cas(1, "a", "y", Refused, version(1, "x")) }, RuleStateLinear},
	"a value nobody set":                     {func(s *story) { s.set(1, "x"); s.get(version(1, "q")) }, RuleStateLinear},
	"a version that was skipped":             {func(s *story) { s.set(1, "x"); s.set(3, "y") }, RuleStateLinear},
	"a removed value comes back":             {func(s *story) { s.set(1, "x"); s.remove(2); s.get(version(1, "x")) }, RuleStateLinear},
	"a change without answer, seen and gone": {func(s *story) { s.set(1, "x"); s.open("y"); s.get(version(2, "y")); s.get(version(1, "x")) }, RuleStateLinear},
	"what was cleared comes back":            {func(s *story) { s.set(1, "x"); s.clear(Applied); s.get(version(1, "x")) }, RuleStateLinear},
	"an older change wins over a newer one": {func(s *story) {
		s.op(State{Op: OpSet, Value: "x", Strategy: strategyLast, Time: 9, Outcome: Applied}, version(1, "x"))
		s.op(State{Op: OpSet, Value: "y", Strategy: strategyLast, Time: 5, Outcome: Applied}, version(2, "y"))
	}, RuleStateLinear},
	"a merge loses what was merged before": {func(s *story) {
		s.op(State{Op: OpSet, Value: `{"a":1}`, Strategy: strategyMerge, Outcome: Applied}, version(1, `{"a":1}`))
		s.op(State{Op: OpSet, Value: `{"b":2}`, Strategy: strategyMerge, Outcome: Applied}, version(2, `{"b":2}`))
	}, RuleStateLinear},
	"an expired value was not expired yet": {func(s *story) {
		s.op(State{Op: OpSet, Value: "x", TTL: time.Minute, Outcome: Applied}, Version{Version: 1, Life: "a", Value: "x", Expires: time.Minute})
		s.get(Version{Version: 1, Life: "a", Removed: true, Expires: time.Minute})
	}, RuleStateLinear},
	"versions begin again in one life": {func(s *story) { s.set(1, "x"); s.remove(2); s.set(1, "y") }, RuleStateVersion},
	"a history has a hole":             {func(s *story) { s.set(1, "x"); s.set(2, "y"); s.set(3, "z"); s.final(version(3, "z"), version(1, "x")) }, RuleStateVersion},
	"the feed skips a version": {func(s *story) {
		s.tell(MapBegin, 0)
		s.tell(MapPage, 0)
		s.tell(MapLive, 0)
		s.tell(MapChange, 1, at(1, version(1, "x")))
		s.tell(MapChange, 2, at(2, version(3, "y")))
	}, RuleStateVersion},
	"a page lacks what is removed later": {func(s *story) {
		s.set(1, "x")
		s.tell(MapBegin, 0)
		s.tell(MapPage, 1)
		s.tell(MapLive, 1)
		s.remove(2)
	}, RuleStateMap},
	"an acknowledged change is not stored": {func(s *story) { s.set(1, "x"); s.set(2, "y"); s.final(version(1, "x")) }, RuleStateLost},
	"it is stored with another value":      {func(s *story) { s.set(1, "x"); s.final(version(1, "y")) }, RuleStateLost},
	"a new life without a clear":           {func(s *story) { s.set(1, "x"); s.final(born(1, "y")) }, RuleStateLost},
	"nothing left without a clear":         {func(s *story) { s.set(1, "x"); s.final() }, RuleStateLost},
	"repeated and done twice":              {func(s *story) { s.open("x"); s.get(version(1, "x")); s.set(2, "x") }, RuleStateOnce},
	"the version of another life answers for the expected": {func(s *story) {
		s.set(1, "x")
		s.clear(Applied)
		s.op(State{Op: OpSet, Value: "y", Outcome: Applied}, born(1, "y"))
		s.cas(1, "a", "z", Applied, born(2, "z"))
	}, RuleStateExpect},
	"a value where none was expected": {func(s *story) { s.set(1, "x"); s.cas(0, "", "y", Applied, version(2, "y")) }, RuleStateExpect},
	"below what was seen":             {func(s *story) { s.set(1, "x"); s.set(2, "y"); s.cached(2, version(1, "x")) }, RuleStateSeen},
	"below what the same edge told before": {func(s *story) {
		s.set(1, "x")
		s.set(2, "y")
		s.op(State{Op: OpCached, Outcome: Answered}, version(1, "x"))
	}, RuleStateSeen},
	"shown after it had expired": {func(s *story) {
		s.op(State{Op: OpSet, Value: "x", TTL: time.Second, Outcome: Applied}, Version{Version: 1, Life: "a", Value: "x", Expires: time.Second})
		s.now = 2 * time.Second
		s.cached(1, version(1, "x"))
	}, RuleStateTTL},
	"an offset is two changes": {func(s *story) {
		s.set(1, "x")
		s.tell(MapBegin, 0)
		s.tell(MapPage, 1, at(1, Version{Key: "k2", Version: 1, Value: "q"}))
	}, RuleStateFeed},
	"a subscriber misses a change": {func(s *story) {
		s.tell(MapBegin, 0)
		s.tell(MapPage, 0)
		s.tell(MapLive, 0)
		s.tell(MapChange, 2, at(2, version(2, "y")))
	}, RuleStateMap},
	"a subscriber gets a change twice": {func(s *story) {
		s.tell(MapBegin, 0)
		s.tell(MapPage, 0)
		s.tell(MapLive, 0)
		s.tell(MapChange, 1, at(1, version(1, "x")))
		s.tell(MapChange, 1, at(1, version(1, "x")))
	}, RuleStateMap},
	"the state lacks what its position has": {func(s *story) {
		s.set(1, "x")
		s.tell(MapBegin, 0)
		s.tell(MapPage, 1)
		s.tell(MapLive, 1)
	}, RuleStateMap},
	"a recovery skips a change": {func(s *story) {
		s.tell(MapBegin, 0)
		s.tell(MapPage, 0)
		s.tell(MapLive, 0)
		s.tell(MapEnd, 0)
		s.tell(MapLive, 2, at(2, version(2, "y")))
	}, RuleStateMap},
	"a tail is never told": {func(s *story) {
		s.tell(MapBegin, 0)
		s.tell(MapPage, 0)
		s.tell(MapLive, 0)
		s.tell(MapTarget, 1, at(1, version(1, "x")))
	}, RuleStateMap},
}

// Each rule is broken by a record made by hand.
func TestEveryRuleOfStateIsBroken(t *testing.T) {
	for name, tt := range brokenStates {
		t.Run(name, func(t *testing.T) {
			s := &story{}
			tt.tell(s)
			r := Verify(s.events, stateTestRules)
			if !slices.ContainsFunc(r.Violations, func(v Violation) bool { return v.Rule == tt.rule }) {
				t.Errorf("no violation of %q among %v", tt.rule, r.Violations)
			}
		})
	}
}

// oddStates are records that look odd and are right.
var oddStates = map[string]func(s *story){
	"what any client may do": func(s *story) {
		s.get()
		s.set(1, "x")
		s.cas(1, "a", "y", Applied, version(2, "y"))
		s.cas(1, "a", "z", Refused, version(2, "y"))
		s.cached(2, version(2, "y"))
		s.remove(3)
		s.cas(0, "", "z", Applied, version(4, "z"))
		s.set(5, "zz")
		s.final(version(5, "zz"), version(4, "z"), version(3, ""))
	},
	"no answer, and done later": func(s *story) { s.open("x"); s.set(1, "y"); s.get(version(1, "y")); s.get(version(2, "x")) },
	"no answer, and never done": func(s *story) { s.open("x"); s.set(1, "y"); s.final(version(1, "y")) },
	"no answer, and overwritten unseen": func(s *story) {
		s.set(1, "y")
		s.open("x")
		s.offset++
		s.set(3, "z")
		s.get(version(3, "z"))
	},
	"repeated and answered": func(s *story) {
		s.open("x")
		s.get(version(1, "x"))
		s.op(State{Op: OpSet, Value: "x", ID: "x", Outcome: Applied, Duplicate: true}, version(1, "x")).Epoch = ""
		s.get(version(1, "x"))
	},
	"cleared, and without answer": func(s *story) {
		s.set(1, "x")
		s.clear(Open)
		s.get(version(1, "x"))
		s.op(State{Op: OpSet, Value: "y", Outcome: Applied}, born(1, "y")).Epoch = "i.M"
		s.cas(1, "a", "z", Refused, born(1, "y"))
		s.final(born(1, "y"))
	},
	"expired, then removed": func(s *story) {
		s.op(State{Op: OpSet, Value: "x", TTL: time.Second, Outcome: Applied}, Version{Version: 1, Life: "a", Value: "x", Expires: time.Second})
		s.get(Version{Version: 1, Life: "a", Value: "x", Expires: time.Second})
		s.now = 1100 * time.Millisecond
		s.offset++ // removed then
		s.get(Version{Version: 1, Life: "a", Removed: true, Expires: time.Second})
		s.cas(0, "", "y", Applied, version(3, "y"))
		s.final(version(3, "y"), version(2, ""), Version{Version: 1, Life: "a", Value: "x", Expires: time.Second})
	},
	"refused, and expired before the answer": func(s *story) {
		s.op(State{Op: OpSet, Value: "x", TTL: time.Second, Outcome: Applied}, Version{Version: 1, Life: "a", Value: "x", Expires: time.Second})
		s.now = 995 * time.Millisecond
		s.cas(0, "", "y", Refused, Version{Version: 1, Life: "a", Removed: true, Expires: time.Second})
	},
	"an older change is refused, a removal is remembered": func(s *story) {
		s.op(State{Op: OpDelete, Strategy: strategyLast, Time: 9, Outcome: Applied}, version(1, ""))
		s.op(State{Op: OpSet, Value: "y", Strategy: strategyLast, Time: 5, Outcome: Refused}, version(1, ""))
		s.op(State{Op: OpSet, Value: "z", Strategy: strategyLast, Outcome: Applied}, version(2, "z"))
	},
	"removed without an answer, and read before a subscriber walks": func(s *story) {
		s.set(1, "x")
		s.op(State{Op: OpDelete, Outcome: Open})
		s.offset++
		s.get(at(2, version(2, "")))
		s.tell(MapBegin, 0)
		s.tell(MapPage, 2)
		s.tell(MapLive, 2)
	},
	"removed when a subscriber walks, whose node is behind": func(s *story) {
		s.set(1, "x")
		s.remove(2)
		s.tell(MapBegin, 0)
		s.tell(MapPage, 1)
		s.tell(MapLive, 1)
		s.tell(MapChange, 2, at(2, version(2, "")))
	},
	"a leader that is cut off answers": func(s *story) {
		s.events = append(s.events, Event{Kind: Impaired, At: NATS})
		s.set(1, "x")
		s.set(2, "y")
		s.get(version(1, "x"))
	},
	"a subscriber that walks, follows and comes back": func(s *story) {
		s.set(1, "x")
		s.tell(MapBegin, 0)
		s.tell(MapPage, 1, at(2, version(2, "y"))) // above the position of the page
		s.set(2, "y")
		s.set(3, "z")
		s.tell(MapLive, 3, at(3, version(3, "z"))) // without what the page had
		s.set(4, "zz")
		s.tell(MapChange, 4, at(4, version(4, "zz")))
		s.tell(MapEnd, 4)
		s.remove(5)
		s.tell(MapLive, 5, at(5, version(5, "")))
		s.tell(MapTarget, 5)
	},
}

func TestNoFalseAlarmOfState(t *testing.T) {
	for name, tell := range oddStates {
		t.Run(name, func(t *testing.T) {
			s := &story{}
			tell(s)
			if r := Verify(s.events, stateTestRules); len(r.Violations) > 0 || r.States.Undecided > 0 {
				t.Errorf("false alarm: %v", r.Violations)
			}
		})
	}
}
