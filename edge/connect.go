package edge

import (
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

// connect identifies the client. It returns false when the session has ended.
func (s *session) connect(cmd *protocol.Command) bool {
	t, err := s.identify(s.connectToken(cmd))
	if err != nil {
		return s.refuse(cmd, err)
	}
	s.srv.metrics.connects.WithLabelValues("ok").Inc()
	channels := s.serverChannels(&t)
	if s.kind.oneWay() {
		if channels, err = s.wanted(cmd.Connect.Subs, &t, channels); err != nil {
			s.fail(cmd, err)
			return false
		}
	}
	if len(channels) > 0 {
		return s.start(cmd, t, channels)
	}
	return s.connectReply(cmd, &t, nil, nil)
}

// connectReply makes the session a connected one and tells so. What came for it
// meanwhile, what held has too, follows the reply. It returns false when the
// session was closed meanwhile.
func (s *session) connectReply(cmd *protocol.Command, t *token.Connection, subs map[string]*protocol.SubscribeResult, held *holdback) bool {
	cfg := s.srv.cfg
	if !s.srv.sessions.reserve(t.User, cfg.Limits.ConnectionsPerUser) {
		s.srv.metrics.refuse(refusedConnectionsPerUser)
		s.close(disconnectConnLimit)
		return false
	}
	now := time.Now()
	s.mu.Lock()
	s.connected, s.connecting = true, false
	s.info = router.ClientInfo{Client: s.id, User: t.User, ConnInfo: t.Info}
	s.expireAt = t.ExpireAt
	s.grant = newGrant(t)
	s.pingAt = now.Add(cfg.PingInterval)
	s.mu.Unlock()
	if !s.srv.sessions.identified(s) {
		return false
	}
	expires, ttl := lifetime(t.ExpireAt)
	result := &protocol.ConnectResult{
		Client: s.id, Version: cfg.Version, Expires: expires, Ttl: ttl, Subs: subs,
		Ping: uint32(cfg.PingInterval / time.Second), Pong: !s.kind.oneWay(), Time: now.UnixMilli(),
	}
	if c, ok := s.t.(*streamConn); ok && c.box != nil {
		result.Session, result.Node = c.sessionName(s.id), cfg.NodeID
	}
	s.reply(cmd, &protocol.Reply{Connect: result})
	whole := held.release(s)
	s.srv.sessions.replied(s)
	if !whole {
		s.close(disconnectSlow)
	}
	return whole
}
