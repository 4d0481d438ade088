package check

import (
	"cmp"
	"slices"
	"time"
)

// judge compares all that is known of a job.
func (v *verifier) judge(t *ticket) {
	if t.push == nil {
		for _, e := range append(t.left, t.dead...) {
			v.violated(t.bad(RuleJobOnce, e), "%s holds %s, which nobody pushed", t.queue, t.payload)
		}
		for _, k := range t.takes {
			v.violated(t.bad(RuleJobOnce, k.e), "%s: %s got %s, which nobody pushed", t.queue, k.e.Who, t.payload)
		}
		return
	}
	for _, k := range t.takes {
		k.of = t.copyOf(copyKey{k.e.Job.ID, k.e.Job.Redriven, takeOf(k.e.Job.Error)})
		k.of.takes = append(k.of.takes, k)
	}
	for _, c := range t.copies {
		for _, k := range c.takes {
			if k.end != nil && (c.end == nil || k.end.T < c.end.T) {
				c.end = k.end
			}
		}
	}
	v.outcome(t)
	v.oneJob(t)
	for _, k := range t.takes {
		v.same(t, k.e)
		v.attempts(t, k)
	}
	for _, c := range t.copies {
		v.again(t, c)
		v.punctual(t, c)
	}
	v.deadLetters(t)
}

// outcome: what was acknowledged is done, dead, or stored; and in the end it is
// not stored any more.
func (v *verifier) outcome(t *ticket) {
	done := slices.ContainsFunc(t.takes, (*take).done)
	if done {
		v.report.Jobs.Done++
	}
	if len(t.dead) > 0 {
		v.report.Jobs.Dead++
	}
	if t.acked != nil && !done && len(t.dead)+len(t.left) == 0 {
		v.violated(Violation{Rule: RuleJobLost, T: v.end, Channel: t.queue, Payload: t.payload},
			"%s: %s was acknowledged, and is neither done nor dead nor stored; it was delivered %d times", t.queue, t.payload, len(t.takes))
	}
	for _, e := range t.left {
		v.violated(t.bad(RuleJobEnds, e), "%s: %s is still in the stream of %s in the end, attempt %d", t.queue, t.payload, e.At, e.Job.Attempt)
	}
}

// oneJob: a push that was repeated is one job. After the first has ended, NATS
// may have forgotten its key with it (docs/guarantees.md).
func (v *verifier) oneJob(t *ticket) {
	type job struct {
		id     string
		stored time.Duration
	}
	var jobs []job
	add := func(e *Event) {
		i := slices.IndexFunc(jobs, func(j job) bool { return j.id == e.Job.ID })
		if i < 0 {
			jobs = append(jobs, job{e.Job.ID, e.Began})
		}
	}
	for _, k := range t.takes {
		add(k.e)
	}
	if len(jobs) < 2 {
		return
	}
	slices.SortFunc(jobs, func(a, b job) int { return int(a.stored - b.stored) })
	for i := 1; i < len(jobs); i++ {
		before := jobs[i-1].id
		ended := slices.ContainsFunc(t.takes, func(k *take) bool {
			return k.e.Job.ID == before && k.sent != nil && k.sent.Job.Answer == AckJob && k.sent.T <= jobs[i].stored
		}) || slices.ContainsFunc(t.dead, func(e *Event) bool { return e.Job.ID == before && e.Began <= jobs[i].stored })
		if ended {
			v.report.Jobs.Twice++
			continue
		}
		v.violated(Violation{Rule: RuleJobOnce, T: jobs[i].stored, Channel: t.queue, Payload: t.payload},
			"%s: %s is job %s and, while that had not ended, job %s", t.queue, t.payload, before, jobs[i].id)
	}
}

// same: what the pusher gave and where the job came from stays.
func (v *verifier) same(t *ticket, e *Event) {
	if e.Job.Priority != t.push.Job.Priority || e.Job.Headers != t.push.Job.Headers {
		v.violated(t.bad(RuleJobSame, e), "%s: %s was pushed with %s %s and came with %s %s", t.queue, t.payload,
			t.push.Job.Priority, t.push.Job.Headers, e.Job.Priority, e.Job.Headers)
	}
	for _, k := range t.takes {
		if k.e.Job.ID == e.Job.ID {
			if k.e.Job.Origin != e.Job.Origin {
				v.violated(t.bad(RuleJobSame, e), "%s: %s has origin %q and %q", t.queue, t.payload, k.e.Job.Origin, e.Job.Origin)
			}
			break
		}
	}
	if e.Job.Redriven > len(t.redrives) {
		v.violated(t.bad(RuleJobOnce, e), "%s: %s was redriven %d times, and that was asked for %d times", t.queue, t.payload, e.Job.Redriven, len(t.redrives))
	}
}

// most returns how many attempts the job has.
func (t *ticket) most() int {
	if t.push.Job.Max > 0 {
		return t.push.Job.Max
	}
	return t.rules.MaxAttempts
}

// parent returns the delivery whose nack made c, nil for what was pushed or
// redriven: a redriven job still tells the error it died of.
func (v *verifier) parent(c *jobCopy) *take {
	if k := v.takes[c.key.parent]; k != nil && k.e.Job.Redriven == c.key.redriven {
		return k
	}
	return nil
}

// attempts: the first of a copy is one more than what failed, each delivery of
// the same copy counts, and none is above the maximum.
func (v *verifier) attempts(t *ticket, k *take) {
	j, first := k.e.Job, 1
	if parent := v.parent(k.of); parent != nil {
		first = parent.e.Job.Attempt + 1
		if parent.e.Payload != t.payload || parent.e.Channel != t.queue {
			v.violated(t.bad(RuleJobSame, k.e), "%s: %s came with the error of %s", t.queue, t.payload, parent.e.Payload)
		}
	}
	if j.Attempt < first || j.Attempt > t.most() || j.Max != t.most() {
		v.violated(t.bad(RuleJobAttempts, k.e), "%s: %s came as attempt %d of %d, expected %d to %d", t.queue, t.payload, j.Attempt, j.Max, first, t.most())
	}
	for _, other := range k.of.takes {
		if other == k || j.Unlinked {
			break // those after k are compared with it
		}
		// A new leader may not know the last deliveries of the old one.
		if other.e.Job.Attempt == j.Attempt && steady(v.ill[NATS], other.e.T-t.rules.AgainBroken, k.e.T) {
			v.violated(t.bad(RuleJobAttempts, k.e), "%s: attempt %d of %s was given out twice, to %s and to %s", t.queue, j.Attempt, t.payload, other.e.Who, k.e.Who)
		}
	}
	// An edge that was held up may have counted the job as expired before it arrived.
	if j.Credits > 0 && j.Open > j.Credits && steady(v.ill[k.e.At], k.e.T-t.rules.AgainBroken, k.e.T) {
		v.violated(t.bad(RuleJobCredits, k.e), "%s: %s has %d credits and got %s as number %d", t.queue, k.e.Who, j.Credits, t.payload, j.Open)
	}
}

// again: the message of an attempt whose end was acknowledged is gone. What was
// under way to a worker then may still arrive. So may a message that was stored
// again before: an edge does that with a job that reached no worker, while the
// worker that had it before, and was silent for the ack wait, ends it.
func (v *verifier) again(t *ticket, c *jobCopy) {
	if c.end == nil {
		return
	}
	ended := v.takes[c.end.Job.Take].e.Job
	for _, k := range c.takes {
		after := k.e.T - c.end.T
		asked := func(at time.Duration) bool { return at > c.end.T && at <= k.e.T }
		if after <= 0 || c.key.redriven > 0 && slices.ContainsFunc(t.redrives, asked) { // redriven once more
			continue
		}
		calm := steady(v.trouble, t.push.T, k.e.T) && steady(v.gone[t.queue], t.push.T, k.e.T)
		if m := k.e.Job.Message; !calm && m != "" && ended.Message != "" && m != ended.Message && k.e.Job.Stored <= c.end.T+grain {
			v.report.Jobs.Doubled++
			continue
		}
		if after > t.rules.AgainBroken || v.flowing(k.e.At, c.end.T, k.e.T) > t.rules.Again {
			v.violated(t.bad(RuleJobAgain, k.e), "%s: delivery %d gave %s to %s as attempt %d, %v after the %s of delivery %d was acknowledged", t.queue,
				k.e.Job.Take, t.payload, k.e.Who, k.e.Job.Attempt, after.Round(time.Millisecond), c.end.Job.Answer, c.end.Job.Take)
			return
		}
		v.report.Jobs.Stale++
	}
}

// flowing returns for how much of the time between from and to nothing held up what
// was under way to an edge.
func (v *verifier) flowing(edge string, from, to time.Duration) time.Duration {
	spans := slices.Concat(v.ill[NATS], v.ill[edge])
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	free := to - from
	for _, s := range spans {
		s.from, s.to = max(s.from, from), min(s.to, to)
		if s.to > s.from {
			free -= s.to - s.from
			from = s.to // spans overlap
		}
	}
	return free
}

// grain is how exact times are: clocks of processes are read one after the other.
const grain = 2 * time.Millisecond

// punctual: nothing comes before its time, nor long after it while nothing is
// broken.
func (v *verifier) punctual(t *ticket, c *jobCopy) {
	if len(c.takes) == 0 {
		return
	}
	k := c.takes[0]
	var earliest, latest time.Duration
	known := false // when it was due at the latest
	delayed := true
	if parent := v.parent(c); parent != nil && parent.sent != nil {
		attempt, wait := parent.e.Job.Attempt, parent.sent.Job.Delay
		least, most := wait, wait
		if wait == 0 {
			least, most = t.rules.Backoff.Delay(attempt, func() float64 { return 1 }), t.rules.Backoff.Delay(attempt, func() float64 { return 0 })
		}
		earliest = parent.sent.T + least
		if parent.end != nil {
			latest, known = parent.end.T+most, true
		}
	} else if c.key.redriven == 0 && c.key.parent == 0 {
		earliest = t.push.T + t.push.Job.Delay
		delayed = t.push.Job.Delay > 0
		if t.acked != nil {
			latest, known = t.acked.T+t.push.Job.Delay, true
		}
	}
	if k.e.T < earliest-grain {
		v.violated(t.bad(RuleJobEarly, k.e), "%s: attempt %d of %s came %v early", t.queue, k.e.Job.Attempt, t.payload, (earliest - k.e.T).Round(time.Millisecond))
	}
	if !known || c.key.id != t.takes[0].e.Job.ID { // stored again, nobody knows when
		return
	}
	late, jobs := max(k.e.T-latest, 0), &v.report.Jobs
	jobs.SlowestWaiting = max(jobs.SlowestWaiting, late)
	if !steady(v.trouble, latest-calmBefore, k.e.T) || t.rules.Late == 0 {
		return
	}
	if delayed {
		jobs.LatestDelayed = max(jobs.LatestDelayed, late)
	}
	if late > t.rules.Late {
		v.violated(t.bad(RuleJobLate, k.e), "%s: attempt %d of %s came %v after it was due, while nothing was broken", t.queue, k.e.Job.Attempt, t.payload, late.Round(time.Millisecond))
	}
}

// calmBefore is how long nothing must have been broken before jobs have to be
// punctual: what piled up is worked off, workers have come back.
const calmBefore = 10 * time.Second
