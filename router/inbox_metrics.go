package router

import "github.com/prometheus/client_golang/prometheus"

// The results that are counted; each has a series from the first scrape. Those of
// a message are also its SendStatus.
const (
	sentDirect    = "direct"     // not to be stored, and reached a session
	sentNotOnline = "not_online" // not to be stored, and nobody was there
	sentFailed    = "failed"

	ackMoved  = "moved"
	ackBehind = "behind" // the cursor stood there, or beyond, before
	ackFailed = "failed"

	deviceNew       = "new"
	deviceForgotten = "forgotten" // to make room for a new one
)

type inboxMetrics struct {
	sent    map[string]prometheus.Counter
	acks    map[string]prometheus.Counter
	devices map[string]prometheus.Counter
	gone    prometheus.Counter
}

func newInboxMetrics(reg prometheus.Registerer) *inboxMetrics {
	vec := func(name, help, label string, values ...string) map[string]prometheus.Counter {
		v := register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "headrace_inbox_" + name, Help: help}, []string{label}))
		m := make(map[string]prometheus.Counter, len(values))
		for _, value := range values {
			m[value] = v.WithLabelValues(value)
		}
		return m
	}
	return &inboxMetrics{
		sent: vec("sent_total", "Messages to users, by what became of them.", "status",
			string(SendDelivered), string(SendStored), string(SendDuplicate), sentDirect, sentNotOnline, sentFailed),
		acks:    vec("acks_total", "Acks of devices, by whether the cursor moved.", "result", ackMoved, ackBehind, ackFailed),
		devices: vec("devices_total", "Devices that got a cursor, and those forgotten to make room for them.", "event", deviceNew, deviceForgotten),
		gone: register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headrace_inbox_gone_total", Help: "Answers that told a device that messages after its cursor are no longer stored."})),
	}
}
