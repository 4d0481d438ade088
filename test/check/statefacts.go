package check

import (
	"sort"
	"strings"
	"time"
)

// stateFacts is all that anybody was told of one map.
type stateFacts struct {
	v       *verifier
	rules   StateRules
	channel string
	keys    map[string]*keyFacts
	clears  []*Event
	feeds   map[string]*mapFeed // by epoch
	target  *Event
}

// keyFacts is all that anybody was told of one key.
type keyFacts struct {
	name string
	ops  []*Event
	// values has what versions are known to hold, lives what they are of, sets where
	// a value lies: no two changes set the same one.
	values  map[VersionOf]told
	sets    map[string]told
	expires map[string]time.Duration // by value
	final   *Event
}

// told is a version, and the event that told it first.
type told struct {
	Version
	by *Event
}

// mapFeed is the changes of one life of a map.
type mapFeed struct {
	at map[uint64]told // by offset
	// byKey has the offsets of each key in order, once all are known.
	byKey map[string][]uint64
}

// states judges the events of maps.
func (v *verifier) states(events []Event) {
	maps := make(map[string]*stateFacts)
	for i := range events {
		e := &events[i]
		ns, _, _ := strings.Cut(e.Channel, ":")
		rules, is := v.rules.States[ns]
		if e.State == nil || !is {
			continue
		}
		f := maps[e.Channel]
		if f == nil {
			f = &stateFacts{v: v, rules: rules, channel: e.Channel, keys: make(map[string]*keyFacts), feeds: make(map[string]*mapFeed)}
			maps[e.Channel] = f
		}
		f.note(e)
	}
	for _, name := range sortedKeys(maps) {
		f := maps[name]
		for _, feed := range f.feeds {
			feed.sort()
		}
		f.judgeFeeds()
		for _, key := range sortedKeys(f.keys) {
			f.judgeKey(f.keys[key])
		}
	}
	v.followMaps(events, maps)
}

func (f *stateFacts) key(name string) *keyFacts {
	k := f.keys[name]
	if k == nil {
		k = &keyFacts{name: name, values: make(map[VersionOf]told), sets: make(map[string]told), expires: make(map[string]time.Duration)}
		f.keys[name] = k
	}
	return k
}

// note gathers what e says.
func (f *stateFacts) note(e *Event) {
	s := e.State
	switch {
	case e.Kind == MapTarget:
		f.target = e
	case e.Kind == Operated && s.Op == OpClear:
		f.clears = append(f.clears, e)
	case e.Kind == Operated && s.Op == OpFinal:
		k := f.key(s.Key)
		k.final = e
		k.ops = append(k.ops, e)
	case e.Kind == Operated:
		k := f.key(s.Key)
		k.ops = append(k.ops, e)
		f.count(s)
	}
	for i := range s.Entries {
		t := told{s.Entries[i], e}
		if t.Key == "" {
			t.Key = s.Key
		}
		f.learn(f.key(t.Key), t)
		if t.Offset > 0 && f.offsetsCount(e) {
			f.feed(e.Epoch).note(f, t)
		}
	}
}

// offsetsCount reports whether the offsets in e are known to be of its epoch.
func (f *stateFacts) offsetsCount(e *Event) bool {
	switch e.Kind {
	case Operated:
		return e.State.Outcome == Applied && e.Epoch != ""
	case MapPage, MapStream, MapLive, MapChange:
		return e.Epoch != "" && !empty(e.Epoch)
	default:
		return false
	}
}

func (f *stateFacts) count(s *State) {
	n := &f.v.report.States
	switch {
	case s.Op == OpCached:
		n.Cached++
	case s.Outcome == Applied:
		n.Applied++
	case s.Outcome == Refused:
		n.Refused++
	case s.Outcome == Answered:
		n.Reads++
	default:
		n.Open++
	}
}

// learn notes that t is, or was, a version of k.
func (f *stateFacts) learn(k *keyFacts, t told) {
	if t.Expires > 0 && t.Value != "" {
		k.expires[t.Value] = t.Expires
	}
	s := t.by.State
	if t.Removed && t.Expires > 0 && (t.by.Kind == Operated && s.Op != OpHistory && s.Op != OpFinal) {
		return // it may have expired only
	}
	if t.Life != "" {
		id := VersionOf{t.Version.Version, t.Life}
		have, known := k.values[id]
		if known && (have.Value != t.Value || have.Removed != t.Removed) {
			f.bad(RuleStateVersion, t.by, k.name, "version %v of %s is %v, and was %v at %.3fs", id, k.name, t.Version, have.Version, have.by.T.Seconds())
		} else if !known {
			k.values[id] = t
		}
	}
	if t.Value == "" || strings.HasPrefix(t.Value, "{") {
		return // merged values are made of several changes
	}
	have, known := k.sets[t.Value]
	switch {
	case !known:
		k.sets[t.Value] = t
	case have.Version.Version != t.Version.Version, have.Life != t.Life && have.Life != "" && t.Life != "":
		f.bad(RuleStateOnce, t.by, k.name, "%s was set to %s by %v and by %v", k.name, t.Value, have.Version, t.Version)
	case have.Life == "":
		k.sets[t.Value] = t
	}
}

func (f *stateFacts) feed(epoch string) *mapFeed {
	m := f.feeds[epoch]
	if m == nil {
		m = &mapFeed{at: make(map[uint64]told), byKey: make(map[string][]uint64)}
		f.feeds[epoch] = m
	}
	return m
}

// note learns the change at an offset.
func (m *mapFeed) note(f *stateFacts, t told) {
	// What is current of a key that expired looks like a removal.
	expired := t.Removed && t.by.Kind == Operated && t.by.State.Op != OpDelete
	have, known := m.at[t.Offset]
	if !known {
		if !expired {
			m.at[t.Offset] = t
		}
		return
	}
	if have.Key != t.Key || have.Version.Version != t.Version.Version || !expired && (have.Value != t.Value || have.Removed != t.Removed) {
		f.bad(RuleStateFeed, t.by, t.Key, "offset %d of %s is %v, and was %v at %.3fs", t.Offset, f.channel, t.Version, have.Version, have.by.T.Seconds())
	}
}

func (m *mapFeed) sort() {
	for at, t := range m.at {
		m.byKey[t.Key] = append(m.byKey[t.Key], at)
	}
	for _, list := range m.byKey {
		sort.Slice(list, func(i, j int) bool { return list[i] < list[j] })
	}
}

// last returns the newest known change of key up to offset.
func (m *mapFeed) last(key string, offset uint64) (told, bool) {
	list := m.byKey[key]
	i := sort.Search(len(list), func(i int) bool { return list[i] > offset })
	if i == 0 {
		return told{}, false
	}
	return m.at[list[i-1]], true
}

// whole reports whether all offsets between from and to are known, both excluded.
func (m *mapFeed) whole(from, to uint64) bool {
	for at := from + 1; at < to; at++ {
		if _, ok := m.at[at]; !ok {
			return false
		}
	}
	return true
}

// judgeFeeds: within a life of the map a key has one life, so its versions rise one
// by one.
func (f *stateFacts) judgeFeeds() {
	for _, epoch := range sortedKeys(f.feeds) {
		m := f.feeds[epoch]
		for _, key := range sortedKeys(m.byKey) {
			list := m.byKey[key]
			for i := range list[:len(list)-1] {
				a, b := m.at[list[i]], m.at[list[i+1]]
				if b.Version.Version <= a.Version.Version || b.Version.Version > a.Version.Version+1 && m.whole(list[i], list[i+1]) {
					f.bad(RuleStateVersion, b.by, key, "%s: %v was followed by %v", f.channel, a.Version, b.Version)
				}
			}
		}
	}
}

func (f *stateFacts) bad(rule string, e *Event, key string, format string, args ...any) {
	f.v.violated(Violation{Rule: rule, T: e.T, Who: e.Who, Channel: f.channel, At: Position{e.Epoch, e.Offset}, Payload: key}, format, args...)
}
