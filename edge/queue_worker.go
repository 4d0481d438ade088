package edge

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/headrace/headrace/router"
)

// queueWorker is the work of one session on one queue.
type queueWorker struct {
	r     *queueRouter
	sub   *router.Subscription
	hands router.Worker

	mu      sync.Mutex // guards the fields below
	credits int        // as the client asked
	largest int        // bytes of the largest job lately; 0 before the first
	closed  bool
}

// inWindow returns how many jobs the worker may hold now. Its jobs together should
// fit into the connection's queue with room to spare: a client that is merely slow
// to read is not to be cut. So the first job comes alone, and its size says how
// many more fit. mu is held.
func (w *queueWorker) inWindow() int {
	if w.largest == 0 {
		return min(w.credits, 1)
	}
	return min(w.credits, max(w.r.srv.cfg.QueueBytes/2/w.largest, 1))
}

// resize tells the queue how many jobs the worker may hold.
func (w *queueWorker) resize() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.hands.SetCredits(w.inWindow())
	}
}

// setCredits changes how many jobs the client wants to hold. Those it has stay.
func (w *queueWorker) setCredits(n int) {
	w.mu.Lock()
	w.credits = n
	w.mu.Unlock()
	w.resize()
}

// close gives the jobs back.
func (w *queueWorker) close(grace time.Duration) {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.hands.Close(grace)
}

// take hands a job to the client, on a goroutine of the queue's. What does not fit
// into the client's connection ends it, and with it the work: the jobs go back.
func (w *queueWorker) take(j *router.Job) bool {
	data, err := jobData(j)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return false
	case err != nil:
		w.refuse(j, fmt.Sprintf("the job cannot be encoded: %v", err))
		return true
	case len(data)+jobFrameBytes > w.r.srv.cfg.QueueBytes:
		w.refuse(j, "the job is too large for a client's connection: see client.queue_bytes")
		return true
	}
	before := w.inWindow()
	w.largest = max(len(data)+jobFrameBytes, w.largest-w.largest/8)
	w.sub.Subscriber.Deliver(w.sub, &router.Batch{Channel: w.sub.Channel, Pushes: []router.Push{{Pub: &router.Publication{Data: data}}}})
	if now := w.inWindow(); now != before {
		w.hands.SetCredits(now)
	}
	return true
}

// jobFrameBytes is about what a frame has around the data of a job.
const jobFrameBytes = 256

// refuse makes a dead letter of a job that no client can take. mu is held, so the
// session has not ended and Server.stop not yet begun to wait.
func (w *queueWorker) refuse(j *router.Job, why string) {
	s := w.r.srv
	s.calls.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, callTimeout)
		defer cancel()
		if err := s.cfg.Queues.Nack(ctx, j.Queue, j.Token, router.Nack{Error: why, Final: true}); err != nil {
			s.log.Warn("job not refused", "queue", j.Queue, "err", err)
		}
	})
}
