package queue

import (
	"fmt"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/router"
)

// These run in virtual time against a real server.

// inBubble gives f a store with one worker.
func inBubble(t *testing.T, qc router.Queue, f func(s *Store, h *hands)) {
	natstest.Bubble(t, func(t *testing.T) {
		srv := natstest.Run(t)
		qc.Name = "q"
		s, stop := startStop(t, srv.Conn(persistence.ConnectOptions()...), Config{Queues: []router.Queue{qc}})
		h := hire(t, s, 1000)
		f(s, h)
		h.w.Close(0)
		stop()
		s.nc.Close()
		srv.Stop()
	})
}

// tick is how much later than due NATS may make scheduled messages available when
// there are many: its timer does not fire more often (nats-server
// server/scheduler.go). It undoes most of a jitter smaller than that.
const tick = 250 * time.Millisecond

// TestQ1RetriesStayWithinTheirJitter: the defaults, first + 3 retries after 1, 2
// and 4 s of which up to a fifth is taken off, then the dead letters.
func TestQ1RetriesStayWithinTheirJitter(t *testing.T) {
	const many = 20
	inBubble(t, router.Queue{}, func(s *Store, h *hands) {
		for n := range many {
			mustPush(t, s, text(fmt.Sprint(n)))
		}
		failed := make(map[string]time.Time)
		for range many * 4 {
			j := h.next()
			if at, again := failed[j.ID]; again {
				whole, wait := time.Second<<(j.Attempt-2), time.Since(at)
				if wait < whole*4/5 || wait > whole+tick+50*time.Millisecond {
					t.Errorf("attempt %d comes %v after the one before, not within %v to %v", j.Attempt, wait, whole*4/5, whole)
				}
			} else if j.Attempt != 1 {
				t.Errorf("attempt %d is the first", j.Attempt)
			}
			failed[j.ID] = time.Now()
			h.nack(j, router.Nack{Error: "no"})
		}
		for _, d := range eventuallyDead(t, s, many) {
			if d.Attempts != 4 || d.Reason != router.DeadAttempts {
				t.Errorf("dead letter %+v", d)
			}
		}
		h.none(time.Minute)
	})
}

// TestQ1DelayedJobsAreNeverEarly, and less than a second late, whatever the form.
func TestQ1DelayedJobsAreNeverEarly(t *testing.T) {
	inBubble(t, router.Queue{}, func(s *Store, h *hands) {
		due := make(map[string]time.Time)
		for i, d := range []time.Duration{
			time.Millisecond, 137 * time.Millisecond, 999 * time.Millisecond, time.Second, 1001 * time.Millisecond, 2500 * time.Millisecond,
			17 * time.Second, time.Minute, 10*time.Minute + 3*time.Millisecond,
		} {
			begin := time.Now() // of the delay; At has no doubt about it
			for form, j := range map[string]router.NewJob{"delay": {Delay: d}, "at": {At: begin.Add(d)}} {
				name := fmt.Sprint(form, i)
				due[name] = begin.Add(d)
				j.Payload, j.Priority = []byte(name), router.Priorities[i%3]
				mustPush(t, s, j)
			}
		}
		var worst time.Duration
		for len(due) > 0 {
			var j *router.Job
			select {
			case j = <-h.c:
			case <-time.After(20 * time.Minute):
				t.Fatalf("%d jobs never came", len(due))
			}
			late := time.Since(due[string(j.Payload)])
			if late < 0 || late >= time.Second {
				t.Errorf("%s comes %v late", j.Payload, late)
			}
			worst = max(worst, late)
			delete(due, string(j.Payload))
			h.ack(j)
		}
		t.Logf("at most %v late", worst)
	})
}
