package router

import "github.com/prometheus/client_golang/prometheus"

// dropReason says why something that arrived was not delivered. The set is
// closed: each has a series from the first scrape.
type dropReason string

const (
	dropDuplicate dropReason = "duplicate"  // a copy of an entry seen before
	dropMalformed dropReason = "malformed"  // not what the subject should carry
	dropJoinLeave dropReason = "join_leave" // a join or leave could not be sent
)

// repairResult says how the comparison of a channel with its log ended.
type repairResult string

const (
	repairDone        repairResult = "done"        // what was missed was delivered
	repairFailed      repairResult = "failed"      // the log did not answer; tried again
	repairImpossible  repairResult = "impossible"  // missed entries are gone; subscribers told
	repairInvalidated repairResult = "invalidated" // another history; subscribers told
)

// Metrics counts what the router does.
type Metrics struct {
	channels      prometheus.Gauge
	subscriptions prometheus.Gauge
	published     prometheus.Counter
	received      prometheus.Counter
	deliveries    prometheus.Counter
	disturbances  prometheus.Counter
	gaps          prometheus.Counter
	checks        prometheus.Counter
	tailLosses    prometheus.Counter
	ringReads     prometheus.Counter
	dropped       map[dropReason]prometheus.Counter
	repairs       map[repairResult]prometheus.Counter
	recoveries    map[bool]prometheus.Counter
	inbox         *inboxMetrics
	members       *memberMetrics
}

// NewMetrics returns metrics registered with reg, or not registered when reg is
// nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "headrace_router_" + name, Help: help}))
	}
	gauge := func(name, help string) prometheus.Gauge {
		return register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "headrace_router_" + name, Help: help}))
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "headrace_router_" + name, Help: help}, []string{label}))
	}
	m := &Metrics{
		channels:      gauge("channels", "Channels this node holds interest in, those without subscribers (lingering) included."),
		subscriptions: gauge("subscriptions", "Subscriptions of this node's sessions."),
		published:     counter("published_total", "Publications made through this node."),
		received:      counter("received_total", "Live copies and ephemeral publications received."),
		deliveries:    counter("deliveries_total", "Pushes handed to sessions, one per push and subscriber."),
		disturbances:  counter("disturbances_total", "Times the live flow may have lost copies: NATS reconnects, slow consumers."),
		gaps:          counter("gaps_total", "Gaps seen in the live flow."),
		checks:        counter("tail_checks_total", "Comparisons of a channel's newest entry with the log."),
		tailLosses:    counter("tail_losses_total", "Comparisons that found an entry that did not arrive."),
		ringReads:     counter("ring_reads_total", "Reads of the log to serve recoveries; many clients share one."),
		dropped:       make(map[dropReason]prometheus.Counter),
		repairs:       make(map[repairResult]prometheus.Counter),
		recoveries:    make(map[bool]prometheus.Counter),
		inbox:         newInboxMetrics(reg),
		members:       newMemberMetrics(reg),
	}
	dropped := vec("dropped_total", "Messages that arrived and were not delivered.", "reason")
	for _, r := range []dropReason{dropDuplicate, dropMalformed, dropJoinLeave} {
		m.dropped[r] = dropped.WithLabelValues(string(r))
	}
	repairs := vec("repairs_total", "Reads of the log that brought a channel level with it.", "result")
	for _, r := range []repairResult{repairDone, repairFailed, repairImpossible, repairInvalidated} {
		m.repairs[r] = repairs.WithLabelValues(string(r))
	}
	recoveries := vec("recoveries_total", "Subscriptions that asked to recover from a position.", "recovered")
	m.recoveries[true], m.recoveries[false] = recoveries.WithLabelValues("true"), recoveries.WithLabelValues("false")
	return m
}

func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg != nil {
		reg.MustRegister(c)
	}
	return c
}
