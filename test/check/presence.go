package check

import (
	"strings"
	"time"
)

// stay is one connection's time in one channel.
type stay struct {
	who, edge, channel string
	from, to           time.Duration
}

// span is a time during which an edge was not itself.
type span struct{ from, to time.Duration }

// presence judges the answers of presence probes: everyone who has been there for
// a while is in it, nobody who has been gone for a while is. Edges that were
// impaired within the bound are left out, and so are clients that did not read: they
// may be cut for it.
func (v *verifier) presence(events []Event) {
	stays, ill := v.stays(events), v.illWithin
	for i := range events {
		e := &events[i]
		switch e.Kind {
		case Unknown:
			v.report.Unknown++
		case Present:
			v.report.Presence++
			members := make(map[string]bool)
			for _, id := range strings.Fields(e.Payload) {
				members[id] = true
			}
			for id, s := range stays {
				if s.channel != e.Channel {
					continue
				}
				bad := Violation{Rule: RulePresence, T: e.T, Who: s.who, Channel: e.Channel, Payload: id}
				settled := s.from <= e.Began-v.rules.Gone && s.to >= e.T && !ill(s.who, e.Began-v.rules.Gone, e.T)
				left := s.to < e.Began-v.rules.Gone
				switch {
				case settled && !members[id] && !ill(s.edge, e.Began-v.rules.Gone, e.T):
					v.violated(bad, "%s: %s (%s at %s) has been there for %v and is not in the answer of %s", e.Channel, s.who, id, s.edge, (e.Began - s.from).Round(time.Second), e.At)
				case left && members[id] && !ill(s.edge, max(s.to, e.Began-v.rules.Gone), e.T):
					v.violated(bad, "%s: %s (%s at %s) has been gone for %v and is in the answer of %s", e.Channel, s.who, id, s.edge, (e.Began - s.to).Round(time.Second), e.At)
				}
			}
		}
	}
}

// illWithin reports whether who was impaired between from and to, or shortly before.
func (v *verifier) illWithin(who string, from, to time.Duration) bool {
	for _, s := range v.ill[who] {
		if s.from <= to && s.to+v.rules.Gone >= from {
			return true
		}
	}
	return false
}

// stays returns who was where and when, by client id and channel.
func (v *verifier) stays(events []Event) map[string]*stay {
	stays := make(map[string]*stay)
	open := make(map[string][]*stay) // by who
	end := func(who, channel string, t time.Duration) {
		rest := open[who][:0]
		for _, s := range open[who] {
			if channel == "" || s.channel == channel {
				s.to = t
			} else {
				rest = append(rest, s)
			}
		}
		open[who] = rest
	}
	for i := range events {
		switch e := &events[i]; e.Kind {
		case Subscribed:
			end(e.Who, e.Channel, e.T)
			s := &stay{who: e.Who, edge: e.At, channel: e.Channel, from: e.T, to: v.end}
			open[e.Who] = append(open[e.Who], s)
			if v.probed(e.Channel, events) {
				stays[e.Payload] = s
			}
		case Unsub, Detach:
			end(e.Who, e.Channel, e.T)
		}
	}
	return stays
}

// probed reports whether channel is the one whose presence is asked for: one
// channel is, so that a client id stands for one stay.
func (v *verifier) probed(channel string, events []Event) bool {
	if v.probe == "" {
		v.probe = "none"
		for i := range events {
			if events[i].Kind == Present {
				v.probe = events[i].Channel
				break
			}
		}
	}
	return channel == v.probe
}

// impaired returns when edges were impaired and clients did not read, by name.
func (v *verifier) impaired(events []Event) map[string][]span {
	out := make(map[string][]span)
	since := make(map[string]time.Duration)
	depth := make(map[string]int)
	for i := range events {
		e := &events[i]
		name := e.At + e.Who // one of them is set
		switch e.Kind {
		case Impaired, Stall:
			if depth[name] == 0 {
				since[name] = e.T
			}
			depth[name]++
		case Healthy, Resume:
			if depth[name]--; depth[name] == 0 {
				out[name] = append(out[name], span{since[name], e.T})
			}
		}
	}
	for name, n := range depth {
		if n > 0 {
			out[name] = append(out[name], span{since[name], v.end})
		}
	}
	return out
}
