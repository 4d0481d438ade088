package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/centrifugal/protocol"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/headrace/headrace/router"
)

// How a call of a back end ended.
const (
	rpcOK          = "ok"
	rpcDenied      = "denied"      // by the rules, or none is configured
	rpcExhausted   = "exhausted"   // all of Config.RPCMaxInflight were in use
	rpcNoMethod    = "no_method"   // nobody answers the method
	rpcError       = "error"       // the back end answered an error
	rpcInvalid     = "invalid"     // the answer cannot be given to the client
	rpcUnavailable = "unavailable" // no answer in time, or no NATS
)

var rpcResults = []string{rpcOK, rpcDenied, rpcExhausted, rpcNoMethod, rpcError, rpcInvalid, rpcUnavailable}

type rpcMetrics struct {
	calls    map[string]prometheus.Counter
	inflight prometheus.Gauge
	seconds  prometheus.Histogram
}

func newRPCMetrics(r prometheus.Registerer) *rpcMetrics {
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "headrace_edge_rpc_total", Help: "Calls of back ends by result."}, []string{"result"})
	m := &rpcMetrics{
		calls: make(map[string]prometheus.Counter),
		inflight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "headrace_edge_rpc_inflight", Help: "Calls of back ends under way; rpc.max_inflight bounds them."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "headrace_edge_rpc_seconds", Help: "Time that back ends took to answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 12)}),
	}
	for _, x := range rpcResults {
		m.calls[x] = calls.WithLabelValues(x)
	}
	if r != nil {
		r.MustRegister(calls, m.inflight, m.seconds)
	}
	return m
}

// rpc calls a back end for the client, or answers a built-in method.
func (s *session) rpc(cmd *protocol.Command) {
	req := cmd.Rpc
	if reservedMethod(req.Method) {
		s.callBuiltin(cmd)
		return
	}
	info, meta := s.caller()
	if err := s.srv.node.AllowRPC(req.Method, router.Access{User: info.User, Insecure: s.srv.cfg.Insecure}); err != nil {
		s.srv.metrics.rpc.calls[rpcDenied].Inc()
		s.fail(cmd, err)
		return
	}
	if err := s.srv.takeRPC(); err != nil {
		s.fail(cmd, err)
		return
	}
	s.begin()
	s.srv.calls.Go(func() {
		defer s.end()
		defer s.srv.releaseRPC()
		data, err := s.srv.callBackend(s.srv.ctx, router.RPCRequest{Method: req.Method, Data: req.Data, Info: &info, TokenMeta: meta}, !s.kind.protobuf())
		if err != nil {
			s.fail(cmd, err)
			return
		}
		s.reply(cmd, &protocol.Reply{Rpc: &protocol.RPCResult{Data: data}})
	})
}

// caller is what back ends are told of the client.
func (s *session) caller() (info router.ClientInfo, meta []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grant != nil {
		meta = s.grant.meta
	}
	return s.info, meta
}

// tellMethod is the method that the messages of `send` go to; it is subject to the
// same rules as those of rpc.
const tellMethod = "_send"

// tell passes a message of the client on. Without a rule that allows it the
// connection ends, as the protocol has it: there is nobody to tell.
func (s *session) tell(cmd *protocol.Command) bool {
	info, meta := s.caller()
	err := s.srv.node.AllowRPC(tellMethod, router.Access{User: info.User, Insecure: s.srv.cfg.Insecure})
	if err != nil {
		s.close(disconnectNotAvailable)
		return false
	}
	// At most once by contract: what cannot be sent is counted as an error.
	if err := s.srv.node.Tell(router.RPCRequest{Method: tellMethod, Data: cmd.Send.Data, Info: &info, TokenMeta: meta}); err != nil {
		s.srv.metrics.rpc.calls[rpcUnavailable].Inc()
	}
	return true
}

// takeRPC takes one of the places for calls of back ends; releaseRPC must follow.
// It does not wait: who waits here would hold what the next pool needs.
func (s *Server) takeRPC() error {
	select {
	case s.rpcSlots <- struct{}{}:
		s.metrics.rpc.inflight.Inc()
		return nil
	default:
		s.metrics.rpc.calls[rpcExhausted].Inc()
		return router.Errorf(router.CodeTooMany, "rpc is exhausted: %d calls are under way on this node", cap(s.rpcSlots))
	}
}

func (s *Server) releaseRPC() {
	s.metrics.rpc.inflight.Dec()
	<-s.rpcSlots
}

// callBackend calls a back end and returns its answer, as one line of JSON where
// asJSON says so.
func (s *Server) callBackend(ctx context.Context, req router.RPCRequest, asJSON bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RPCTimeout)
	defer cancel()
	start := time.Now()
	data, err := s.node.RPC(ctx, req)
	s.metrics.rpc.seconds.Observe(time.Since(start).Seconds())
	if err == nil && asJSON {
		data, err = jsonLine(data)
	}
	s.metrics.rpc.calls[rpcResult(err)].Inc()
	return data, err
}

func rpcResult(err error) string {
	var answered *router.BackendError
	switch {
	case err == nil:
		return rpcOK
	case errors.As(err, &answered):
		return rpcError
	}
	switch router.CodeOf(err) {
	case router.CodeNoMethod:
		return rpcNoMethod
	case router.CodeUnavailable:
		return rpcUnavailable
	default:
		return rpcInvalid
	}
}

// jsonLine returns data, which must be JSON or nothing, without newlines: those
// separate replies.
func jsonLine(data []byte) ([]byte, error) {
	switch {
	case len(data) == 0:
		return nil, nil
	case !validJSON(data):
		return nil, &router.Error{Code: router.CodeInternal, Message: "internal server error", Err: errors.New("a back end's answer is not JSON")}
	case bytes.IndexByte(data, '\n') < 0:
		return data, nil
	}
	var line bytes.Buffer
	err := json.Compact(&line, data)
	return line.Bytes(), err
}
