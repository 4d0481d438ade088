package edge

import (
	"errors"
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

// connect identifies the client. It returns false when the session has ended.
func (s *session) connect(cmd *protocol.Command) bool {
	req := cmd.Connect
	t, result := s.identify(req.Token)
	s.srv.metrics.connects.WithLabelValues(result).Inc()
	switch result {
	case "ok":
	case "expired":
		s.fail(cmd, errTokenExpired)
		return true
	case "refused":
		// Bad request is what SDKs understand as "a token is needed".
		s.close(disconnectBadRequest)
		return false
	default:
		s.close(disconnectInvalidToken)
		return false
	}
	cfg := s.srv.cfg
	now := time.Now()
	s.mu.Lock()
	s.connected = true
	s.info = router.ClientInfo{Client: s.id, User: t.User, ConnInfo: t.Info}
	s.expireAt = t.ExpireAt
	s.pingAt = now.Add(cfg.PingInterval)
	s.mu.Unlock()
	expires, ttl := lifetime(t.ExpireAt)
	s.reply(cmd, &protocol.Reply{Connect: &protocol.ConnectResult{
		Client: s.id, Version: cfg.Version, Expires: expires, Ttl: ttl,
		Ping: uint32(cfg.PingInterval / time.Second), Pong: true, Time: now.UnixMilli(),
	}})
	// After the reply: from here on messages are pushed to it.
	return s.srv.sessions.identified(s) // false: closed meanwhile
}

// identify returns what text says and "ok", or why not: "expired", "refused" (no
// token where one is needed) or "invalid_token".
func (s *session) identify(text string) (t token.Connection, result string) {
	switch {
	case text == "" && (s.srv.cfg.Insecure || s.srv.cfg.AllowAnonymous):
		return t, "ok"
	case text == "":
		return t, "refused"
	case s.srv.verifier == nil && s.srv.cfg.Insecure:
		return t, "ok"
	case s.srv.verifier == nil:
		return t, "invalid_token"
	}
	t, err := s.srv.verifier.Connection(text)
	switch {
	case err == nil:
		return t, "ok"
	case errors.Is(err, token.ErrExpired):
		return t, "expired"
	default:
		return t, "invalid_token"
	}
}

// refresh prolongs the session with a new token of the same user.
func (s *session) refresh(cmd *protocol.Command) bool {
	t, result := s.identify(cmd.Refresh.Token)
	switch {
	case result == "expired":
		s.fail(cmd, errTokenExpired)
		return true
	case result != "ok" || cmd.Refresh.Token == "" || t.User != s.user():
		s.close(disconnectInvalidToken)
		return false
	}
	s.mu.Lock()
	s.expireAt = t.ExpireAt
	s.mu.Unlock()
	expires, ttl := lifetime(t.ExpireAt)
	s.reply(cmd, &protocol.Reply{Refresh: &protocol.RefreshResult{Client: s.id, Version: s.srv.cfg.Version, Expires: expires, Ttl: ttl}})
	return true
}
