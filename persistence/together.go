package persistence

import (
	"context"
	"slices"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// Changes of a channel that were stored together follow each other in the feed and,
// without those that are superseded, in the image. Each knows its number among them,
// so that from the newest entry of the feed one finds the others.

// maxGroup bounds the changes that are stored together. The gain of more is small, and
// a reader of the newest entry has to fetch them all when their edge ended in between.
const maxGroup = 64

// together returns how many of waiting, at most most, may be stored together: changes of
// different ids. One that is repeated while the first waits would only find that out.
func together(waiting []*pending, most int) int {
	most = min(most, len(waiting), maxGroup)
	ids := make(map[string]bool, most)
	for n, q := range waiting[:most] {
		if _, ok := q.plan.(*change); !ok || ids[q.entry.ID] {
			return max(n, 1)
		}
		ids[q.entry.ID] = true
	}
	return most
}

// layOut completes the marks of entries, changes of one channel in their order that
// are to be stored together; history is how many versions of a key the image keeps.
func layOut(entries []router.Entry, history int) {
	if len(entries) < 2 {
		return
	}
	left := make(map[string]int) // versions of a key that follow
	for i := range slices.Backward(entries) {
		m := entries[i].Mark
		m.Group, m.More = i+1, len(entries)-i-1
		m.Superseded = left[m.Key] >= history
		left[m.Key]++
	}
	places := make(map[string][]uint64) // of older versions, oldest first
	at := uint64(0)
	for i := range entries {
		m := entries[i].Mark
		if m.Superseded {
			continue
		}
		for _, older := range slices.Backward(places[m.Key]) {
			m.Back = append(m.Back, at-older)
		}
		// With those that come before, no more than the image keeps. Prev names one always.
		m.Prev = m.Prev[:max(min(len(m.Prev), history-1-len(m.Back)), 1)]
		places[m.Key] = append(places[m.Key], at)
		at++
	}
}

// newestWith returns the newest entry of a channel that e was the newest one of when its
// copy was made: copies of what was stored together come one after the other.
func newestWith(e *router.Entry) head {
	h := head{e.Number, e.Seq, e.Life}
	if e.Mark != nil {
		h.number += uint64(e.Mark.More)
		h.seq += uint64(e.Mark.More)
	}
	return h
}

// anchor returns the first of changes that enters the image and has the key of the last.
func anchor(changes []router.Entry) *router.Entry {
	last := &changes[len(changes)-1]
	for i := range changes {
		if e := &changes[i]; e.Mark.Key == last.Mark.Key && !e.Mark.Superseded {
			return e
		}
	}
	return last
}

// placed returns e, which lies in the image at the place at, with the places of older
// versions.
func placed(e router.Entry, at uint64) router.Entry {
	e.Seq = at
	if e.Mark == nil || len(e.Mark.Back) == 0 {
		return e
	}
	m := *e.Mark
	m.Back, m.Prev = nil, make([]uint64, 0, len(e.Mark.Back)+len(e.Mark.Prev))
	for _, d := range e.Mark.Back {
		m.Prev = append(m.Prev, at-min(d, at))
	}
	m.Prev = append(m.Prev, e.Mark.Prev...)
	e.Mark = &m
	return e
}

// learn notes the last of changes, which is the newest entry of the channel at st and in
// the image as have says, and those that were stored together with it, as what their
// keys are now.
func (p *keyPart) learn(channel string, st *channelState, have imaged, changes []router.Entry) {
	st.image = have.place
	if have.later {
		for i := range changes {
			p.current.drop(keyID{channel, markedKey(changes[i])})
		}
		return
	}
	at := have.place
	seen := make(map[string]bool, len(changes))
	for i, e := range slices.Backward(changes) {
		if e.Mark.Superseded && i < len(changes)-1 {
			continue
		}
		if !seen[e.Mark.Key] {
			seen[e.Mark.Key] = true
			p.current.put(keyID{channel, e.Mark.Key}, st.gen, placed(e, at))
		}
		at--
	}
}

// changesOf returns what finds e, the newest entry of channel, with those that were
// stored together with it. passed are entries that are known, the last ones up to e.
func (p *keyPart) changesOf(channel string, e *router.Entry, passed []router.Entry) func(context.Context) ([]router.Entry, error) {
	n := max(e.Mark.Group, 1)
	return func(ctx context.Context) ([]router.Entry, error) {
		switch {
		case n == 1:
			return []router.Entry{*e}, nil
		case len(passed) >= n:
			return passed[len(passed)-n:], nil
		}
		run, err := p.feed.read(ctx, channel, e.Number-min(uint64(n), e.Number), *e)
		if router.CodeOf(err) == router.CodeConflict && err != nil {
			return nil, errOverwritten
		}
		if err == nil && len(run) != n {
			// NATS has lost some (see vanished); the others are not lost with them.
			p.feed.log.Warn("changes that were stored together are incomplete", "stored", n, "found", len(run))
		}
		return run, err
	}
}

// settleNow brings the newest entry of channel, whatever it is, into the image, and so
// what was stored before it.
func (p *keyPart) settleNow(ctx context.Context, channel string) error {
	h, err := p.feedHead(ctx, channel)
	if err != nil {
		return err
	}
	if h.Number == 0 {
		return nil
	}
	_, err = p.level(ctx, channel, head{h.Number, h.Seq, h.Life})
	return jet.Unavailable("state", err)
}
