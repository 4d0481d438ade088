package check

import (
	"strconv"
	"strings"
	"time"
)

// watcher is one client's memory of one channel, across its connections.
type watcher struct {
	who, channel string

	known    bool // a position is held
	last     uint64
	epoch    string
	attached bool
	since    time.Duration // from when a delivery may be expected: attached, reading
	stalled  bool
	missing  []hole
	ends     []ending
	counts   map[string]int // ephemeral: by publisher, the last number in this subscription
}

// hole is an offset that was skipped without notice.
type hole struct {
	at     Position
	t      time.Duration
	before uint64
}

func (v *verifier) watcher(e *Event) *watcher {
	key := e.Who + " " + e.Channel
	w := v.watchers[key]
	if w == nil {
		w = &watcher{who: e.Who, channel: e.Channel}
		v.watchers[key] = w
	}
	return w
}

// follow is the second pass: it follows each subscriber.
func (v *verifier) follow(e *Event) {
	switch e.Kind {
	case Subscribed:
		w := v.watcher(e)
		w.subscribed(v, e)
		w.attached, w.since = true, e.T
	case Deliver:
		w := v.watcher(e)
		if !w.attached {
			v.violated(w.bad(RuleOrder, e), "%s %s: %s delivered outside a subscription", e.Who, e.Channel, e.Payload)
			return
		}
		if v.size(e.Channel) == 0 {
			w.ephemeral(v, e)
			return
		}
		w.deliver(v, e)
	case Unsub:
		w := v.watcher(e)
		w.unsubscribed(v, e)
		w.detach(v, e.T)
	case Detach, Stall, Resume:
		for _, w := range v.watchers {
			if w.who == e.Who && (e.Channel == "" || e.Channel == w.channel) {
				w.connection(v, e)
			}
		}
	}
}

func (w *watcher) bad(rule string, e *Event) Violation {
	return Violation{Rule: rule, T: e.T, Who: w.who, Channel: w.channel, At: Position{w.epoch, e.Offset}, Payload: e.Payload}
}

func (w *watcher) connection(v *verifier, e *Event) {
	switch e.Kind {
	case Detach:
		w.detach(v, e.T)
	case Stall:
		w.behind(v, e.T)
		w.stalled = true
	case Resume:
		w.stalled = false
		w.since = max(w.since, e.T)
	}
}

func (w *watcher) detach(v *verifier, t time.Duration) {
	if w.attached && !w.stalled {
		w.behind(v, t)
	}
	w.attached, w.counts = false, nil
}

func (w *watcher) subscribed(v *verifier, e *Event) {
	w.counts = make(map[string]int)
	if v.size(e.Channel) == 0 {
		return
	}
	if e.Asked && e.Recovered {
		v.report.Recovered++
		if e.Epoch != w.epoch && e.Epoch != "" && !empty(w.epoch) {
			v.violated(w.bad(RuleSilent, e), "%s %s: %d:%s was called recovered in life %s", w.who, w.channel, w.last, w.epoch, e.Epoch)
		}
		if e.Epoch != "" {
			w.epoch = e.Epoch // the same, or the life that followed an empty channel
		}
		return
	}
	if e.Asked {
		v.report.Told++
		w.told(v, e)
	}
	w.known, w.last, w.epoch = true, e.Offset, e.Epoch
}

// told checks that a position that was not recovered could not be: it is too old,
// or its history was removed or evicted.
func (w *watcher) told(v *verifier, e *Event) {
	b := v.book(e.Channel)
	switch {
	case !w.known || empty(w.epoch) || b.excused(e.T):
	case e.Epoch != w.epoch || e.Offset < w.last:
		v.violated(w.bad(RuleCause, e), "%s %s: %d:%s was not recovered, the channel is said to stand at %d:%s", w.who, w.channel, w.last, w.epoch, e.Offset, e.Epoch)
	case w.within(v, e.Offset):
		v.violated(w.bad(RuleCause, e), "%s %s: %d:%s was not recovered although the channel stands at %d and keeps %d",
			w.who, w.channel, w.last, w.epoch, e.Offset, v.size(w.channel))
	}
}

// within reports whether head is well within the window that begins at w's
// position. It leaves a margin: the head moves on while a position travels.
func (w *watcher) within(v *verifier, head uint64) bool {
	size := uint64(v.size(w.channel))
	return head < w.last+size-min(size, size/4+2)
}

func (w *watcher) unsubscribed(v *verifier, e *Event) {
	v.report.Told++
	b := v.book(e.Channel)
	if v.size(e.Channel) == 0 || b.excused(e.T) || empty(w.epoch) {
		return
	}
	w.ends = append(w.ends, ending{*e, w.last, w.epoch})
}

// ending is a subscription that the server ended, and where it stood.
type ending struct {
	e     Event
	last  uint64
	epoch string
}

// judgeEndings checks that subscriptions were ended because going on would have
// skipped something. Where the channel stood then is known when all is read; what
// was stored a moment ago may have become known to anyone a moment later.
func (w *watcher) judgeEndings(v *verifier, b *book) {
	for _, x := range w.ends {
		// So may have been what was acknowledged and nobody has ever seen.
		head := b.headAt(x.epoch, x.e.T+2*time.Second) + b.unseen(x.e.T)
		then := watcher{who: w.who, channel: w.channel, last: x.last, epoch: x.epoch}
		if x.e.Code != 2500 && x.e.Code != 2502 || then.within(v, head) {
			v.violated(then.bad(RuleCause, &x.e), "%s %s: unsubscribed with %d at %d:%s, while the channel stood at %d and keeps %d",
				w.who, w.channel, x.e.Code, x.last, x.epoch, head, v.size(w.channel))
		}
	}
}

func (w *watcher) deliver(v *verifier, e *Event) {
	v.report.Delivered++
	if e.Epoch != "" && e.Epoch != w.epoch {
		if !empty(w.epoch) { // only an empty channel has no life yet
			v.violated(w.bad(RuleSilent, e), "%s %s: life %s after %s without notice", w.who, w.channel, e.Epoch, w.epoch)
		}
		w.epoch = e.Epoch
	}
	if e.Offset <= w.last {
		v.violated(w.bad(RuleOnce, e), "%s %s: %d (%s) after %d: doubled or out of order", w.who, w.channel, e.Offset, e.Payload, w.last)
		return
	}
	for n := w.last + 1; n < e.Offset; n++ {
		w.missing = append(w.missing, hole{Position{w.epoch, n}, e.T, e.Offset})
	}
	w.last = e.Offset
	b := v.book(e.Channel)
	b.stand(w.epoch, e.T, e.Offset)
	// Its offset is its place even where the epoch was not repeated.
	b.place(v, &Event{T: e.T, Who: e.Who, Channel: e.Channel, Offset: e.Offset, Epoch: w.epoch, Payload: e.Payload})
	if acked, ok := b.acked[e.Payload]; ok && !w.stalled {
		late := e.T - max(acked, w.since)
		v.report.Slowest = max(v.report.Slowest, late)
		if late > v.rules.Late {
			v.violated(w.bad(RuleLate, e), "%s %s: %d (%s) came %v after it was acknowledged", w.who, w.channel, e.Offset, e.Payload, late.Round(time.Millisecond))
		}
	}
}

// behind finds what w should have got before t, and did not.
func (w *watcher) behind(v *verifier, t time.Duration) {
	if v.size(w.channel) == 0 || !w.known || empty(w.epoch) {
		return
	}
	b := v.book(w.channel)
	for n := w.last + 1; n <= b.top[w.epoch]; n++ {
		payload, known := b.at[Position{w.epoch, n}]
		acked, ok := b.acked[payload]
		if !known || !ok {
			continue
		}
		if wait := t - max(acked, w.since); wait > v.rules.Late {
			v.violated(Violation{Rule: RuleLate, T: t, Who: w.who, Channel: w.channel, At: Position{w.epoch, n}, Payload: payload},
				"%s %s: %d:%s (%s) had not come %v after it was acknowledged", w.who, w.channel, n, w.epoch, payload, wait.Round(time.Millisecond))
			return // one is enough: the rest waits behind it
		}
	}
}

// ephemeral checks a delivery without history: once, and in the publisher's order.
func (w *watcher) ephemeral(v *verifier, e *Event) {
	v.report.Ephemeral++
	name, number, ok := publisher(e.Payload)
	if !ok {
		return
	}
	if last, seen := w.counts[name]; seen && number <= last && !v.moved(e) {
		v.violated(w.bad(RuleEphemeral, e), "%s %s: %s after number %d of the same publisher, in one subscription", w.who, w.channel, e.Payload, last)
	}
	w.counts[name] = max(w.counts[name], number)
}

// moved reports whether the publisher's edge, or NATS as a whole, was impaired since e
// was sent. A connection may have gone to another NATS server then: what the old one
// still held comes late, and what was under way to the new one comes a second time.
func (v *verifier) moved(e *Event) bool {
	sent, ok := v.sends[e.Payload]
	if !ok {
		return false
	}
	for _, s := range v.ill[sent.At] {
		if s.from <= e.T && s.to >= sent.T {
			return true
		}
	}
	return false
}

// publisher splits a payload, "name-number".
func publisher(payload string) (name string, number int, ok bool) {
	name, digits, found := cutLast(strings.Trim(payload, `"`), "-")
	number, err := strconv.Atoi(digits)
	return name, number, found && err == nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// finish judges what w skipped and where it stands after the silence.
func (w *watcher) finish(v *verifier) {
	if v.size(w.channel) == 0 {
		return
	}
	b := v.book(w.channel)
	w.judgeEndings(v, b)
	unexplained := make(map[Position]bool)
	for _, m := range w.missing {
		bad := Violation{Rule: RuleSilent, T: m.t, Who: w.who, Channel: w.channel, At: m.at, Payload: b.at[m.at]}
		if b.at[m.at] != "" {
			v.violated(bad, "%s %s: %v (%s) is missing, silently, before %d", w.who, w.channel, m.at, b.at[m.at], m.before)
			continue
		}
		// Nobody has seen it: the marker of a removed history, if there was one.
		unexplained[m.at] = true
		if len(unexplained) > len(b.clears) {
			v.violated(bad, "%s %s: %v is missing, silently, before %d", w.who, w.channel, m.at, m.before)
		}
	}
	if b.target == nil || b.target.Offset == 0 {
		return
	}
	if !w.attached || w.stalled {
		v.violated(Violation{Rule: RuleLate, T: v.end, Who: w.who, Channel: w.channel}, "%s %s: is not subscribed after the silence", w.who, w.channel)
		return
	}
	// The last numbers may be markers, which nobody is sent.
	target := b.target.Offset
	for spare := len(b.clears); spare > 0 && target > 0 && b.at[Position{b.target.Epoch, target}] == ""; spare-- {
		target--
	}
	if w.epoch != b.target.Epoch || w.last < target {
		at := Position{b.target.Epoch, target}
		v.violated(Violation{Rule: RuleLate, T: v.end, Who: w.who, Channel: w.channel, At: at, Payload: b.at[at]},
			"%s %s: stands at %d:%s after the silence, the channel at %v", w.who, w.channel, w.last, w.epoch, at)
	}
}
