package edge

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Transports says what is served beside WebSocket, and its bounds.
type Transports struct {
	HTTPStream   bool // and /emulation
	SSE          bool // and /emulation
	UniWebSocket bool
	UniSSE       bool
	Poll         bool

	// EmulationMaxInflight bounds the posted commands on their way to other nodes;
	// more are answered with 503.
	EmulationMaxInflight int
	// EmulationOrderWait is how long posted commands wait for an earlier one that is
	// still on its way: requests of one client travel side by side, over different
	// connections and nodes. A command that is lost delays the next ones by so much,
	// once.
	EmulationOrderWait time.Duration
	// UniChannelLimit is the number of channels of one one-way connection or poll:
	// the positions of all of them stand in every event.
	UniChannelLimit int
	// PollMaxWaiting bounds the polls that wait; more are answered with 503.
	PollMaxWaiting int
	// PollMaxTimeout is how long a poll may wait.
	PollMaxTimeout time.Duration
}

func defaultTransports() Transports {
	return Transports{
		HTTPStream: true, SSE: true, UniWebSocket: true, UniSSE: true, Poll: true,
		EmulationMaxInflight: 1024, EmulationOrderWait: 2 * time.Second, UniChannelLimit: 16, PollMaxWaiting: 1024, PollMaxTimeout: 25 * time.Second,
	}
}

func (t *Transports) validate() error {
	var errs []error
	check := func(n int, key string) {
		if n <= 0 {
			errs = append(errs, fmt.Errorf("edge: %s %d must be positive", key, n))
		}
	}
	check(t.EmulationMaxInflight, "emulation_max_inflight")
	check(int(t.EmulationOrderWait), "emulation_order_wait")
	check(t.UniChannelLimit, "uni_channel_limit")
	check(t.PollMaxWaiting, "poll_max_waiting")
	check(int(t.PollMaxTimeout/time.Second), "poll_max_timeout in seconds")
	return errors.Join(errs...)
}

// transports are the metrics of each transport.
type transports struct {
	open, opened [numKinds]atomic.Int64
	polling      atomic.Int64
	emulated     map[string]prometheus.Counter // requests to /emulation by result, and gaps
	polls        map[string]prometheus.Counter // by result
}

// What may become of a request to /emulation; gap is a missing command that was
// waited for in vain.
var emulationResults = []string{"taken", "no_session", "refused", "unavailable", "gap"}

var pollResults = []string{"news", "timeout", "unrecovered", "refused", "failed"}

func (t *transports) init(r prometheus.Registerer) {
	vec := func(name, help, label string, values []string) (*prometheus.CounterVec, map[string]prometheus.Counter) {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		m := make(map[string]prometheus.Counter, len(values))
		for _, x := range values {
			m[x] = v.WithLabelValues(x)
		}
		return v, m
	}
	emulated, byResult := vec("headrace_edge_emulation_total", "Requests to /emulation by result; gap counts missing commands that were waited for in vain.", "result", emulationResults)
	polls, byPoll := vec("headrace_edge_polls_total", "Polls by result.", "result", pollResults)
	t.emulated, t.polls = byResult, byPoll
	if r == nil {
		return
	}
	r.MustRegister(emulated, polls, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "headrace_edge_polls_waiting", Help: "Polls that wait."},
		func() float64 { return float64(t.polling.Load()) }))
	kinds := make(map[string][]kind)
	for k := range numKinds {
		kinds[transportNames[k]] = append(kinds[transportNames[k]], k)
	}
	for name, ks := range kinds {
		sum := func(of *[numKinds]atomic.Int64) func() float64 {
			return func() (n float64) {
				for _, k := range ks {
					n += float64(of[k].Load())
				}
				return n
			}
		}
		labels := prometheus.Labels{"transport": name}
		r.MustRegister(
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "headrace_edge_transport_connections", Help: "Open client connections by transport.", ConstLabels: labels}, sum(&t.open)),
			prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "headrace_edge_transport_connections_total", Help: "Client connections since the start by transport.", ConstLabels: labels}, sum(&t.opened)))
	}
}
