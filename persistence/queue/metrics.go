package queue

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headrace/headrace/router"
)

// pushResult says how a push ended. The set is closed.
type pushResult string

const (
	pushStored    pushResult = "stored"
	pushDuplicate pushResult = "duplicate" // the idempotency key was used before
	pushFull      pushResult = "full"      // or too large
	pushFailed    pushResult = "failed"    // no answer: it may be stored
)

// settledResult says what became of an attempt, or of a dead letter.
type settledResult string

const (
	settledDone     settledResult = "done"
	settledRetried  settledResult = "retried"
	settledRedriven settledResult = "redriven"
)

// metrics counts what this node does. The gauges show what the leaders said
// last; every node asks.
type metrics struct {
	pushes   *prometheus.CounterVec
	attempts *prometheus.CounterVec
	settles  *prometheus.CounterVec
	dead     *prometheus.CounterVec

	depth     *prometheus.GaugeVec
	inFlight  *prometheus.GaugeVec
	scheduled *prometheus.GaugeVec
	letters   *prometheus.GaugeVec
	oldest    *prometheus.GaugeVec
	paused    *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer, queues []router.Queue) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "headrace_queue_" + name, Help: help}, append([]string{"queue"}, labels...))
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "headrace_queue_" + name, Help: help}, append([]string{"queue"}, labels...))
	}
	m := &metrics{
		pushes:    counter("pushes_total", "Jobs pushed through this node, by result.", "result"),
		attempts:  counter("attempts_total", "Jobs given to workers of this node, first attempts and later ones.", "attempt"),
		settles:   counter("settled_total", "Attempts that ended and dead letters that were redriven through this node, by result.", "result"),
		dead:      counter("dead_total", "Jobs that this node made dead letters, by reason.", "reason"),
		depth:     gauge("jobs", "Jobs that are due, those in flight included.", "priority"),
		inFlight:  gauge("in_flight", "Jobs in the hands of workers.", "priority"),
		scheduled: gauge("scheduled", "Jobs that wait for their time or for a retry."),
		letters:   gauge("dead_letters", "Dead letters stored."),
		oldest:    gauge("oldest_seconds", "Age of the oldest job that is due, in seconds."),
		paused:    gauge("paused", "1 while the queue is paused."),
	}
	for _, c := range []prometheus.Collector{m.pushes, m.attempts, m.settles, m.dead, m.depth, m.inFlight, m.scheduled, m.letters, m.oldest, m.paused} {
		if r != nil {
			r.MustRegister(c)
		}
	}
	for _, q := range queues {
		for _, v := range []pushResult{pushStored, pushDuplicate, pushFull, pushFailed} {
			m.pushes.WithLabelValues(q.Name, string(v))
		}
		for _, v := range []settledResult{settledDone, settledRetried, settledRedriven} {
			m.settles.WithLabelValues(q.Name, string(v))
		}
		for _, v := range router.DeadReasons {
			m.dead.WithLabelValues(q.Name, string(v))
		}
		m.attempts.WithLabelValues(q.Name, "first")
		m.attempts.WithLabelValues(q.Name, "retry")
		m.show(q.Name, router.QueueStats{})
	}
	return m
}

func (m *metrics) pushed(queue string, p router.Pushed, err error) {
	result := pushStored
	switch {
	case err == nil && p.Duplicate:
		result = pushDuplicate
	case router.CodeOf(err) == router.CodeLimit && err != nil:
		result = pushFull
	case err != nil:
		result = pushFailed
	}
	m.pushes.WithLabelValues(queue, string(result)).Inc()
}

func (m *metrics) attempted(queue string, again bool) {
	attempt := "first"
	if again {
		attempt = "retry"
	}
	m.attempts.WithLabelValues(queue, attempt).Inc()
}

func (m *metrics) settled(queue string, r settledResult) {
	m.settles.WithLabelValues(queue, string(r)).Inc()
}

func (m *metrics) died(queue string, r router.DeadReason) {
	m.dead.WithLabelValues(queue, string(r)).Inc()
}

func (m *metrics) show(queue string, s router.QueueStats) {
	for _, p := range router.Priorities {
		m.depth.WithLabelValues(queue, string(p)).Set(float64(s.Depth[p]))
		m.inFlight.WithLabelValues(queue, string(p)).Set(float64(s.InFlight[p]))
	}
	m.scheduled.WithLabelValues(queue).Set(float64(s.Scheduled))
	m.letters.WithLabelValues(queue).Set(float64(s.Dead))
	m.oldest.WithLabelValues(queue).Set(s.Oldest.Seconds())
	paused := 0.0
	if s.Paused {
		paused = 1
	}
	m.paused.WithLabelValues(queue).Set(paused)
}

// observeInterval is the time between two looks at the leaders for the gauges.
const observeInterval = 10 * time.Second

// observe keeps the gauges until ctx ends.
func (q *queue) observe(ctx context.Context) {
	every(ctx, observeInterval, func() {
		ctx, cancel := q.s.bounded(ctx)
		defer cancel()
		if st, err := q.stats(ctx); err == nil {
			q.s.metrics.show(q.cfg.Name, st)
		} else if ctx.Err() == nil {
			q.s.cfg.Log.Debug("queue not observed", "queue", q.cfg.Name, "err", err)
		}
	})
}
