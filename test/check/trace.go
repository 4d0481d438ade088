package check

import (
	"strings"
	"time"
)

// traceSpan is how far before a violation its causes are looked for.
const traceSpan = 40 * time.Second

// maxTrace bounds a trace, in events.
const maxTrace = 60

// Trace returns the events that have to do with bad: what happened to its
// publication and its neighbours, to its client, and what was broken meanwhile.
func Trace(events []Event, bad Violation) []Event {
	var out []Event
	for _, e := range events {
		if e.T > bad.T+time.Second || e.T < bad.T-traceSpan && e.Payload != bad.Payload {
			continue
		}
		if concerns(&e, &bad) {
			out = append(out, e)
		}
	}
	if len(out) > maxTrace {
		head := out[:maxTrace/4]
		out = append(append([]Event(nil), head...), out[len(out)-maxTrace*3/4:]...)
	}
	return out
}

func concerns(e *Event, bad *Violation) bool {
	if e.Job != nil {
		return e.Channel == bad.Channel && e.Payload == bad.Payload
	}
	if e.State != nil {
		return concernsKey(e, bad)
	}
	switch e.Kind {
	case Fault, Mended, Impaired, Healthy:
		return true
	case Stall, Resume, Detach:
		return e.Who == bad.Who && (e.Channel == "" || e.Channel == bad.Channel)
	case Clear, Evict, Target:
		return e.Channel == bad.Channel
	case Subscribed, Unsub:
		return e.Channel == bad.Channel && e.Who == bad.Who
	case Present:
		return e.Channel == bad.Channel && e.T == bad.T
	case Send, Ack, Refuse:
		return e.Channel == bad.Channel && e.Payload == bad.Payload
	case Deliver:
		near := bad.At.Offset > 0 && e.Offset+1 >= bad.At.Offset && e.Offset <= bad.At.Offset+1
		return e.Channel == bad.Channel && (e.Who == bad.Who && near || e.Payload == bad.Payload && e.Payload != "")
	case Usage:
		return e.Who == bad.Who
	default:
		return false
	}
}

// concernsKey reports whether e, an event of state, has to do with bad, whose payload
// is a key.
func concernsKey(e *Event, bad *Violation) bool {
	if e.Channel != bad.Channel || e.Kind != Operated && e.Who != bad.Who {
		return false
	}
	switch {
	case e.Kind == Operated:
		return e.State.Key == bad.Payload || e.State.Op == OpClear
	case e.Kind == MapChange:
		return bad.Payload == "" || e.State.Entries[0].Key == bad.Payload
	default:
		return true
	}
}

// Format writes events one per line.
func Format(events []Event) string {
	var b strings.Builder
	for _, e := range events {
		b.WriteString(e.String())
		b.WriteByte('\n')
	}
	return b.String()
}
