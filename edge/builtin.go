package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strings"

	"github.com/centrifugal/protocol"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/headrace/headrace/router"
)

// builtin answers an rpc method that the node knows itself. It is called off the
// reading goroutine; ctx ends after callTimeout. data is the request, and the
// result is encoded as JSON whatever the client's protocol.
type builtin func(ctx context.Context, s *session, data []byte) (any, error)

// builtinPrefixes are the beginnings of methods that never go to a back end. What
// has one and is not known is error 104; none of them needs rpc.allow, each has
// rules of its own.
var builtinPrefixes = []string{"inbox.", "queue.", "state."}

// builtinMethods returns the table of all built-in methods. Each feature has a
// part of it in a file of its own.
func (s *Server) builtinMethods() map[string]builtin {
	all := make(map[string]builtin)
	for _, part := range []map[string]builtin{
		s.inboxBuiltins(),
		s.queueBuiltins(),
		s.stateBuiltins(),
	} {
		maps.Copy(all, part)
	}
	for name := range all {
		s.metrics.builtins.WithLabelValues(name, "ok")
		s.metrics.builtins.WithLabelValues(name, "error")
	}
	return all
}

// reservedMethod reports whether a method is the node's to answer.
func reservedMethod(method string) bool {
	for _, p := range builtinPrefixes {
		if strings.HasPrefix(method, p) {
			return true
		}
	}
	return false
}

// callBuiltin answers a command whose method is reserved. What runs at a time is
// bounded by Config.MaxInflight of each session.
func (s *session) callBuiltin(cmd *protocol.Command) {
	call := s.srv.builtins[cmd.Rpc.Method]
	if call == nil {
		s.fail(cmd, router.Errorf(router.CodeNoMethod, "method not found"))
		return
	}
	counted := s.srv.metrics.builtins.MustCurryWith(prometheus.Labels{"method": cmd.Rpc.Method})
	if cmd.Rpc.Method == methodInboxSend { // messages are stored in the order of commands
		call = s.startInboxSend(cmd.Rpc.Data)
	}
	s.begin()
	s.srv.calls.Go(func() {
		defer s.end()
		ctx, cancel := context.WithTimeout(s.srv.ctx, callTimeout)
		defer cancel()
		result, err := call(ctx, s, cmd.Rpc.Data)
		var data []byte
		if err == nil {
			data, err = encodeLine(result)
		}
		if err != nil {
			counted.WithLabelValues("error").Inc()
			s.failBuiltin(cmd, err)
			return
		}
		counted.WithLabelValues("ok").Inc()
		s.reply(cmd, &protocol.Reply{Rpc: &protocol.RPCResult{Data: data}})
	})
}

func (s *session) failBuiltin(cmd *protocol.Command, err error) {
	var malformed *malformedError
	if errors.As(err, &malformed) {
		err = router.Errorf(router.CodeInvalid, "%s", malformed.Error())
	}
	if router.CodeOf(err) == router.CodeInternal {
		s.srv.log.Warn("rpc failed", "method", cmd.Rpc.Method, "err", err)
	}
	s.fail(cmd, err)
}

// typed adapts a method with a request and a result of its own types. An empty
// request is {}. A field that Req does not have is an error that names it: a
// misspelt option would silently be none.
func typed[Req, Res any](f func(context.Context, *session, *Req) (Res, error)) builtin {
	return func(ctx context.Context, s *session, data []byte) (any, error) {
		var req Req
		if len(data) > 0 {
			if err := strictJSON(data, &req); err != nil {
				return nil, err
			}
		}
		return f(ctx, s, &req)
	}
}

// encodeLine returns v as one line of JSON, with < > & as they are. A nil v is {}.
func encodeLine(v any) ([]byte, error) {
	if v == nil {
		return []byte("{}"), nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
