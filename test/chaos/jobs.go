package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/headrace/headrace/router"
	"github.com/headrace/headrace/test/check"
)

// The queues of a run. Nothing that makes others wait goes to timedQueue, so what
// is due must come at once there.
const (
	workQueue  = "work"
	timedQueue = "timed"
	hookQueue  = "hooked" // its jobs go to a webhook
)

var queueNames = []string{workQueue, timedQueue, hookQueue}

// queueConfig is the part of the edges' configuration about queues, but for the
// address of the webhook.
const queueConfig = `queues:
  - {name: work, max_attempts: 4, ack_wait: 5s, backoff: {base: 500ms, factor: 2, cap: 4s, jitter: 0.2}, max_bytes: 40000000, allow_push_for_anonymous: true, allow_work_for_anonymous: true}
  - {name: timed, max_attempts: 4, ack_wait: 5s, backoff: {base: 500ms, factor: 2, cap: 4s, jitter: 0.2}, max_bytes: 10000000, allow_push_for_anonymous: true, allow_work_for_anonymous: true}
  - {name: hooked, max_attempts: 4, ack_wait: 5s, backoff: {base: 500ms, factor: 2, cap: 4s, jitter: 0.2}, max_bytes: 10000000, webhook: {concurrency: 8, timeout: 20s, secret: ` + tokenSecret + `, url: "`

const (
	ackWait     = 5 * time.Second
	maxAttempts = 4
)

// queueRules are what jobs are judged by. What was under way when a job ended is
// held up by the longest cut (40 s), by processes that are frozen, and by what
// buffers on the way; that cuts end does not mean that it arrives at once.
func queueRules(late time.Duration) check.QueueRules {
	return check.QueueRules{
		MaxAttempts: maxAttempts, Backoff: router.Backoff{Base: 500 * time.Millisecond, Factor: 2, Cap: 4 * time.Second, Jitter: 0.2},
		Late: late, Again: 2 * time.Second, AgainBroken: 90 * time.Second,
	}
}

// The deeds: what a job makes its worker do. A job's payload begins with one.
const (
	doOK     = "ok"     // acked
	doSlow   = "slow"   // acked after a while
	doFlaky  = "flaky"  // nacked once
	doStuck  = "stuck"  // nacked three times
	doPoison = "poison" // always nacked
	doFinal  = "final"  // nacked for good
	doAgain  = "again"  // nacked for good until it was redriven
	doKiller = "killer" // its worker vanishes, with all that it holds
	doSilent = "silent" // its first worker says nothing
	doLate   = "late"   // its first worker acks after others got it
	doExtend = "extend" // takes longer than the ack wait, with extensions
	doDelay  = "pause"  // nacked once, with a delay of its own
)

// deed is how often a job is of a kind.
type deed struct {
	name   string
	weight int
}

var deeds = map[string][]deed{
	workQueue: {
		{doOK, 470}, {doSlow, 250}, {doFlaky, 100}, {doStuck, 20}, {doPoison, 40}, {doFinal, 30}, {doAgain, 15}, {doKiller, 10},
		{doSilent, 10}, {doLate, 10}, {doExtend, 10}, {doDelay, 35},
	},
	// A connection that breaks is held against the endpoint, so few do.
	hookQueue:  {{doOK, 640}, {doSlow, 80}, {doFlaky, 100}, {doStuck, 20}, {doPoison, 40}, {doFinal, 30}, {doKiller, 5}, {doExtend, 10}},
	timedQueue: {{doOK, 60}, {doFlaky, 20}, {doPoison, 5}, {doFinal, 5}, {doDelay, 10}},
}

func drawDeed(queue string) string {
	total := 0
	for _, d := range deeds[queue] {
		total += d.weight
	}
	n := rand.IntN(total)
	for _, d := range deeds[queue] {
		if n -= d.weight; n < 0 {
			return d.name
		}
	}
	return doOK
}

// newJob is a job about to be pushed.
type newJob struct {
	queue    string
	name     string // unlike all others
	payload  string // JSON: deed and name
	priority string
	delay    time.Duration
	max      int
	headers  map[string]string
}

// drawJob makes a job up.
func drawJob(queue, name string) newJob {
	deed := drawDeed(queue)
	j := newJob{queue: queue, name: name, payload: fmt.Sprintf("%q", deed+" "+name), priority: drawPriority()}
	switch n := rand.IntN(10); {
	case queue == timedQueue && n < 6:
		j.delay = rand.N(5 * time.Second)
	case n == 0:
		j.delay = rand.N(20 * time.Second)
	}
	if rand.IntN(10) == 0 {
		j.max = 1 + rand.IntN(6)
	}
	if rand.IntN(3) == 0 {
		j.headers = map[string]string{"X-Job": name, "X-Odd": `a "b" <c> é`}
	}
	return j
}

func drawPriority() string { return string(router.Priorities[rand.IntN(3)]) }

// event is what a record says of the push.
func (j *newJob) event(kind check.Kind, who string) check.Event {
	return check.Event{
		Kind: kind, Who: who, Channel: "queue:" + j.queue, Payload: j.payload,
		Job: &check.Job{Priority: j.priority, Delay: j.delay, Max: j.max, Headers: spell(j.headers)},
	}
}

// spell writes headers in one spelling.
func spell(h map[string]string) string {
	if len(h) == 0 {
		return ""
	}
	b, _ := json.Marshal(h) //nolint:errcheck // strings
	return string(b)
}

// deedOf reads the deed of a payload.
func deedOf(payload json.RawMessage) string {
	deed, _, _ := strings.Cut(strings.Trim(string(payload), `"`), " ")
	return deed
}
