package check

import (
	"strings"
	"time"
)

// visit is one client's time in a channel with joins and leaves, and the picture that
// it was given of who is there.
type visit struct {
	stay
	client string
	asked  bool
	known  time.Duration // when presence was answered; 0 is never
	there  map[string]bool
	came   map[string]time.Duration // when a client was first in the picture
	went   map[string]time.Duration // when it last left the picture
	open   bool
}

// members judges joins and leaves: a picture made of the answer to presence and what
// was pushed since has nobody twice, and nobody leaves it who is not there; it follows
// within the bound while its edge and NATS are well; and in the end it is who is there.
func (v *verifier) members(events []Event) {
	all := make(map[string][]*visit) // by channel
	for i := range events {
		if events[i].Kind == Members {
			all[events[i].Channel] = nil
		}
	}
	if len(all) == 0 {
		return
	}
	now := make(map[string]*visit) // by who and channel
	for i := range events {
		e := &events[i]
		switch e.Kind {
		case Subscribed:
			if _, ok := all[e.Channel]; !ok {
				continue
			}
			w := &visit{stay: stay{who: e.Who, edge: e.At, channel: e.Channel, from: e.T, to: v.end}, client: e.Payload, open: true,
				there: make(map[string]bool), came: make(map[string]time.Duration), went: make(map[string]time.Duration)}
			now[e.Who+" "+e.Channel] = w
			all[e.Channel] = append(all[e.Channel], w)
		case Unsub, Detach:
			for _, w := range now {
				if w.who == e.Who && w.open && (e.Channel == "" || e.Channel == w.channel) {
					w.to, w.open = e.T, false
				}
			}
		case AskMembers, Members, MemberJoined, MemberLeft:
			if w := now[e.Who+" "+e.Channel]; w != nil && w.open {
				w.told(v, e)
			}
		}
	}
	for _, channel := range sortedKeys(all) {
		for _, w := range all[channel] {
			w.judge(v, all[channel])
		}
	}
}

func (w *visit) told(v *verifier, e *Event) {
	bad := Violation{Rule: RuleMembers, T: e.T, Who: w.who, Channel: w.channel, Payload: e.Payload}
	switch e.Kind {
	case AskMembers:
		w.asked = true
	case Members:
		w.known = e.T
		w.there = make(map[string]bool)
		for _, id := range strings.Fields(e.Payload) {
			w.enter(id, e.T)
		}
	case MemberJoined:
		v.report.Joined++
		if w.there[e.Payload] {
			v.violated(bad, "%s: %s (at %s) was told again that %s joined", w.channel, w.who, w.edge, e.Payload)
		}
		w.enter(e.Payload, e.T)
	case MemberLeft:
		v.report.Left++
		if w.known > 0 && !w.there[e.Payload] {
			v.violated(bad, "%s: %s (at %s) was told that %s left, who was not there", w.channel, w.who, w.edge, e.Payload)
		}
		delete(w.there, e.Payload)
		w.went[e.Payload] = e.T
	}
}

func (w *visit) enter(id string, t time.Duration) {
	w.there[id] = true
	if _, again := w.came[id]; !again {
		w.came[id] = t
	}
}

// judge compares the picture with who was there.
func (w *visit) judge(v *verifier, all []*visit) {
	if w.open && w.asked && w.known == 0 {
		v.violated(Violation{Rule: RuleMembers, T: v.end, Who: w.who, Channel: w.channel}, "%s: %s (at %s) never learned who is there", w.channel, w.who, w.edge)
	}
	if w.known == 0 {
		return
	}
	well := func(edge string, from time.Duration) bool {
		to := from + v.rules.Gone
		return !v.illWithin(edge, from, to) && !v.illWithin(NATS, from, to)
	}
	for _, s := range all {
		bad := Violation{Rule: RuleMembers, T: v.end, Who: w.who, Channel: w.channel, Payload: s.client}
		came, told := w.came[s.client]
		since := max(s.from, w.known)
		late := since + v.rules.Gone
		switch {
		case w.open && s.open && !w.there[s.client]:
			v.violated(bad, "%s: in the end %s (at %s) does not know of %s (%s at %s)", w.channel, w.who, w.edge, s.who, s.client, s.edge)
		case w.open && !s.open && w.there[s.client]:
			v.violated(bad, "%s: in the end %s (at %s) still sees %s (%s at %s), gone for %v", w.channel, w.who, w.edge, s.who, s.client, s.edge, (v.end - s.to).Round(time.Second))
		case late < min(s.to, w.to) && (!told || came > late) && well(w.edge, since) && well(s.edge, since):
			bad.T = late
			v.violated(bad, "%s: %s (at %s) was not told of %s (%s at %s) for %v", w.channel, w.who, w.edge, s.who, s.client, s.edge, v.rules.Gone)
		case told && s.to > w.known && s.to+v.rules.Gone < w.to && (w.there[s.client] || w.went[s.client] > s.to+v.rules.Gone) && well(w.edge, s.to):
			bad.T = s.to + v.rules.Gone
			v.violated(bad, "%s: %s (at %s) was not told for %v that %s left (%s at %s)", w.channel, w.who, w.edge, v.rules.Gone, s.who, s.client, s.edge)
		}
	}
}
