package main

import (
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// natsMetrics reads the counters of this node's NATS connections, of which there
// are always two: the pool neither grows nor runs out.
type natsMetrics struct{ b *broker }

var (
	natsConnected = prometheus.NewDesc("headrace_nats_connected", "1 while the connection to NATS stands, else 0.", []string{"connection"}, nil)
	natsReconnect = prometheus.NewDesc("headrace_nats_reconnects_total", "Times the connection to NATS was made again.", []string{"connection"}, nil)
	natsBytes     = prometheus.NewDesc("headrace_nats_bytes_total", "Bytes exchanged with NATS, by direction.", []string{"connection", "direction"}, nil)
	natsMessages  = prometheus.NewDesc("headrace_nats_messages_total", "Messages exchanged with NATS, by direction.", []string{"connection", "direction"}, nil)
	natsSubs      = prometheus.NewDesc("headrace_nats_subscriptions", "Subscriptions held at NATS.", []string{"connection"}, nil)
	natsDenied    = prometheus.NewDesc("headrace_nats_denied_total", "Publishes and subscriptions that NATS refused for want of permission; `headrace nats-permissions` prints what is needed.", nil, nil)
)

func (m *natsMetrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

func (m *natsMetrics) Collect(ch chan<- prometheus.Metric) {
	for name, nc := range map[string]*nats.Conn{"core": m.b.core, "store": m.b.store} {
		gauge := func(d *prometheus.Desc, v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{name}, labels...)...)
		}
		counter := func(d *prometheus.Desc, v uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{name}, labels...)...)
		}
		connected := 0.0
		if nc.IsConnected() {
			connected = 1
		}
		st := nc.Stats()
		gauge(natsConnected, connected)
		gauge(natsSubs, float64(nc.NumSubscriptions()))
		counter(natsReconnect, st.Reconnects)
		counter(natsBytes, st.InBytes, "in")
		counter(natsBytes, st.OutBytes, "out")
		counter(natsMessages, st.InMsgs, "in")
		counter(natsMessages, st.OutMsgs, "out")
	}
	ch <- prometheus.MustNewConstMetric(natsDenied, prometheus.CounterValue, float64(m.b.denied.Load()))
}
