package webhook

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headrace/headrace/router"
)

// worker sends the jobs of one queue to its endpoint.
type worker struct {
	// Fixed after newWorker.
	queue     string
	ackWait   time.Duration
	timeout   time.Duration
	queues    router.Queues
	caller    *caller
	transport *http.Transport
	metrics   *metrics
	log       *slog.Logger
	inflight  prometheus.Gauge
	seconds   prometheus.Observer
	down      prometheus.Gauge
	exhausted prometheus.Counter

	// slots holds a value for each job in hand that is not being settled; over, for
	// each job beyond that which is being given back.
	slots, over chan struct{}
	ctx         context.Context // of requests; ends with errStopped
	cancel      context.CancelCauseFunc
	health      *health
	source      router.Worker // set by start, before credits are given

	mu     sync.Mutex // guards the fields below
	closed bool
	wg     sync.WaitGroup // of jobs in hand; nothing is added once closed
}

func newWorker(e *Endpoint, queues router.Queues, m *metrics, cfg *Config) (*worker, error) {
	call, err := newCaller(e)
	if err != nil {
		return nil, err
	}
	transport, err := newTransport(e, cfg.dial)
	if err != nil {
		return nil, err
	}
	w := &worker{
		queue: e.Queue, ackWait: e.AckWait, timeout: e.Timeout, queues: queues, caller: call, transport: transport,
		metrics: m, log: cfg.Log.With("queue", e.Queue),
		inflight: m.inflight.WithLabelValues(e.Queue), seconds: m.seconds.WithLabelValues(e.Queue),
		down: m.down.WithLabelValues(e.Queue), exhausted: m.exhausted.WithLabelValues(e.Queue),
		slots: make(chan struct{}, e.Concurrency), over: make(chan struct{}, e.Concurrency),
	}
	w.ctx, w.cancel = context.WithCancelCause(context.Background())
	w.health = newHealth(e.Concurrency, func(n int) { w.source.SetCredits(n) }, w.show)
	return w, nil
}

// start begins to take jobs.
func (w *worker) start() (err error) {
	if w.source, err = w.queues.Pull(w.queue, w.take); err == nil {
		w.source.SetCredits(cap(w.slots))
	}
	return err
}

// end stops taking jobs, waits for those in hand, at most for limit and a little,
// and gives the others back.
func (w *worker) end(limit time.Duration) {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.health.close()
	late := time.AfterFunc(limit, func() { w.cancel(errStopped) })
	w.wg.Wait()
	late.Stop()
	w.cancel(errStopped)
	w.source.Close(0)
	w.transport.CloseIdleConnections()
}

func (w *worker) show(up bool) {
	was := 0.0
	if !up {
		was = 1
	}
	w.down.Set(was)
}

// take is called by the queue. It must not block.
func (w *worker) take(j *router.Job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	select {
	case w.slots <- struct{}{}:
		w.wg.Go(func() { w.work(j) })
		return true
	default:
	}
	// The queue believes that a job in hand went to others, because its ack wait
	// could not be extended; its request is still under way.
	w.exhausted.Inc()
	select {
	case w.over <- struct{}{}:
		w.wg.Go(func() {
			defer func() { <-w.over }()
			w.nack(j, router.Nack{Error: "all connections to the endpoint are in use"})
		})
	default: // others get it after its ack wait
	}
	return true
}

// work sends j until there is a result that counts, and settles it. It frees a
// slot before that: once the job is settled, the queue may bring another.
func (w *worker) work(j *router.Job) {
	lease := w.extend(j)
	defer lease.end()
	o := w.try(j)
	<-w.slots
	w.settle(j, &o)
}

// try sends j until there is a result that counts.
func (w *worker) try(j *router.Job) outcome {
	var t turn
	defer w.health.leave(&t)
	last := outcome{result: unreachable, text: "the endpoint is down"}
	for {
		switch w.health.wait(w.ctx, &t) {
		case closed:
			return outcome{result: abandoned}
		case giveUp:
			return last
		}
		last = w.call(j)
		vain, turned := w.health.report(&t, &last)
		if turned { // the text may hold what the receiver said
			w.log.Warn("webhook endpoint turned", "host", hostOf(w.caller.url), "result", last.result)
		}
		switch {
		case last.result == unreachable: // it costs no attempt
			continue
		case vain && j.Attempt >= j.MaxAttempts && w.health.keep(&t):
			continue
		case vain:
			last.delay = max(last.delay, jittered(downDelay))
		}
		return last
	}
}

// call makes one request and reads the answer.
func (w *worker) call(j *router.Job) (o outcome) {
	w.inflight.Inc()
	began := time.Now()
	defer func() {
		w.inflight.Dec()
		w.seconds.Observe(time.Since(began).Seconds())
		w.metrics.requests.WithLabelValues(w.queue, string(o.result)).Inc()
	}()
	ctx, cancel := context.WithTimeout(w.ctx, w.timeout)
	defer cancel()
	r, err := w.caller.request(ctx, j, began)
	if err != nil {
		return outcome{result: refused, text: err.Error()}
	}
	resp, err := w.transport.RoundTrip(r)
	if err != nil {
		return failed(ctx, err, w.timeout)
	}
	defer resp.Body.Close()
	o = judge(resp.StatusCode, resp.Header.Get("Retry-After"), time.Now())
	if resp.ContentLength == 0 {
		return o
	}
	// The status has said it. The rest is read, if it comes soon, for its text and
	// for the next request on the connection.
	slow := time.AfterFunc(bodyTime, cancel)
	defer slow.Stop()
	if o.result != done {
		readError(&o, resp.Body)
	}
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrain) // else the connection is closed
	return o
}

// settle tells the queue what came of j. When that fails, j comes again.
func (w *worker) settle(j *router.Job, o *outcome) {
	switch o.result {
	case abandoned:
	case done:
		if err := w.queues.Ack(context.WithoutCancel(w.ctx), w.queue, j.Token); err != nil {
			w.log.Warn("webhook job done, but not ended", "job", j.ID, "err", err)
		}
	default:
		w.nack(j, router.Nack{Error: o.text, Final: o.result == refused, Delay: o.delay})
	}
}

func (w *worker) nack(j *router.Job, n router.Nack) {
	err := w.queues.Nack(context.WithoutCancel(w.ctx), w.queue, j.Token, n)
	if err != nil && router.CodeOf(err) != router.CodeConflict { // ended elsewhere
		w.log.Warn("webhook job failed, and not ended", "job", j.ID, "err", err)
	}
}
