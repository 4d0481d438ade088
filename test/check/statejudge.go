package check

import "time"

// judgeKey compares all that is known of a key.
func (f *stateFacts) judgeKey(k *keyFacts) {
	f.v.report.States.Keys++
	for _, e := range k.ops {
		f.expected(k, e)
		f.seen(k, e)
		f.behind(k, e)
		f.expired(k, e)
		f.listed(k, e)
	}
	f.notLost(k)
	f.linear(k)
}

// expected: what was applied against a version is the next one of the same life.
func (f *stateFacts) expected(k *keyFacts, e *Event) {
	s := e.State
	if s.Outcome != Applied || s.Expect == nil || s.Strategy != "" || len(s.Entries) == 0 {
		return
	}
	got := s.Entries[0]
	switch {
	case s.Expect.Version > 0 && (got.Version != s.Expect.Version+1 || s.Expect.Life != "" && got.Life != s.Expect.Life):
		f.bad(RuleStateExpect, e, k.name, "%s of %s expected %v and became %v", s.Op, k.name, *s.Expect, got)
	case s.Expect.Version == 0 && got.Version > 1:
		before, known := k.values[VersionOf{got.Version - 1, got.Life}]
		if known && !before.Removed && (before.Expires == 0 || e.T < before.Expires-f.rules.Clock) {
			f.bad(RuleStateExpect, e, k.name, "%s of %s expected no value and became %v, after %v", s.Op, k.name, got, before.Version)
		}
	}
}

// seen: who says what it has seen gets nothing below it (rule S3).
func (f *stateFacts) seen(k *keyFacts, e *Event) {
	s := e.State
	if s.Op != OpCached || s.Outcome != Answered || s.Seen == nil || len(s.Entries) == 0 {
		return
	}
	if got := s.Entries[0]; got.Life == s.Seen.Life && got.Version < s.Seen.Version {
		f.bad(RuleStateSeen, e, k.name, "%s had seen version %v of %s and was told %v", e.Who, *s.Seen, k.name, got)
	}
}

// behind: nor does it get less than what the edge that it asks told anybody before.
func (f *stateFacts) behind(k *keyFacts, e *Event) {
	s := e.State
	if s.Op != OpCached || s.Outcome != Answered || len(s.Entries) == 0 || !steady(f.v.ill[NATS], e.Began-f.rules.Stale, e.T) {
		return
	}
	got := s.Entries[0]
	for _, before := range k.ops {
		if before.T >= e.Began {
			break // ops are in the order of their answers
		}
		if before.At != e.At || len(before.State.Entries) == 0 {
			continue
		}
		if had := before.State.Entries[0]; had.Life == got.Life && had.Version > got.Version {
			f.bad(RuleStateSeen, e, k.name, "%s told %s %v of %s at %.3fs, and then %s %v", e.At, before.Who, had, k.name, before.T.Seconds(), e.Who, got)
			return
		}
	}
}

// expired: a value whose time had passed before the reader asked is not shown.
func (f *stateFacts) expired(k *keyFacts, e *Event) {
	s := e.State
	if s.Op != OpGet && s.Op != OpCached && s.Outcome != Refused {
		return
	}
	for _, got := range s.Entries {
		f.shown(k, e, got)
	}
}

func (f *stateFacts) shown(k *keyFacts, e *Event, got Version) {
	at, known := k.expires[got.Value]
	if known && !got.Removed && e.Began > at+f.rules.Clock {
		f.bad(RuleStateTTL, e, k.name, "%s asked %v after %v of %s had expired, and was shown it", e.Who, (e.Began - at).Round(time.Millisecond), got, k.name)
	}
}

// listed: the versions of a history are of one life, without holes.
func (f *stateFacts) listed(k *keyFacts, e *Event) {
	list := e.State.Entries
	if e.State.Op != OpHistory && e.State.Op != OpFinal || len(list) == 0 {
		return
	}
	for i := range list[1:] {
		if a, b := list[i], list[i+1]; a.Life != b.Life || a.Version != b.Version+1 {
			f.bad(RuleStateVersion, e, k.name, "the history of %s has %v before %v", k.name, a, b)
		}
	}
}

// notLost: what was acknowledged and may still be stored is among the last
// versions, with its value.
func (f *stateFacts) notLost(k *keyFacts) {
	if k.final == nil {
		return
	}
	stored := make(map[VersionOf]Version)
	var newest Version
	for i, v := range k.final.State.Entries {
		if i == 0 {
			newest = v
		}
		stored[VersionOf{v.Version, v.Life}] = v
	}
	for _, e := range k.ops {
		s := e.State
		if s.Outcome != Applied || len(s.Entries) == 0 || s.Entries[0].Version == 0 {
			continue
		}
		got := s.Entries[0]
		if got.Life != newest.Life {
			if !f.clearedAfter(e) {
				f.bad(RuleStateLost, e, k.name, "%v of %s was acknowledged; in the end there is %v, and the map was not cleared since", got, k.name, newest)
			}
			continue
		}
		if newest.Version >= got.Version+uint64(f.rules.History) {
			continue // more versions came than are kept
		}
		have, ok := stored[VersionOf{got.Version, got.Life}]
		if !ok || s.Op == OpSet && s.Strategy != strategyMerge && have.Value != s.Value {
			f.bad(RuleStateLost, e, k.name, "%v of %s (%s) was acknowledged; in the end there is %v in its place, and the newest is %v", got, k.name, s.Value, have, newest)
		}
	}
}

const (
	strategyMerge = "merge"
	strategyLast  = "lastWriteWins"
)

// clearedAfter reports whether the map may have been cleared after e took effect.
func (f *stateFacts) clearedAfter(e *Event) bool {
	for _, c := range f.clears {
		if c.State.Outcome == Open || c.T >= e.Began {
			return true
		}
	}
	return false
}
