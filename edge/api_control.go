package edge

import (
	"context"
	"encoding/json"
	"unicode/utf8"

	"github.com/headrace/headrace/router"
)

// apiWho says which sessions a method is about: those of the user, or one of them.
type apiWho struct {
	User   string `json:"user"`
	Client string `json:"client"`
	// Session is Centrifugo's and not supported: refused rather than ignored.
	Session string `json:"session"`
}

func (w *apiWho) check() error {
	switch {
	case w.Session != "":
		return router.Errorf(router.CodeNotAvailable, "session is not available; use client")
	case w.User == "" && w.Client == "":
		return router.Errorf(router.CodeInvalid, "user or client is needed")
	}
	return nil
}

// apiAffected counts the sessions a method took effect on, and those on which it
// could not.
type apiAffected struct {
	Sessions int `json:"sessions"`
	Refused  int `json:"refused,omitempty"`
}

func (s *Server) controlSessions(ctx context.Context, c router.Control) (apiAffected, error) {
	n, err := s.node.Control(ctx, c)
	return apiAffected{n.Sessions, n.Refused}, err
}

type apiSubscribeRequest struct {
	apiWho
	Channel      string          `json:"channel"`
	Info         json.RawMessage `json:"info"`
	B64Info      []byte          `json:"b64info"`
	Data         json.RawMessage `json:"data"`
	B64Data      []byte          `json:"b64data"`
	ExpireAt     int64           `json:"expire_at"`
	RecoverSince *apiPosition    `json:"recover_since"`
	Override     json.RawMessage `json:"override"`
}

// bytesOf is what a field and its base64 twin say.
func bytesOf(data json.RawMessage, b64 []byte) []byte {
	switch {
	case b64 != nil:
		return b64
	case string(data) == "null":
		return nil
	default:
		return data
	}
}

func (s *Server) apiSubscribe(ctx context.Context, req *apiSubscribeRequest) (apiAffected, error) {
	if err := req.check(); err != nil {
		return apiAffected{}, err
	}
	if bytesOf(req.Override, nil) != nil {
		return apiAffected{}, router.Errorf(router.CodeNotAvailable, "override is not available; the namespace's rules hold")
	}
	c := router.Control{
		Op: router.ControlSubscribe, User: req.User, Client: req.Client, Channel: req.Channel, ExpireAt: req.ExpireAt,
		Info: bytesOf(req.Info, req.B64Info), Data: bytesOf(req.Data, req.B64Data),
	}
	if req.RecoverSince != nil {
		c.Since = &router.Position{Offset: req.RecoverSince.Offset, Epoch: req.RecoverSince.Epoch}
	}
	return s.controlSessions(ctx, c)
}

type apiReason struct {
	Code   uint32 `json:"code"`
	Reason string `json:"reason"`
}

// maxReason bounds the reason of a close frame (RFC 6455 section 5.5).
const maxReason = 123

// check returns the code and reason to tell: r's if it is given and its code is
// within low and high.
func (r *apiReason) check(low, high, code uint32, reason string) (uint32, string, error) {
	switch {
	case r == nil:
		return code, reason, nil
	case r.Code < low || r.Code > high:
		return 0, "", router.Errorf(router.CodeInvalid, "code %d is not within %d to %d", r.Code, low, high)
	case len(r.Reason) > maxReason || !utf8.ValidString(r.Reason):
		return 0, "", router.Errorf(router.CodeInvalid, "reason must be UTF-8 of at most %d bytes", maxReason)
	}
	return r.Code, r.Reason, nil
}

type apiUnsubscribeRequest struct {
	apiWho
	Channel     string     `json:"channel"`
	Unsubscribe *apiReason `json:"unsubscribe"`
}

func (s *Server) apiUnsubscribe(ctx context.Context, req *apiUnsubscribeRequest) (apiAffected, error) {
	if err := req.check(); err != nil {
		return apiAffected{}, err
	}
	code, reason, err := req.Unsubscribe.check(2000, 2999, uint32(unsubscribedByServer), unsubscribeText(unsubscribedByServer))
	if err != nil {
		return apiAffected{}, err
	}
	return s.controlSessions(ctx, router.Control{
		Op: router.ControlUnsubscribe, User: req.User, Client: req.Client, Channel: req.Channel, Code: code, Reason: reason,
	})
}

type apiDisconnectRequest struct {
	apiWho
	Whitelist  []string   `json:"whitelist"`
	Disconnect *apiReason `json:"disconnect"`
}

func (s *Server) apiDisconnect(ctx context.Context, req *apiDisconnectRequest) (apiAffected, error) {
	if err := req.check(); err != nil {
		return apiAffected{}, err
	}
	code, reason, err := req.Disconnect.check(3000, 4999, uint32(disconnectForced.code), disconnectForced.reason)
	if err != nil {
		return apiAffected{}, err
	}
	return s.controlSessions(ctx, router.Control{
		Op: router.ControlDisconnect, User: req.User, Client: req.Client, Except: req.Whitelist, Code: code, Reason: reason,
	})
}

type apiRefreshRequest struct {
	apiWho
	Expired  bool            `json:"expired"`
	ExpireAt int64           `json:"expire_at"`
	Info     json.RawMessage `json:"info"`
}

func (s *Server) apiRefresh(ctx context.Context, req *apiRefreshRequest) (apiAffected, error) {
	if err := req.check(); err != nil {
		return apiAffected{}, err
	}
	return s.controlSessions(ctx, router.Control{
		Op: router.ControlRefresh, User: req.User, Client: req.Client,
		Expired: req.Expired, ExpireAt: req.ExpireAt, Info: bytesOf(req.Info, nil),
	})
}

type apiRPCRequest struct {
	Method  string          `json:"method"`
	Data    json.RawMessage `json:"data"`
	B64Data []byte          `json:"b64data"`
}

type apiRPCResult struct {
	Data    json.RawMessage `json:"data,omitempty"`
	B64Data []byte          `json:"b64data,omitempty"` // when the answer is not JSON
}

func (s *Server) apiRPC(ctx context.Context, req *apiRPCRequest) (apiRPCResult, error) {
	if err := s.takeRPC(); err != nil {
		return apiRPCResult{}, err
	}
	defer s.releaseRPC()
	call := router.RPCRequest{Method: req.Method, Data: bytesOf(req.Data, req.B64Data), TraceParent: traceParent(ctx)}
	data, err := s.callBackend(ctx, call, false)
	switch {
	case err != nil:
		return apiRPCResult{}, err
	case len(data) == 0 || validJSON(data):
		return apiRPCResult{Data: data}, nil
	default:
		return apiRPCResult{B64Data: data}, nil
	}
}
