package check

import (
	"slices"
	"strings"
	"time"

	"github.com/headrace/headrace/router"
)

// deadLetters: one for each life of a job that failed, for the reason it gives,
// and none for a job that was acknowledged to be done.
func (v *verifier) deadLetters(t *ticket) {
	type life struct {
		id       string
		redriven int
	}
	seen := make(map[life]bool)
	for _, d := range t.dead {
		l := life{d.Job.ID, d.Job.Redriven}
		if seen[l] {
			v.violated(t.bad(RuleJobDead, d), "%s: %s (%s, redriven %d times) has more than one dead letter", t.queue, t.payload, l.id, l.redriven)
		}
		seen[l] = true
		v.same(t, d)
		v.reason(t, d)
	}
}

// reason compares a dead letter with what workers said.
func (v *verifier) reason(t *ticket, d *Event) {
	j := d.Job
	wrong := func(format string, args ...any) {
		v.violated(t.bad(RuleJobDead, d), "%s: %s is a dead letter for %q after %d attempts (%s): "+format,
			append([]any{t.queue, t.payload, j.Reason, j.Attempt, j.Error}, args...)...)
	}
	last := v.takes[takeOf(j.Error)] // whose nack, or whose retry vanished
	if last != nil && (last.e.Payload != t.payload || last.e.Job.ID != j.ID) {
		wrong("the error is that of %s", last.e.Payload)
		return
	}
	switch router.DeadReason(j.Reason) {
	case router.DeadAttempts, router.DeadFinal:
		want := NackJob
		if j.Reason == string(router.DeadFinal) {
			want = FinalJob
		}
		if last == nil && want == NackJob {
			last = t.broken(d)
		}
		switch {
		case last != nil && last.sent == nil && last.e.Job.Unlinked: // it broke the connection
		case last == nil || last.sent == nil || last.sent.Job.Answer != want:
			wrong("no worker said so")
		case last.e.Job.Attempt != j.Attempt || want == NackJob && j.Attempt != t.most():
			wrong("it failed in attempt %d of %d", last.e.Job.Attempt, t.most())
		case last.of.end != nil && last.of.end.Job.Answer == AckJob && last.of.end.T < last.sent.T:
			wrong("it was acknowledged as done before, by delivery %d", last.of.end.Job.Take)
		}
	case router.DeadVanished:
		v.vanished(t, d, wrong)
	case router.DeadStranded:
		if steady(v.ill[NATS], t.push.T, d.T) {
			wrong("nothing was broken")
		}
	default:
		wrong("that cannot be")
	}
}

// broken returns the last delivery of a dead letter when no answer says which it
// was: a webhook may break the connection instead.
func (t *ticket) broken(d *Event) *take {
	for _, k := range t.takes {
		if j := k.e.Job; j.Unlinked && j.ID == d.Job.ID && j.Redriven == d.Job.Redriven && j.Attempt == d.Job.Attempt && j.Attempt == t.most() {
			return k
		}
	}
	return nil
}

// vanished: every attempt was given to somebody who did not answer.
func (v *verifier) vanished(t *ticket, d *Event, wrong func(string, ...any)) {
	parent := takeOf(d.Job.Error)
	c := t.copies[copyKey{d.Job.ID, d.Job.Redriven, parent}]
	if all := t.copies[copyKey{d.Job.ID, d.Job.Redriven, 0}]; c == nil && all != nil && all.takes[0].e.Job.Unlinked {
		c = all
	}
	switch {
	case d.Job.Attempt != t.most():
		wrong("there are %d attempts", t.most())
	case c != nil && c.end != nil && c.end.T < d.Began-t.rules.AgainBroken:
		wrong("the %s of delivery %d had been acknowledged", c.end.Job.Answer, c.end.Job.Take)
	case !steady(v.trouble, t.push.T, d.Began) || !steady(v.gone[t.queue], t.push.T, d.Began):
		// Deliveries may have vanished with an edge, or on their way to a worker that had gone.
	case c == nil || len(c.takes) == 0:
		wrong("no worker ever had it, and nothing was broken")
	default:
		first := c.takes[0].e.Job.Attempt
		for n := first; n <= t.most(); n++ {
			if !slices.ContainsFunc(c.takes, func(k *take) bool { return k.e.Job.Attempt == n }) {
				wrong("no worker had attempt %d, and nothing was broken", n)
			}
		}
	}
}

// The shares of what is taken while all priorities wait: 6, 3 and 1 of ten are
// meant (DESIGN §4), seen through several edges.
const (
	floodDepth   = 40  // waiting jobs of each priority, to count as a flood
	floodTakes   = 200 // deliveries to judge by
	leastLow     = 0.04
	leastHigh    = 0.4
	mostLowShare = 0.25
)

// starving looks for times in which jobs of all priorities wait, and at what is
// taken then.
func (v *verifier) starving(queue string, tickets map[string]*ticket, events []Event) {
	waiting := make(map[string]int)
	taken := make(map[string]int)
	started := make(map[string]bool)
	total := 0
	var since time.Duration
	for i := range events {
		e := &events[i]
		if e.Job == nil || e.Channel != queue {
			continue
		}
		t := tickets[queue+" "+e.Payload]
		switch {
		case e.Kind == Pushed && t.acked == e && t.push != nil && t.push.Job.Delay == 0:
			waiting[t.push.Job.Priority]++
			if started[e.Payload] { // taken before it was acknowledged
				waiting[t.push.Job.Priority]--
			}
		case e.Kind == Taken:
			if !started[e.Payload] && t.acked != nil && t.acked.T <= e.T && t.push != nil && t.push.Job.Delay == 0 {
				waiting[e.Job.Priority]--
			}
			started[e.Payload] = true
			taken[e.Job.Priority]++
			total++
		}
		flood := waiting["high"] >= floodDepth && waiting["medium"] >= floodDepth && waiting["low"] >= floodDepth
		if flood && total < floodTakes {
			continue
		}
		if total >= floodTakes && steady(v.trouble, since, e.T) {
			v.flood(queue, taken, total, e)
		}
		clear(taken)
		total, since = 0, e.T
	}
}

func (v *verifier) flood(queue string, taken map[string]int, total int, e *Event) {
	high, low := float64(taken["high"])/float64(total), float64(taken["low"])/float64(total)
	jobs := &v.report.Jobs
	if jobs.Floods == 0 || low < jobs.LeastLow {
		jobs.LeastLow = low
	}
	jobs.Floods++
	if low < leastLow || high < leastHigh || low > mostLowShare {
		v.violated(Violation{Rule: RuleJobStarve, T: e.T, Channel: queue}, "%s: of %d jobs taken while all priorities waited, %d were high, %d medium and %d low",
			strings.TrimPrefix(queue, "queue:"), total, taken["high"], taken["medium"], taken["low"])
	}
}
