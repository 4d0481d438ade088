package check

import (
	"slices"
	"time"
)

// mapFollower is what one subscriber of a map knows.
type mapFollower struct {
	who     string
	f       *stateFacts
	entries map[string]Version // present ones and removals
	epoch   string
	offset  uint64
	live    bool
	walking bool // with the state of epoch, not live yet
}

// followMaps judges what subscribers of maps were told.
func (v *verifier) followMaps(events []Event, maps map[string]*stateFacts) {
	followers := make(map[string]*mapFollower)
	for i := range events {
		e := &events[i]
		f := maps[e.Channel]
		if f == nil || !slices.Contains([]Kind{MapBegin, MapPage, MapStream, MapLive, MapChange, MapEnd}, e.Kind) {
			continue
		}
		name := e.Who + " " + e.Channel
		w := followers[name]
		if w == nil {
			w = &mapFollower{who: e.Who, f: f, entries: make(map[string]Version)}
			followers[name] = w
		}
		w.take(e)
	}
	for _, name := range sortedKeys(followers) {
		followers[name].finish()
	}
}

func (w *mapFollower) take(e *Event) {
	n := &w.f.v.report.States
	switch e.Kind {
	case MapBegin:
		clear(w.entries)
		w.live, w.walking, w.epoch, w.offset = false, false, "", 0
		n.Restarted++
	case MapPage:
		w.page(e)
	case MapStream:
		w.changes(e)
		w.offset = e.Offset
	case MapLive:
		w.goLive(e)
	case MapChange:
		n.Changes++
		w.change(e)
	case MapEnd:
		w.live = false
	}
}

func (w *mapFollower) bad(e *Event, key, format string, args ...any) {
	w.f.bad(RuleStateMap, e, key, format, args...)
}

// page takes a page of the state. The first one says where the changes go on from.
func (w *mapFollower) page(e *Event) {
	if !w.walking {
		w.walking, w.epoch, w.offset = true, e.Epoch, e.Offset
	}
	for _, v := range e.State.Entries {
		w.f.shown(w.f.key(v.Key), e, v)
		// Its offset may be above that of the page: it comes again with the changes.
		if have, ok := w.entries[v.Key]; !ok || v.Offset > have.Offset {
			w.entries[v.Key] = v
		}
	}
}

// changes takes those that follow what is known, each by its offset.
func (w *mapFollower) changes(e *Event) {
	for _, v := range e.State.Entries {
		switch {
		case w.offset > 0 && v.Offset <= w.offset:
			w.bad(e, v.Key, "%s %s: change %v again after %d", w.who, e.Channel, v, w.offset)
			continue
		case v.Offset != w.offset+1 && !w.had(v.Offset):
			w.bad(e, v.Key, "%s %s: change %v after %d", w.who, e.Channel, v, w.offset)
		}
		w.fold(v)
	}
}

// had reports whether what lies between the last change and offset may have been in
// the state already: then it is not told twice.
func (w *mapFollower) had(offset uint64) bool {
	m := w.f.feeds[w.epoch]
	if !w.walking || m == nil {
		return false
	}
	for at := w.offset + 1; at < offset; at++ {
		if t, known := m.at[at]; known && w.entries[t.Key].Offset < at {
			return false
		}
	}
	return true
}

func (w *mapFollower) fold(v Version) {
	w.offset = max(w.offset, v.Offset)
	if v.Offset > w.entries[v.Key].Offset {
		w.entries[v.Key] = v
	}
}

func (w *mapFollower) goLive(e *Event) {
	n := &w.f.v.report.States
	n.Live++
	if e.Recovered {
		n.Recovered++
	}
	if e.Epoch != w.epoch {
		if !empty(w.epoch) && w.epoch != "" {
			w.bad(e, "", "%s %s: live in %s with the state of %s", w.who, e.Channel, e.Epoch, w.epoch)
		}
		w.epoch = e.Epoch
	}
	w.changes(e)
	w.live, w.walking, w.offset = true, false, e.Offset
	w.compare(e)
}

func (w *mapFollower) change(e *Event) {
	v := e.State.Entries[0]
	switch {
	case !w.live:
		w.bad(e, v.Key, "%s %s: change %v outside a subscription", w.who, e.Channel, v)
		return
	case e.Epoch != w.epoch:
		if !empty(w.epoch) {
			w.bad(e, v.Key, "%s %s: change %v of %s, subscribed to %s", w.who, e.Channel, v, e.Epoch, w.epoch)
		}
		w.epoch = e.Epoch // the life that followed the empty map
	case v.Offset != w.offset+1:
		w.bad(e, v.Key, "%s %s: change %v after %d", w.who, e.Channel, v, w.offset)
	}
	w.fold(v)
}

// compare checks that at its offset the subscriber knows of each key what is known
// to have been its last change up to there.
func (w *mapFollower) compare(e *Event) {
	m := w.f.feeds[w.epoch]
	if m == nil {
		return
	}
	for _, key := range sortedKeys(m.byKey) {
		want, ok := m.last(key, w.offset)
		have := w.entries[key]
		switch {
		case !ok || have.Offset >= want.Offset:
		case want.Removed && (have.Offset == 0 || have.Removed):
		case (have.Offset == 0 || have.Removed) && (w.removed(want, e) || w.expired(want, e)):
		default:
			w.bad(e, key, "%s %s: at %d it has %v of %s, and missed %v", w.who, e.Channel, w.offset, have, key, want.Version)
		}
	}
}

// removed reports whether v was removed when a page without it may have been read.
func (w *mapFollower) removed(v told, e *Event) bool {
	k := w.f.key(v.Key)
	for _, t := range k.values {
		if !t.Removed || t.Offset <= v.Offset || t.Version.Version <= v.Version.Version {
			continue
		}
		// Up to the subscriber's offset that is certain, though perhaps nobody was
		// answered for it, nor live. A page may be ahead of the offset.
		if t.Offset <= w.offset || slices.ContainsFunc(k.ops, func(op *Event) bool { return op.mayHaveRemoved(t, e.T) }) {
			return true
		}
	}
	return false
}

// mayHaveRemoved reports whether e is a request that may have made the removal t before at.
func (e *Event) mayHaveRemoved(t told, at time.Duration) bool {
	s := e.State
	if s.Op != OpDelete || e.Began > at {
		return false
	}
	return s.Outcome == Open || s.Outcome == Applied && len(s.Entries) > 0 && s.Entries[0].Offset == t.Offset
}

// expired reports whether v may have expired when a page without it was read.
func (w *mapFollower) expired(v told, e *Event) bool {
	k := w.f.key(v.Key)
	at, known := k.expires[v.Value]
	if known {
		return at <= e.T+w.f.rules.Clock
	}
	return slices.ContainsFunc(k.ops, func(op *Event) bool { return op.State.Value == v.Value && op.State.TTL > 0 })
}

// finish: who was live to the end has the map as it is.
func (w *mapFollower) finish() {
	end := w.f.target
	if end == nil || !w.live {
		return
	}
	if w.offset != end.Offset || w.epoch != end.Epoch && !(empty(w.epoch) && end.Offset == 0) {
		w.bad(end, "", "%s %s: stands at %d:%s in the end, and the map at %d:%s", w.who, end.Channel, w.offset, w.epoch, end.Offset, end.Epoch)
		return
	}
	final := make(map[string]Version)
	for _, v := range end.State.Entries {
		final[v.Key] = v
		if have := w.entries[v.Key]; have.Offset != v.Offset || have.Value != v.Value || have.Removed {
			w.bad(end, v.Key, "%s %s: has %v in the end, and the map %v", w.who, end.Channel, have, v)
		}
	}
	for _, key := range sortedKeys(w.entries) {
		have := w.entries[key]
		_, is := final[key]
		at, expires := w.f.key(key).expires[have.Value]
		if !is && !have.Removed && !(expires && at <= end.T+w.f.rules.Clock) {
			w.bad(end, key, "%s %s: has %v in the end, and the map has not", w.who, end.Channel, have)
		}
	}
}
