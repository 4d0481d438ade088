package webhook

import "github.com/prometheus/client_golang/prometheus"

// metrics counts what this node sends.
type metrics struct {
	requests  *prometheus.CounterVec
	inflight  *prometheus.GaugeVec
	seconds   *prometheus.HistogramVec
	down      *prometheus.GaugeVec
	exhausted *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, endpoints []Endpoint) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "headrace_webhook_requests_total", Help: "Requests of this node to webhooks, by result.",
		}, []string{"queue", "result"}),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "headrace_webhook_inflight", Help: "Requests of this node to webhooks under way; webhook.concurrency bounds them.",
		}, []string{"queue"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "headrace_webhook_seconds", Help: "Time that webhooks took to answer.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"queue"}),
		down: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "headrace_webhook_down", Help: "1 while this node takes the endpoint for down and tries one job at a time.",
		}, []string{"queue"}),
		exhausted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "headrace_webhook_exhausted_total", Help: "Jobs that this node gave back because all connections to the endpoint were in use.",
		}, []string{"queue"}),
	}
	if r != nil {
		r.MustRegister(m.requests, m.inflight, m.seconds, m.down, m.exhausted)
	}
	for i := range endpoints {
		queue := endpoints[i].Queue
		for _, v := range results {
			m.requests.WithLabelValues(queue, string(v))
		}
		m.inflight.WithLabelValues(queue)
		m.seconds.WithLabelValues(queue)
		m.down.WithLabelValues(queue)
		m.exhausted.WithLabelValues(queue)
	}
	return m
}
