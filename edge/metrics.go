package edge

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headrace/headrace/router"
)

// The label sets are closed: every value exists from the first scrape, so that
// the rate of something that never happened is 0 and not "no data".
var (
	methodNames = []string{"connect", "subscribe", "unsubscribe", "publish", "history", "presence",
		"presence_stats", "rpc", "send", "refresh", "sub_refresh", "ping", "pong", "unknown"}
	dropReasons = []string{dropSlow, dropClosing, dropEncoding}
	codeClasses = []string{"peer", "transient", "terminal", "protocol", "shutdown"}
	encodings   = []string{"json", "protobuf"}
	// errorLabels are the protocol's error codes.
	errorLabels  = []string{"100", "101", "102", "103", "104", "105", "106", "107", "108", "109", "110", "111", "112", "113"}
	connectFails = []string{"ok", "invalid_token", "expired", "refused", "unavailable"}
)

// Why a frame did not reach a client.
const (
	dropSlow     = "slow"     // the queue of the connection was full
	dropClosing  = "closing"  // the connection was being closed
	dropEncoding = "encoding" // not valid in the encoding of the client
)

// metrics counts what the edge does. The plain counters are written on hot paths
// and read by the scrape.
type metrics struct {
	connects    *prometheus.CounterVec
	disconnects *prometheus.CounterVec
	commands    *prometheus.CounterVec
	errors      *prometheus.CounterVec
	dropped     *prometheus.CounterVec
	refused     *prometheus.CounterVec
	keyFetches  *prometheus.CounterVec
	slow        prometheus.Counter
	workers     prometheus.Gauge
	builtins    *prometheus.CounterVec
	publish     prometheus.Histogram
	rpc         *rpcMetrics
	reduced     reducedMetrics
	byMethod    map[string]prometheus.Counter
	byDrop      map[string]prometheus.Counter

	bytesIn, bytesOut, framesOut atomic.Int64

	transports
}

func newMetrics(r prometheus.Registerer, connections func() float64) *metrics {
	vec := func(name, help, label string, values ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		for _, x := range values {
			v.WithLabelValues(x)
		}
		return v
	}
	m := &metrics{
		connects:    vec("headrace_edge_connects_total", "Connect commands by result.", "result", connectFails...),
		disconnects: vec("headrace_edge_disconnects_total", "Connections ended, by class of the close code.", "class", codeClasses...),
		commands:    vec("headrace_edge_commands_total", "Client commands by method.", "method", methodNames...),
		errors: vec("headrace_edge_errors_total", "Error replies to clients by protocol code; backend are the codes that back ends answered.", "code",
			append(errorLabels, backendLabel)...),
		dropped:    vec("headrace_edge_dropped_frames_total", "Frames not sent to a client by reason.", "reason", dropReasons...),
		keyFetches: vec("headrace_edge_token_key_fetches_total", "Fetches of token keys from a JWKS endpoint by result.", "result", "ok", "failed"),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "headrace_edge_refused_total",
			Help: "Connections, commands and messages refused because of a limit or the state of the node, by reason."}, []string{"reason"}),
		slow: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headrace_edge_slow_consumers_total", Help: "Connections ended because their queue was full."}),
		workers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "headrace_edge_workers", Help: "Subscriptions of clients to durable queues."}),
		builtins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "headrace_edge_builtin_total", Help: "Calls of rpc methods that the node answers itself, by method and result."}, []string{"method", "result"}),
		publish: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "headrace_edge_publish_seconds",
			Help:    "Time from a client's publish command to its reply.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 14)}),
		byMethod: make(map[string]prometheus.Counter),
		byDrop:   make(map[string]prometheus.Counter),
	}
	for _, x := range refusals {
		m.refused.WithLabelValues(string(x))
	}
	for _, x := range methodNames {
		m.byMethod[x] = m.commands.WithLabelValues(x)
	}
	for _, x := range dropReasons {
		m.byDrop[x] = m.dropped.WithLabelValues(x)
	}
	m.transports.init(r)
	m.rpc, m.reduced = newRPCMetrics(r), newReducedMetrics(r)
	if r == nil {
		return m
	}
	count := func(name, help string, v *atomic.Int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help},
			func() float64 { return float64(v.Load()) })
	}
	r.MustRegister(m.connects, m.disconnects, m.commands, m.errors, m.dropped, m.refused, m.keyFetches, m.slow, m.publish, m.workers, m.builtins,
		count("headrace_edge_received_bytes_total", "Payload bytes received from clients.", &m.bytesIn),
		count("headrace_edge_sent_bytes_total", "Bytes of frames handed to client connections.", &m.bytesOut),
		count("headrace_edge_sent_frames_total", "Frames handed to client connections.", &m.framesOut),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "headrace_edge_connections",
			Help: "Open client connections, connected or not yet."}, connections))
	return m
}

func (m *metrics) refuse(why refusal) { m.refused.WithLabelValues(string(why)).Inc() }

// backendLabel stands for all codes that back ends answer.
const backendLabel = "backend"

func errorLabel(code uint32) string {
	if code >= router.MinBackendCode {
		return backendLabel
	}
	return strconv.Itoa(int(code))
}

func (m *metrics) drop(reason string, frames int) { m.byDrop[reason].Add(float64(frames)) }

// keyFetch counts a fetch of token keys.
func (m *metrics) keyFetch(err error) {
	if err != nil {
		m.keyFetches.WithLabelValues("failed").Inc()
		return
	}
	m.keyFetches.WithLabelValues("ok").Inc()
}

func (m *metrics) disconnected(d disconnect) {
	class := "protocol"
	switch {
	case d == disconnectClosed || d == disconnectNormal:
		class = "peer"
	case d == disconnectShutdown:
		class = "shutdown"
	case d.code >= 4000 && d.code < 4500: // of the application, see the API's disconnect
		class = "transient"
	case d.code >= 3500:
		class = "terminal"
	case d.code >= 3000:
		class = "transient"
	}
	m.disconnects.WithLabelValues(class).Inc()
}
