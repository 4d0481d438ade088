package check

import (
	"fmt"
	"strings"
	"time"

	"github.com/headrace/headrace/router"
)

// The kinds of events of queues. The channel is "queue:" and the name of the
// queue; the payload names the job: no two pushes share one.
const (
	Push      Kind = "push"      // who is about to push payload, once or until it is acknowledged
	Pushed    Kind = "pushed"    // the push was acknowledged
	NotPushed Kind = "notpushed" // its outcome is not known, or it was refused

	Taken      Kind = "taken"      // who got the job at an edge, or at "nats"
	Settle     Kind = "settle"     // who is about to send an answer to that delivery
	Settled    Kind = "settled"    // the answer was acknowledged
	NotSettled Kind = "notsettled" // its outcome is not known (no code), or it was refused

	Gone    Kind = "gone"    // who's connection ended: a job that was on its way to it got lost
	Redrive Kind = "redrive" // the job is about to be brought back from the dead letters
	Left    Kind = "left"    // in the end the job is stored at "jobs", "retries" or "dead"; began is when it was
)

// Job is what events of queues tell. Kind says which fields count.
type Job struct {
	ID       string        `json:"id,omitempty"`
	Priority string        `json:"priority,omitempty"`
	Max      int           `json:"max,omitempty"`     // attempts; of a push: 0 is the queue's
	Delay    time.Duration `json:"delay,omitempty"`   // of a push or a nack: as asked for
	Headers  string        `json:"headers,omitempty"` // in one spelling
	Origin   string        `json:"origin,omitempty"`
	Attempt  int           `json:"attempt,omitempty"`
	Redriven int           `json:"redriven,omitempty"`
	Error    string        `json:"error,omitempty"`  // the last one; of a nack: that of this attempt
	Reason   string        `json:"reason,omitempty"` // of a dead letter

	// Take numbers deliveries. The errors of nacks are made by TakeError, so
	// that a delivery tells which one it is the retry of.
	Take   int    `json:"take,omitempty"`
	Answer Answer `json:"answer,omitempty"`
	// Message is the stored message that was delivered: its stream and sequence, ""
	// when the delivery does not tell. Stored is when it was stored.
	Message string        `json:"message,omitempty"`
	Stored  time.Duration `json:"stored,omitempty"`
	// Unlinked says that a delivery does not tell the last error.
	Unlinked bool `json:"unlinked,omitempty"`
	// Open is what the worker held, this job included, out of Credits.
	Open    int `json:"open,omitempty"`
	Credits int `json:"credits,omitempty"`
}

func (j *Job) String() string {
	s := fmt.Sprintf("%s %s", j.ID, j.Answer)
	if j.Take > 0 {
		s += fmt.Sprintf(" delivery %d", j.Take)
	}
	if j.Attempt > 0 {
		s += fmt.Sprintf(" attempt %d of %d", j.Attempt, j.Max)
	}
	for _, part := range []string{j.Reason, j.Error} {
		if part != "" {
			s += " (" + part + ")"
		}
	}
	return strings.TrimSpace(s)
}

// Answer is what a worker says of a job.
type Answer string

// The answers.
const (
	AckJob     Answer = "ack"
	NackJob    Answer = "nack"
	FinalJob   Answer = "final" // a nack that says that no retry can help
	ExtendJob  Answer = "extend"
	ForeignJob Answer = "foreign" // an ack to another queue than the job's
)

// QueueRules is what the jobs of a queue are judged by.
type QueueRules struct {
	MaxAttempts int
	Backoff     router.Backoff
	// Late bounds how long a job that is due waits for its worker while nothing is
	// broken; 0 where queues are longer than workers are fast.
	Late time.Duration
	// Again is when a job whose end was acknowledged may be under way to a worker
	// no longer: not counting what its edge or NATS was broken, and in any case.
	Again, AgainBroken time.Duration
}

// The rules of queues.
const (
	RuleJobLost     = "an acknowledged job is done, a dead letter, or still stored"
	RuleJobEnds     = "every job ends when workers work"
	RuleJobOnce     = "one push is one job"
	RuleJobAgain    = "an attempt that was acknowledged to have ended is not given out again"
	RuleJobAttempts = "attempts count up, to the maximum and no further"
	RuleJobDead     = "one dead letter for a job that failed, and none for others"
	RuleJobSame     = "payload, headers, priority and origin of a job never change"
	RuleJobEarly    = "no job and no retry comes early"
	RuleJobLate     = "what is due comes at once while nothing is broken"
	RuleJobStarve   = "high goes before low, and low does not starve"
	RuleJobToken    = "a job token settles its own job only"
	RuleJobCredits  = "a worker holds no more jobs than its credits"
)

// Jobs is what Verify counted in queues.
type Jobs struct {
	Pushed, Acked  int
	Taken          int // deliveries to workers
	Done, Dead     int // jobs
	Retried        int // acknowledged nacks
	Redriven       int
	Stale          int // deliveries of attempts that had ended, still under way then
	Doubled        int // deliveries of what had been stored twice before an end came
	Twice          int // jobs pushed again under the same key after they had ended
	Floods         int // times in which all priorities waited
	LeastLow       float64
	LatestDelayed  time.Duration // after it was due, while nothing was broken
	SlowestWaiting time.Duration // from acknowledgement, or the time it was due, to the first worker
}
