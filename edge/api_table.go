package edge

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/headrace/headrace/router"
)

// apiMethod answers one method of the server API: body is the request.
type apiMethod func(ctx context.Context, body []byte) (any, error)

// apiMethods are the methods of the server API, the same over HTTP and NATS.
// Those in once take an idempotency_key that is answered from the results kept on
// this node; publish, broadcast and inbox_send see to theirs themselves.
func (s *Server) apiMethods() map[string]apiMethod {
	methods := map[string]apiMethod{
		"publish":        method(s.apiPublish),
		"broadcast":      method(s.apiBroadcast),
		"history":        method(s.apiHistory),
		"presence":       method(s.apiPresence),
		"presence_stats": method(s.apiPresenceStats),
		"channels":       method(s.apiChannels),
		"info":           method(s.apiInfo),
		"inbox_send":     method(s.apiInboxSend),
		"inbox_list":     method(s.apiInboxList),
		"inbox_unread":   method(s.apiInboxUnread),
	}
	once := map[string]apiMethod{
		"history_remove": method(s.apiHistoryRemove),
		"message":        method(s.apiMessage),
		"subscribe":      method(s.apiSubscribe),
		"unsubscribe":    method(s.apiUnsubscribe),
		"disconnect":     method(s.apiDisconnect),
		"refresh":        method(s.apiRefresh),
		"rpc":            method(s.apiRPC),
		"batch":          method(s.apiBatch),
		"inbox_ack":      method(s.apiInboxAck),
		"inbox_clear":    method(s.apiInboxClear),
	}
	queue, queueOnce := s.queueMethods()
	maps.Copy(methods, queue)
	maps.Copy(once, queueOnce)
	maps.Copy(methods, s.mapMethods())
	maps.Copy(methods, s.stateMethods())
	once["map_clear"] = strictMethod(s.apiMapClear)
	for name, call := range once {
		methods[name] = s.onlyOnce(name, call)
	}
	return methods
}

// maxIdempotencyKey bounds an idempotency key in bytes.
const maxIdempotencyKey = 256

func checkIdempotencyKey(key string) error {
	if len(key) > maxIdempotencyKey {
		return router.Errorf(router.CodeInvalid, "idempotency_key is longer than %d bytes", maxIdempotencyKey)
	}
	return nil
}

// onlyOnce answers a repeated idempotency key with the result of the first call.
func (s *Server) onlyOnce(name string, call apiMethod) apiMethod {
	return func(ctx context.Context, body []byte) (any, error) {
		var req struct {
			Key string `json:"idempotency_key"`
		}
		if json.Unmarshal(body, &req) != nil || req.Key == "" {
			return call(ctx, body) // which says what is wrong
		}
		if err := checkIdempotencyKey(req.Key); err != nil {
			return nil, err
		}
		return s.once.do(ctx, name+" "+req.Key, func() (any, error) { return call(ctx, body) })
	}
}

// serveAPI makes the method table and offers it on NATS.
func (s *Server) serveAPI() {
	s.once = newOnceCache(onceEntries, onceBytes, onceTTL)
	s.methods = s.apiMethods()
	onNATS := slices.Sorted(maps.Keys(s.methods))
	s.methods[pullMethod] = strictMethod(s.apiQueuePull)
	if !s.cfg.APIOnNATS {
		return
	}
	s.node.ServeAPI(router.API{
		Methods:     onNATS,
		Call:        s.callNATS,
		MaxInflight: s.cfg.APIMaxInflight,
		Exhausted:   natsAnswer(nil, errAPIExhausted),
		TooLarge:    natsAnswer(nil, router.Errorf(router.CodeLimit, "the answer is larger than NATS carries; ask for less, or over HTTP")),
	})
}

// errAPIExhausted answers a call above Config.APIMaxInflight.
var errAPIExhausted = router.Errorf(router.CodeTooMany, "the API is exhausted: too many calls are under way on this node")

// callNATS answers one request that came over NATS.
func (s *Server) callNATS(ctx context.Context, name string, c router.APICall) router.APIAnswer {
	ctx, cancel := context.WithTimeout(withTraceParent(ctx, c.TraceParent), callTimeout*2)
	defer cancel()
	result, err := s.methods[name](ctx, c.Body)
	s.logFailure(name, err)
	return natsAnswer(result, err)
}

func natsAnswer(result any, err error) router.APIAnswer {
	answer := apiAnswer{Result: result}
	if err != nil {
		answer = apiAnswer{Error: apiFailure(err)}
	}
	body, encodeErr := json.Marshal(answer)
	if encodeErr != nil {
		return natsAnswer(nil, encodeErr)
	}
	out := router.APIAnswer{Body: body}
	if answer.Error != nil {
		out.Code, out.Message = answer.Error.Code, answer.Error.Message
	}
	return out
}

// logFailure logs what is not the caller's mistake.
func (s *Server) logFailure(name string, err error) {
	var malformed *malformedError
	var answered *router.BackendError
	if err == nil || errors.As(err, &malformed) || errors.As(err, &answered) {
		return
	}
	if code := router.CodeOf(err); code == router.CodeInternal || code == router.CodeUnavailable {
		s.log.Warn("api call failed", "method", name, "err", err)
	}
}

type traceKey struct{}

// withTraceParent passes a call's trace on to the back ends that it calls.
func withTraceParent(ctx context.Context, traceParent string) context.Context {
	if traceParent == "" {
		return ctx
	}
	return context.WithValue(ctx, traceKey{}, traceParent)
}

func traceParent(ctx context.Context) string {
	s, _ := ctx.Value(traceKey{}).(string)
	return s
}
