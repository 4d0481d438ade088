package check

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// book is what is known of one channel with history, from all sides: publishers,
// subscribers, and the store in the end.
type book struct {
	channel string
	sent    map[string]bool
	acked   map[string]time.Duration // payload → when its first acknowledgement came
	at      map[Position]string      // what lies where
	where   map[string]Position
	stood   map[string][]stand // by life: how far it was known to reach, and since when
	sorted  bool               // stood is in order
	top     map[string]uint64  // by life: the highest number
	clears  []time.Duration    // when removals were asked for
	evicts  []time.Duration
	target  *Event
	final   map[Position]bool
	// repeated are payloads that were stored again after they had left the history.
	repeated map[string]bool
}

// stand is how far a life was known to reach at a time.
type stand struct {
	t      time.Duration
	number uint64
}

func (v *verifier) book(channel string) *book {
	b := v.books[channel]
	if b == nil {
		b = &book{
			channel: channel, sent: make(map[string]bool), acked: make(map[string]time.Duration),
			at: make(map[Position]string), where: make(map[string]Position),
			stood: make(map[string][]stand), top: make(map[string]uint64), final: make(map[Position]bool), repeated: make(map[string]bool),
		}
		v.books[channel] = b
	}
	return b
}

// write is the first pass: it writes down what lies where.
func (v *verifier) write(e *Event) {
	switch e.Kind {
	case Send:
		v.report.Sent++
		v.book(e.Channel).sent[e.Payload] = true
		if v.size(e.Channel) == 0 {
			v.sends[e.Payload] = e
		}
	case Refuse:
		v.report.Refused++
	case Ack:
		v.report.Acked++
		b := v.book(e.Channel)
		if _, again := b.acked[e.Payload]; !again {
			b.acked[e.Payload] = e.T
		}
		if e.Offset > 0 {
			b.place(v, e)
			b.stand(e.Epoch, e.T, e.Offset)
		}
	case Deliver, Final:
		b := v.book(e.Channel)
		if !b.sent[e.Payload] {
			v.violated(Violation{Rule: RuleOnce, T: e.T, Who: e.Who, Channel: e.Channel, Payload: e.Payload},
				"%s holds %s, which nobody sent", e.Channel, e.Payload)
		}
		if v.size(e.Channel) > 0 && e.Epoch != "" {
			b.place(v, e)
		}
		if e.Kind == Final {
			b.final[Position{e.Epoch, e.Offset}] = true
		}
	case Clear:
		b := v.book(e.Channel)
		b.clears = append(b.clears, e.T)
	case Evict:
		b := v.book(e.Channel)
		b.evicts = append(b.evicts, e.T)
	case Target:
		v.book(e.Channel).target = e
	}
}

// place writes down that payload lies at a position, or finds a contradiction.
func (b *book) place(v *verifier, e *Event) {
	at := Position{e.Epoch, e.Offset}
	bad := Violation{Rule: RuleOnce, T: e.T, Who: e.Who, Channel: e.Channel, At: at, Payload: e.Payload}
	if other, taken := b.at[at]; taken && other != e.Payload {
		bad.Payload = other
		v.violated(bad, "%s: %v is %s for some and %s for others", e.Channel, at, other, e.Payload)
		return
	}
	if other, placed := b.where[e.Payload]; placed && other != at && (b.excused(e.T) || b.apart(other, at) >= uint64(v.size(b.channel))) {
		// Repeated after it had left the history, or that was removed: whether it was there nobody can tell
		// any more, and the guarantee ends there.
		if !b.repeated[e.Payload] {
			b.repeated[e.Payload] = true
			v.report.Repeated++
		}
		b.at[at] = e.Payload
		b.top[e.Epoch] = max(b.top[e.Epoch], e.Offset)
		return
	}
	if other, placed := b.where[e.Payload]; placed && other != at {
		v.violated(bad, "%s: %s lies at %v and at %v", e.Channel, e.Payload, other, at)
		return
	}
	b.at[at], b.where[e.Payload] = e.Payload, at
	b.top[e.Epoch] = max(b.top[e.Epoch], e.Offset)
}

// apart returns how far two positions of one life are from each other, 0 for
// positions of different lives.
func (b *book) apart(x, y Position) uint64 {
	if x.Epoch != y.Epoch {
		return 0
	}
	return max(x.Offset, y.Offset) - min(x.Offset, y.Offset)
}

// stand notes that life reached number, at the latest at t.
func (b *book) stand(life string, t time.Duration, number uint64) {
	b.stood[life] = append(b.stood[life], stand{t, number})
}

// headAt returns how far life was known to reach at t. All passes must be over.
func (b *book) headAt(life string, t time.Duration) uint64 {
	if !b.sorted {
		b.sorted = true
		for payload, at := range b.where { // acknowledgements that did not tell a position
			if acked, ok := b.acked[payload]; ok {
				b.stand(at.Epoch, acked, at.Offset)
			}
		}
		for _, list := range b.stood {
			slices.SortFunc(list, func(x, y stand) int { return cmp.Compare(x.t, y.t) })
			for i := 1; i < len(list); i++ {
				list[i].number = max(list[i].number, list[i-1].number)
			}
		}
	}
	list := b.stood[life]
	i, _ := slices.BinarySearchFunc(list, t, func(s stand, t time.Duration) int { return cmp.Compare(s.t, t) })
	if i == 0 {
		return 0
	}
	return list[i-1].number
}

// unseen counts what was acknowledged by t and lies nobody knows where.
func (b *book) unseen(t time.Duration) (n uint64) {
	for payload, at := range b.acked {
		if _, placed := b.where[payload]; !placed && at <= t {
			n++
		}
	}
	return n
}

// excused reports whether positions may have been lost for a reason by t.
func (b *book) excused(t time.Duration) bool {
	early := func(at time.Duration) bool { return at <= t }
	return slices.ContainsFunc(b.clears, early) || slices.ContainsFunc(b.evicts, early)
}

// finish compares acknowledgements with what lies in the log in the end.
func (b *book) finish(v *verifier) {
	size := v.size(b.channel)
	if size == 0 {
		return
	}
	if len(b.top) > 1 && len(b.evicts) == 0 {
		v.violated(Violation{Rule: RuleCause, T: v.end, Channel: b.channel},
			"%s: has had %d lives although nothing was evicted", b.channel, len(b.top))
	}
	b.unplaced(v)
	if b.target == nil {
		v.violated(Violation{Rule: RuleLost, T: v.end, Channel: b.channel}, "%s: where it stands in the end is not known", b.channel)
		return
	}
	if len(b.evicts) > 0 || len(b.clears) > 0 {
		return // its front may be gone
	}
	// What was acknowledged and is still within the window must be stored.
	for payload := range b.acked {
		at, placed := b.where[payload]
		switch {
		case !placed: // unplaced has judged it
		case at.Epoch != b.target.Epoch || at.Offset > b.target.Offset:
			v.violated(b.lost(v, at, payload), "%s: %s was acknowledged at %v, but the log ends at %d:%s",
				b.channel, payload, at, b.target.Offset, b.target.Epoch)
		case at.Offset+uint64(size) > b.target.Offset && !b.final[at]:
			v.violated(b.lost(v, at, payload), "%s: %s was acknowledged at %v, but the log does not hold it in the end", b.channel, payload, at)
		}
	}
}

func (b *book) lost(v *verifier, at Position, payload string) Violation {
	return Violation{Rule: RuleLost, T: v.end, Channel: b.channel, At: at, Payload: payload}
}

// unplaced judges acknowledged publications that nobody saw anywhere. They may
// only lie where nobody has seen anything, and there is one place for each.
func (b *book) unplaced(v *verifier) {
	var missing []string
	for payload := range b.acked {
		if _, placed := b.where[payload]; !placed {
			missing = append(missing, payload)
		}
	}
	if len(missing) == 0 {
		return
	}
	slices.Sort(missing)
	blank := 0
	for life, top := range b.top {
		if b.target != nil && b.target.Epoch == life {
			top = max(top, b.target.Offset)
		}
		for n := uint64(1); n <= top; n++ {
			if _, known := b.at[Position{life, n}]; !known {
				blank++
			}
		}
	}
	if len(missing) <= blank {
		v.report.Undecided += len(missing)
		return
	}
	v.violated(b.lost(v, Position{}, missing[0]), "%s: %d acknowledged publications are nowhere to be found, the first %s, and only %d places are unknown",
		b.channel, len(missing), missing[0], blank)
}

// empty reports whether epoch was told of a channel that has no life yet.
func empty(epoch string) bool { return strings.Contains(epoch, "~") }
