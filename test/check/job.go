package check

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// ticket is what is known of one push and the job that it became.
type ticket struct {
	queue, payload string
	rules          QueueRules
	push           *Event // nil: nobody pushed it
	acked          *Event // nil: not acknowledged
	takes          []*take
	copies         map[copyKey]*jobCopy
	left           []*Event // in the jobs or retry stream
	dead           []*Event
	redrives       []time.Duration // when they were asked for
}

// take is one delivery to a worker.
type take struct {
	e    *Event
	sent *Event // the answer, when it was sent first
	end  *Event // when the end of the attempt was acknowledged
	bad  *Event // the last refusal of the answer; Code 0 is an unknown outcome
	of   *jobCopy
}

// copyKey names a stored message of a job: the pushed one, or the retry that the
// failure of one delivery made. A job has several at a time when an answer got
// lost between the two steps of a retry, or came when others had the job already.
type copyKey struct {
	id       string
	redriven int
	parent   int // the take whose nack made it, 0 for what was pushed or redriven
}

type jobCopy struct {
	key   copyKey
	takes []*take
	end   *Event // the first acknowledged end
}

// queues judges all queues.
func (v *verifier) queues(events []Event) {
	if len(v.rules.Queues) == 0 {
		return
	}
	for name, spans := range v.ill {
		if name == NATS || isEdge(name, events) {
			v.trouble = append(v.trouble, spans...)
		}
	}
	v.takes, v.gone = make(map[int]*take), make(map[string][]span)
	tickets := make(map[string]*ticket)
	for i := range events {
		e := &events[i]
		if e.Kind == Gone {
			v.gone[e.Channel] = append(v.gone[e.Channel], span{e.T, e.T})
		}
		if e.Job != nil {
			v.collect(tickets, e)
		}
	}
	for _, name := range sortedKeys(tickets) {
		v.judge(tickets[name])
	}
	for queue := range v.rules.Queues {
		v.starving("queue:"+queue, tickets, events)
	}
}

// NATS is where an Impaired event is that is about the servers: elections, or
// answers that get lost between them.
const NATS = "nats"

// isEdge reports whether name is an edge rather than a client that did not read.
func isEdge(name string, events []Event) bool {
	return slices.ContainsFunc(events, func(e Event) bool { return e.Kind == Impaired && e.At == name })
}

func (v *verifier) collect(tickets map[string]*ticket, e *Event) {
	key := e.Channel + " " + e.Payload
	t := tickets[key]
	if t == nil {
		t = &ticket{
			queue: e.Channel, payload: e.Payload, rules: v.rules.Queues[strings.TrimPrefix(e.Channel, "queue:")],
			copies: make(map[copyKey]*jobCopy),
		}
		tickets[key] = t
	}
	jobs := &v.report.Jobs
	switch e.Kind {
	case Push:
		jobs.Pushed++
		if t.push == nil {
			t.push = e
		}
	case Pushed:
		if t.acked == nil {
			jobs.Acked++
			t.acked = e
		}
	case Taken:
		jobs.Taken++
		k := &take{e: e}
		t.takes = append(t.takes, k)
		v.takes[e.Job.Take] = k
	case Settle, Settled, NotSettled:
		v.answer(t, e)
	case Redrive:
		jobs.Redriven++
		t.redrives = append(t.redrives, e.T)
	case Left:
		if e.At == "dead" {
			t.dead = append(t.dead, e)
		} else {
			t.left = append(t.left, e)
		}
	}
}

// answer notes what a worker said of a delivery, and what it was told.
func (v *verifier) answer(t *ticket, e *Event) {
	k := v.takes[e.Job.Take]
	if k == nil {
		return
	}
	if e.Job.Answer == ForeignJob {
		if e.Kind == Settled {
			v.violated(t.bad(RuleJobToken, e), "%s: %s was acknowledged by another queue than its own", t.queue, t.payload)
		}
		return
	}
	if e.Kind == NotSettled && e.Code == badRequest {
		v.violated(t.bad(RuleJobToken, e), "%s: the token of delivery %d of %s was refused", t.queue, e.Job.Take, t.payload)
	}
	if e.Job.Answer == ExtendJob {
		return
	}
	switch {
	case e.Kind == Settle && k.sent == nil:
		k.sent = e
	case e.Kind == Settled && k.end == nil:
		k.end = e
		if e.Job.Answer == NackJob {
			v.report.Jobs.Retried++
		}
	case e.Kind == NotSettled:
		k.bad = e
	}
}

// badRequest is the protocol's error code for what cannot be right.
const badRequest = 107

func (t *ticket) bad(rule string, e *Event) Violation {
	return Violation{Rule: rule, T: e.T, Who: e.Who, Channel: t.queue, Payload: t.payload}
}

// TakeError is the error of a nack: it names the delivery.
func TakeError(take int, text string) string { return fmt.Sprintf("delivery %d: %s", take, text) }

// takeOf is the inverse, with anything in front; 0 for other errors.
func takeOf(err string) (take int) {
	i := max(strings.LastIndex(err, "delivery "), 0)
	if n, _ := fmt.Sscanf(err[i:], "delivery %d:", &take); n != 1 {
		return 0
	}
	return take
}

// done reports whether a worker did the job: its ack was sent, and not refused.
func (k *take) done() bool {
	return k.sent != nil && k.sent.Job.Answer == AckJob && (k.end != nil || k.bad == nil || k.bad.Code == 0)
}

// copyOf returns the copy with that key.
func (t *ticket) copyOf(key copyKey) *jobCopy {
	c := t.copies[key]
	if c == nil {
		c = &jobCopy{key: key}
		t.copies[key] = c
	}
	return c
}

// steady reports whether nothing was broken between from and to.
func steady(spans []span, from, to time.Duration) bool {
	return !slices.ContainsFunc(spans, func(s span) bool { return s.from <= to && s.to >= from })
}
