package router

import "github.com/prometheus/client_golang/prometheus"

// memberMetrics counts what following the members of channels takes.
type memberMetrics struct {
	replicas, held, plain prometheus.Gauge
	asked, healed         prometheus.Counter
	dropped               prometheus.Counter
}

func newMemberMetrics(reg prometheus.Registerer) *memberMetrics {
	counter := func(name, help string) prometheus.Counter {
		return register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "headrace_router_presence_" + name, Help: help}))
	}
	gauge := func(name, help string) prometheus.Gauge {
		return register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "headrace_router_presence_" + name, Help: help}))
	}
	return &memberMetrics{
		replicas: gauge("replicas", "Channels whose members at other nodes this node follows."),
		held:     gauge("members", "Members at other nodes that this node holds for them."),
		plain:    gauge("plain", "Channels with too many members to follow: joins and leaves are told at most once."),
		asked:    counter("questions_total", "Questions for members; one is about up to 64 channels."),
		healed:   counter("heals_total", "Joins or leaves that did not arrive and were asked for."),
		dropped:  counter("dropped_total", "Members that were dropped, with leaves, because their node was silent or said goodbye."),
	}
}
