package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/test/check"
	"github.com/headrace/headrace/test/rawclient"
)

// worker takes jobs over the client protocol, on one connection at a time.
type worker struct {
	r       *run
	name    string
	queue   string
	credits int
	// stay is how long a connection is kept before the worker cuts it; 0 is for ever.
	stay func() time.Duration

	working sync.WaitGroup // of jobs being done, whatever became of their connection

	mu   sync.Mutex // guards the fields below
	wire *wire      // nil while it has none
	open map[int]time.Time
	dies chan struct{} // closed when a job kills the worker
}

// work works until finished is closed.
func (w *worker) work(finished <-chan struct{}) {
	defer w.working.Wait()
	for {
		w.attend(finished)
		select {
		case <-finished:
			return
		case <-time.After(100*time.Millisecond + rand.N(300*time.Millisecond)): // before it comes back
		}
	}
}

// attend works on one connection until it ends.
func (w *worker) attend(finished <-chan struct{}) {
	dies := make(chan struct{})
	w.mu.Lock()
	w.open, w.dies = make(map[int]time.Time), dies
	w.mu.Unlock()
	ready := make(chan struct{})
	var on *wire
	on, err := w.r.connect("", func(_ string, data json.RawMessage) {
		<-ready
		w.take(on, dies, data)
	})
	close(ready)
	if err != nil {
		return
	}
	defer func() {
		on.c.Close()
		w.r.history.Add(check.Event{Kind: check.Gone, Who: w.name, At: on.edge, Channel: "queue:" + w.queue})
	}()
	if _, err := on.call("subscribe", map[string]any{"channel": "queue:" + w.queue, "data": map[string]int{"credits": w.credits}}); err != nil {
		return
	}
	w.mu.Lock()
	w.wire = on
	w.mu.Unlock()
	var cut <-chan time.Time
	if w.stay != nil {
		cut = time.After(w.stay())
	}
	select {
	case <-cut:
	case <-dies:
	case <-on.c.Done():
	case <-finished:
	}
	w.mu.Lock()
	w.wire = nil
	w.mu.Unlock()
}

// job is a delivery.
type job struct {
	ID          string            `json:"id"`
	Priority    string            `json:"priority"`
	Attempt     int               `json:"attempt"`
	MaxAttempts int               `json:"max_attempts"`
	Token       string            `json:"token"`
	Data        json.RawMessage   `json:"data"`
	Headers     map[string]string `json:"headers"`
	LastError   string            `json:"last_error"`
	Redriven    int               `json:"redriven"`
	Origin      struct {
		Subject string
		Seq     uint64
		Time    time.Time
	} `json:"origin"`

	take int
	dies chan struct{} // of its worker's connection
}

// take notes a delivery, on the reading goroutine, and has it worked on.
func (w *worker) take(on *wire, dies chan struct{}, data json.RawMessage) {
	j := job{dies: dies, take: int(w.r.takes.Add(1))}
	if err := json.Unmarshal(data, &j); err != nil {
		w.r.history.Add(check.Event{Kind: check.Taken, Who: w.name, Channel: "queue:" + w.queue, Payload: string(data), Job: &check.Job{}})
		return
	}
	message, stored := w.r.messageOf(j.Token)
	now := time.Now()
	w.mu.Lock()
	w.open[j.take] = now
	for take, since := range w.open {
		if now.Sub(since) > ackWait-time.Second { // it may be anybody's by now
			delete(w.open, take)
		}
	}
	open := len(w.open)
	w.mu.Unlock()
	w.r.history.Add(check.Event{
		Kind: check.Taken, Who: w.name, At: on.edge, Channel: "queue:" + w.queue, Payload: string(j.Data), Began: w.r.history.At(j.Origin.Time),
		Job: &check.Job{
			ID: j.ID, Priority: j.Priority, Attempt: j.Attempt, Max: j.MaxAttempts, Headers: spell(j.Headers), Redriven: j.Redriven,
			Error: j.LastError, Take: j.take, Open: open, Credits: w.credits, Message: message, Stored: stored,
			Origin: origin(j.Origin.Subject, j.Origin.Seq, j.Origin.Time),
		},
	})
	w.working.Go(func() { w.do(&j) })
}

// messageOf reads from a job token which stored message was delivered: the token is
// a MAC of 16 bytes and the ack subject (docs/queue.md).
func (r *run) messageOf(token string) (name string, stored time.Duration) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) < 16 {
		return "", 0
	}
	meta, err := (&nats.Msg{Sub: new(nats.Subscription), Reply: string(b[16:])}).Metadata()
	if err != nil {
		return "", 0
	}
	return messageName(meta.Stream, meta.Sequence.Stream), r.history.At(meta.Timestamp)
}

func messageName(stream string, seq uint64) string { return fmt.Sprint(stream, " ", seq) }

// do does what the job says.
func (w *worker) do(j *job) {
	switch deed := deedOf(j.Data); {
	case deed == doSlow:
		w.spend(j, 100*time.Millisecond+rand.N(2*time.Second))
	case deed == doFlaky && j.Attempt == 1, deed == doStuck && j.Attempt <= 3, deed == doPoison:
		w.answer(j, check.NackJob, 0)
		return
	case deed == doDelay && j.Attempt == 1:
		w.answer(j, check.NackJob, 200*time.Millisecond+rand.N(2*time.Second).Round(time.Millisecond))
		return
	case deed == doFinal, deed == doAgain && j.Redriven == 0:
		w.answer(j, check.FinalJob, 0)
		return
	case deed == doKiller:
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.dies == j.dies { // else it has died of another
			w.dies = nil
			close(j.dies)
		}
		return
	case deed == doSilent && j.Attempt == 1:
		return
	case deed == doLate && j.Attempt == 1:
		w.spend(j, ackWait+time.Second)
	case deed == doExtend:
		for range 4 {
			w.spend(j, ackWait/3)
			w.answer(j, check.ExtendJob, 0)
		}
	}
	if rand.IntN(100) == 0 {
		w.foreign(j)
	}
	w.answer(j, check.AckJob, 0)
}

// spend works for a while, unless the worker dies.
func (w *worker) spend(j *job, d time.Duration) {
	select {
	case <-j.dies:
	case <-time.After(d): // the work
	}
}

// settleTries is how often an answer without an outcome is sent, on whatever
// connection the worker has by then.
const settleTries = 3

// answer tells the queue how the job went. A worker that died says nothing.
func (w *worker) answer(j *job, a check.Answer, delay time.Duration) {
	body := map[string]any{"queue": w.queue, "token": j.Token}
	method := "queue.ack"
	told := &check.Job{Take: j.take, Answer: a, Delay: delay}
	switch a {
	case check.ExtendJob:
		method = "queue.extend"
	case check.NackJob, check.FinalJob:
		method = "queue.nack"
		told.Error = check.TakeError(j.take, "no")
		body["error"] = told.Error
		if a == check.FinalJob {
			body["final"] = true
		}
		if delay > 0 {
			body["delay"] = delay.String()
		}
	}
	e := check.Event{Who: w.name, Channel: "queue:" + w.queue, Payload: string(j.Data), Job: told}
	for range settleTries {
		on := w.current(j)
		if on == nil {
			return
		}
		e.Kind, e.At = check.Settle, on.edge
		w.r.history.Add(e)
		if a != check.ExtendJob {
			w.mu.Lock()
			delete(w.open, j.take)
			w.mu.Unlock()
		}
		_, err := on.rpc(method, body)
		again := w.outcome(e, err)
		if !again {
			return
		}
	}
}

// outcome notes what an answer came to, and whether to send it again.
func (w *worker) outcome(e check.Event, err error) (again bool) {
	var refusal *rawclient.ReplyError
	e.Kind = check.Settled
	switch {
	case errors.As(err, &refusal) && refusal.Temporary:
		e.Kind, again = check.NotSettled, true
	case errors.As(err, &refusal):
		e.Kind, e.Code = check.NotSettled, refusal.Code
	case err != nil:
		e.Kind, again = check.NotSettled, true
	default:
		w.r.settled.Add(1)
	}
	w.r.history.Add(e)
	return again
}

// foreign tries to end the job at another queue than its own.
func (w *worker) foreign(j *job) {
	on := w.current(j)
	if on == nil {
		return
	}
	other := timedQueue
	if w.queue == timedQueue {
		other = workQueue
	}
	if _, err := on.rpc("queue.ack", map[string]any{"queue": other, "token": j.Token}); err == nil {
		w.r.history.Add(check.Event{
			Kind: check.Settled, Who: w.name, At: on.edge, Channel: "queue:" + w.queue, Payload: string(j.Data),
			Job: &check.Job{Take: j.take, Answer: check.ForeignJob},
		})
	}
}

// current returns the worker's connection, waiting for a new one for a while; nil
// when it died with the job.
func (w *worker) current(j *job) *wire {
	for range 50 {
		select {
		case <-j.dies:
			return nil
		default:
		}
		w.mu.Lock()
		on := w.wire
		w.mu.Unlock()
		if on != nil {
			select {
			case <-on.c.Done():
			default:
				return on
			}
		}
		time.Sleep(100 * time.Millisecond) // a poll with an end
	}
	return nil
}
