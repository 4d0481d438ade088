package queue

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/router"
)

// TestQ1RetryScheduleIsExact runs in virtual time: four attempts, with waits of
// 1, 2 and 4 s between them, then the dead letters.
func TestQ1RetryScheduleIsExact(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		srv := natstest.Run(t)
		backoff := router.Backoff{Base: time.Second, Cap: 30 * time.Second, Factor: 2}
		s, stop := startStop(t, srv.Conn(persistence.ConnectOptions()...), Config{Queues: []router.Queue{{Name: "q", Backoff: backoff}}})
		h := hire(t, s, 1)
		mustPush(t, s, text("1"))
		begin := time.Now()
		for attempt, wait := range []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second} {
			j := h.next()
			late := time.Since(begin) - wait
			if j.Attempt != attempt+1 || late < 0 || late > 10*time.Millisecond {
				t.Errorf("attempt %d is %v late", j.Attempt, late)
			}
			begin = time.Now()
			h.nack(j, router.Nack{Error: "no"})
		}
		if d := eventuallyDead(t, s, 1)[0]; d.Attempts != 4 || d.Reason != router.DeadAttempts {
			t.Errorf("dead letter %+v", d)
		}
		h.none(2 * time.Minute)
		h.w.Close(0)
		stop()
		s.nc.Close()
		srv.Stop()
	})
}

// TestQ1DelaysDoNotBlock has more jobs wait for a retry than may be in flight.
func TestQ1DelaysDoNotBlock(t *testing.T) {
	srv := natstest.Run(t)
	qc := fastQueue(false)
	qc.MaxInFlight = 3
	qc.Backoff = router.Backoff{Base: time.Hour, Cap: time.Hour, Factor: 1}
	s := start(t, srv.Conn(persistence.ConnectOptions()...), Config{Queues: []router.Queue{qc}})
	h := hire(t, s, 3)
	for i := range 10 {
		mustPush(t, s, text(fmt.Sprint(i)))
		h.nack(h.next(), router.Nack{})
	}
	if st := mustStats(t, s); st.Scheduled != 10 || st.Depth[router.PriorityMedium] != 0 {
		t.Errorf("stats %+v", st)
	}
}

var errCrash = errors.New("crash")

// crashOnce ends what is done at step, once.
func crashOnce(s *Store, step string) {
	done := false
	s.between = func(at string) error {
		if at != step || done {
			return nil
		}
		done = true
		return errCrash
	}
}

// TestQ1CrashBetweenRetryAndAck ends the node between the two steps. The job is
// tried again, and its two lives become one with their next failure.
func TestQ1CrashBetweenRetryAndAck(t *testing.T) {
	for name, succeed := range map[string]bool{"then it is done": true, "then it fails": false} {
		t.Run(name, func(t *testing.T) {
			srv := natstest.Run(t)
			qc := fastQueue(false)
			qc.AckWait = time.Second
			cfg := Config{Queues: []router.Queue{qc}}
			conn := srv.Conn(persistence.ConnectOptions()...)
			s, stop := startStop(t, conn, cfg)
			crashOnce(s, "retry")
			h := hire(t, s, 1)
			mustPush(t, s, text("1"))
			if err := s.Nack(t.Context(), "q", h.next().Token, router.Nack{Error: "e"}); !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
			stop()
			conn.Close()
			s = start(t, srv.Conn(persistence.ConnectOptions()...), cfg)
			h = hire(t, s, 1)
			attempts := map[int]int{}
			natstest.Eventually(t, 20*time.Second, "end", func() bool {
				select {
				case j := <-h.c: // the retry, and the original after its ack wait
					attempts[j.Attempt]++
					if succeed {
						h.ack(j)
					} else {
						h.nack(j, router.Nack{Error: "e"})
					}
				default:
				}
				st := mustStats(t, s)
				return st.Depth[router.PriorityMedium]+st.Scheduled == 0
			})
			h.none(1500 * time.Millisecond)
			if want := map[bool]int{true: 0, false: 1}[succeed]; len(eventuallyDead(t, s, want)) != want || attempts[2]+attempts[3] > 3 {
				t.Errorf("attempts %v", attempts)
			}
		})
	}
}

// TestQ3CrashBetweenDeadLetterAndTerm ends the node between the two steps: there
// is one dead letter, and the job does not come back.
func TestQ3CrashBetweenDeadLetterAndTerm(t *testing.T) {
	srv := natstest.Run(t)
	qc := fastQueue(false)
	qc.AckWait = time.Second
	cfg := Config{Queues: []router.Queue{qc}, DuplicateWindow: 100 * time.Millisecond, Timeout: 10 * time.Second}
	conn := srv.Conn(persistence.ConnectOptions()...)
	s, stop := startStop(t, conn, cfg)
	s.cfg.Timeout = 10 * time.Second
	crashOnce(s, "dead")
	h := hire(t, s, 1)
	mustPush(t, s, router.NewJob{Payload: []byte("1"), MaxAttempts: 1})
	if err := s.Nack(t.Context(), "q", h.next().Token, router.Nack{Error: "first"}); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	stop()
	conn.Close()
	s = start(t, srv.Conn(persistence.ConnectOptions()...), Config{Queues: []router.Queue{qc}})
	h = hire(t, s, 1) // the job comes back after its ack wait, once too often
	eventuallyEmpty(t, s)
	if d := eventuallyDead(t, s, 1)[0]; d.Error != "first" || d.Reason != router.DeadAttempts {
		t.Errorf("dead letter %+v", d)
	}
	h.none(50 * time.Millisecond)
}

func TestCrashWithinRedriveBringsBackOnce(t *testing.T) {
	srv := natstest.Run(t)
	s := start(t, srv.Conn(persistence.ConnectOptions()...), Config{Queues: []router.Queue{fastQueue(true)}})
	h := hire(t, s, 2)
	mustPush(t, s, text("1"))
	h.nack(h.next(), router.Nack{Final: true})
	crashOnce(s, "redrive")
	if n, err := s.Redrive(t.Context(), "q", nil); n != 0 || !errors.Is(err, errCrash) {
		t.Fatalf("redriven %d, %v", n, err)
	}
	h.nack(h.next(), router.Nack{Final: true}) // it dies before its letter is gone
	if n, err := s.Redrive(t.Context(), "q", []uint64{1}); n != 1 || err != nil {
		t.Fatalf("redriven %d, %v", n, err)
	}
	h.none(100 * time.Millisecond)
	if d := eventuallyDead(t, s, 1)[0]; d.Redriven != 1 {
		t.Errorf("dead letter %+v", d)
	}
}

// TestQ2EdgeKilledWithItsJobs stops a node without a word.
func TestQ2EdgeKilledWithItsJobs(t *testing.T) {
	srv := natstest.Run(t)
	qc := fastQueue(false)
	qc.AckWait = time.Second
	cfg := Config{Queues: []router.Queue{qc}}
	conn := srv.Conn(persistence.ConnectOptions()...)
	first, stop := startStop(t, conn, cfg)
	h := hire(t, first, 5)
	for i := range 5 {
		mustPush(t, first, text(fmt.Sprint(i)))
	}
	for range 5 {
		h.next()
	}
	conn.Close()
	stop()
	second := start(t, srv.Conn(persistence.ConnectOptions()...), cfg)
	h = hire(t, second, 5)
	for range 5 {
		j := h.next()
		if j.Attempt != 2 {
			t.Errorf("job %+v", j)
		}
		h.ack(j)
	}
	eventuallyEmpty(t, second)
}

// TestQ2JobThatNoWorkerSawKeepsItsAttempts: the worker left while the job was
// under way from NATS. The job has one attempt, and must not die without it.
func TestQ2JobThatNoWorkerSawKeepsItsAttempts(t *testing.T) {
	srv := natstest.Run(t)
	s := start(t, srv.Conn(persistence.ConnectOptions()...), Config{Queues: []router.Queue{fastQueue(true)}})
	pushed := mustPush(t, s, router.NewJob{Payload: []byte("1"), MaxAttempts: 1, Headers: map[string]string{"a": "b"}, Priority: router.PriorityHigh})
	q := s.queues["q"]
	for range 3 {
		var m jetstream.Msg
		natstest.Eventually(t, 10*time.Second, "job", func() bool {
			for i := range q.streams { // it is pushed first, and put back after that
				c, err := s.js.Consumer(t.Context(), q.streams[i].name, "high")
				if err != nil {
					t.Fatal(err)
				}
				if m, err = c.Next(jetstream.FetchMaxWait(50 * time.Millisecond)); err == nil {
					return true
				}
			}
			return false
		})
		q.puller.take(&nats.Msg{Subject: m.Subject(), Reply: m.Reply(), Header: m.Headers(), Data: m.Data()})
	}
	h := hire(t, s, 1)
	j := h.next()
	if j.ID != pushed.ID || j.Attempt != 1 || j.MaxAttempts != 1 || j.Priority != router.PriorityHigh || j.Headers["a"] != "b" || j.Origin.Seq != 1 {
		t.Errorf("job %+v", j)
	}
	h.ack(j)
	eventuallyEmpty(t, s)
	eventuallyDead(t, s, 0)
}

// TestQ2EndedJobIsNotPutBack: a worker whose attempt was given to others settles
// the job while the next delivery is under way to a worker that has left.
func TestQ2EndedJobIsNotPutBack(t *testing.T) {
	srv := natstest.Run(t)
	s := start(t, srv.Conn(persistence.ConnectOptions()...), Config{Queues: []router.Queue{fastQueue(true)}})
	h := hire(t, s, 1)
	mustPush(t, s, text("1"))
	j := h.next()
	d, err := s.queues["q"].open(j.Token)
	if err != nil {
		t.Fatal(err)
	}
	h.ack(j)
	q := s.queues["q"]
	q.putBack(t.Context(), &attempt{delivery: d, number: 2, max: 4, priority: router.PriorityMedium, payload: j.Payload})
	eventuallyEmpty(t, s)
}

// TestQ2JobThatAWorkerRefusesGoesToAnotherAtOnce: the worker ends while the job is
// being handed to it, and gives back what it has only after a long grace.
func TestQ2JobThatAWorkerRefusesGoesToAnotherAtOnce(t *testing.T) {
	srv := natstest.Run(t)
	s := start(t, srv.Conn(persistence.ConnectOptions()...), Config{Queues: []router.Queue{fastQueue(true)}})
	asked := make(chan struct{})
	var once sync.Once
	ended, err := s.Pull("q", func(*router.Job) bool {
		once.Do(func() { close(asked) })
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
	ended.SetCredits(1)
	mustPush(t, s, router.NewJob{Payload: []byte("1"), MaxAttempts: 1})
	<-asked
	ended.Close(time.Minute)
	h := hire(t, s, 1)
	if j := h.next(); j.Attempt != 1 {
		t.Errorf("job %+v", j)
	} else {
		h.ack(j)
	}
	eventuallyEmpty(t, s)
}

// TestQ4LowProgressesUnderAFlood takes from a queue where everything waits.
func TestQ4LowProgressesUnderAFlood(t *testing.T) {
	for _, credits := range []int{1, 10, 40} {
		t.Run(fmt.Sprint(credits, " credits"), func(t *testing.T) {
			srv := natstest.Run(t)
			s := start(t, srv.Conn(persistence.ConnectOptions()...), Config{Queues: []router.Queue{fastQueue(true)}})
			for range 200 {
				for _, p := range router.Priorities {
					mustPush(t, s, router.NewJob{Payload: []byte("1"), Priority: p})
				}
			}
			h := hire(t, s, credits)
			got := map[router.Priority]int{}
			for range 200 {
				j := h.next()
				got[j.Priority]++
				h.ack(j)
			}
			if got["high"] < 100 || got["medium"] < 45 || got["low"] < 12 || got["low"] > 40 {
				t.Errorf("of 200: %v", got)
			}
		})
	}
}

// plainWorker fails the next job n times, as a NATS client without us would.
func plainWorker(t *testing.T, s *Store, n int) {
	t.Helper()
	c, err := s.js.Consumer(t.Context(), s.queues["q"].streams[jobs].name, "medium")
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		m, err := c.Next(jetstream.FetchMaxWait(5 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Nak(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestQ3StrandedJobs has a plain NATS worker fail a job until NATS gives it up.
func TestQ3StrandedJobs(t *testing.T) {
	t.Run("found by the advisory", func(t *testing.T) {
		srv := natstest.Run(t)
		s := start(t, srv.Conn(persistence.ConnectOptions()...), Config{Queues: []router.Queue{fastQueue(true)}})
		mustPush(t, s, text("1"))
		mustPush(t, s, text("2"))
		plainWorker(t, s, 2*(3+spareDeliveries))
		c, err := s.js.Consumer(t.Context(), "HR_JOBS_q", "medium")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Next(jetstream.FetchMaxWait(100 * time.Millisecond)) // makes NATS look
		for _, d := range eventuallyDead(t, s, 2) {
			if d.Reason != router.DeadStranded {
				t.Errorf("dead letter %+v", d)
			}
		}
		eventuallyEmpty(t, s)
	})
	t.Run("found by the sweep", func(t *testing.T) {
		srv := natstest.Run(t)
		s, err := Open(t.Context(), srv.Conn(persistence.ConnectOptions()...), Config{Queues: []router.Queue{fastQueue(true)}}) // and not run
		if err != nil {
			t.Fatal(err)
		}
		defer s.req.Close()
		mustPush(t, s, text("1"))
		plainWorker(t, s, 3+spareDeliveries)
		mustPush(t, s, text("2"))
		q := s.queues["q"]
		var suspects map[heldKey]bool
		natstest.Eventually(t, 20*time.Second, "dead letter", func() bool {
			c, err := s.js.Consumer(t.Context(), "HR_JOBS_q", "medium")
			if err != nil {
				t.Fatal(err)
			}
			if m, err := c.Next(jetstream.FetchMaxWait(50 * time.Millisecond)); err == nil {
				_ = m.DoubleAck(t.Context())
			}
			if suspects, err = q.sweep(t.Context(), suspects); err != nil {
				t.Fatal(err)
			}
			return mustStats(t, s).Dead == 1
		})
		eventuallyEmpty(t, s)
	})
}
