package edge

import (
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// connect identifies the client. It returns false when the session has ended.
func (s *session) connect(cmd *protocol.Command) bool {
	t, err := s.identify(s.connectToken(cmd))
	if err != nil {
		return s.refuse(cmd, err)
	}
	s.srv.metrics.connects.WithLabelValues("ok").Inc()
	cfg := s.srv.cfg
	now := time.Now()
	s.mu.Lock()
	s.connected = true
	s.info = router.ClientInfo{Client: s.id, User: t.User, ConnInfo: t.Info}
	s.expireAt = t.ExpireAt
	s.grant = newGrant(&t)
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
