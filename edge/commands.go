package edge

import (
	"context"
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// callTimeout bounds what a command waits for the cluster. It is longer than the
// router's own bounds, so that their clearer errors come first.
const callTimeout = 12 * time.Second

// command takes one command. It returns false when the session has ended.
func (s *session) command(cmd *protocol.Command) bool {
	method := methodOf(cmd)
	s.srv.metrics.byMethod[method].Inc()
	s.mu.Lock()
	connected := s.connected
	s.mu.Unlock()
	if method == "pong" && connected {
		s.mu.Lock()
		s.pongBy = time.Time{}
		s.mu.Unlock()
		return true
	}
	if (cmd.Id == 0 && method != "send") || connected == (method == "connect") {
		s.close(disconnectBadRequest)
		return false
	}
	if method != "connect" {
		if ok, alive := s.withinRate(cmd); !ok {
			return alive
		}
	}
	switch method {
	case "connect":
		return s.withKey(cmd, s.srv.verifier, s.connectToken(cmd), func() bool {
			return s.withSubKeys(cmd, s.subTokens(cmd), func() bool { return s.connect(cmd) })
		})
	case "subscribe":
		return s.withKey(cmd, s.srv.subVerifier, cmd.Subscribe.Token, func() bool {
			s.exclusive(cmd.Subscribe.Channel, func(c *channelState) { s.subscribe(cmd, c) }, nil)
			return s.open()
		})
	case "unsubscribe":
		s.exclusive(cmd.Unsubscribe.Channel, func(c *channelState) { s.unsubscribe(cmd, c) }, nil)
	case "publish":
		s.inOrder(cmd.Publish.Channel, func() { s.publish(cmd) })
	case "history":
		s.inOrder(cmd.History.Channel, func() { s.call(cmd, router.OpHistory, cmd.History.Channel, s.history) })
	case "presence":
		s.inOrder(cmd.Presence.Channel, func() { s.call(cmd, router.OpPresence, cmd.Presence.Channel, s.presence) })
	case "presence_stats":
		s.inOrder(cmd.PresenceStats.Channel, func() { s.call(cmd, router.OpPresence, cmd.PresenceStats.Channel, s.presenceStats) })
	case "refresh":
		return s.withKey(cmd, s.srv.verifier, cmd.Refresh.Token, func() bool { return s.refresh(cmd) })
	case "sub_refresh":
		return s.withKey(cmd, s.srv.subVerifier, cmd.SubRefresh.Token, func() bool {
			s.inOrder(cmd.SubRefresh.Channel, func() { s.subRefresh(cmd) })
			return s.open()
		})
	case "rpc":
		s.rpc(cmd)
	case "send":
		return s.tell(cmd)
	default:
		s.close(disconnectBadRequest)
		return false
	}
	return true
}

func methodOf(cmd *protocol.Command) string {
	switch {
	case cmd.Connect != nil:
		return "connect"
	case cmd.Subscribe != nil:
		return "subscribe"
	case cmd.Unsubscribe != nil:
		return "unsubscribe"
	case cmd.Publish != nil:
		return "publish"
	case cmd.History != nil:
		return "history"
	case cmd.Presence != nil:
		return "presence"
	case cmd.PresenceStats != nil:
		return "presence_stats"
	case cmd.Rpc != nil:
		return "rpc"
	case cmd.Send != nil:
		return "send"
	case cmd.Refresh != nil:
		return "refresh"
	case cmd.SubRefresh != nil:
		return "sub_refresh"
	case cmd.Ping != nil:
		return "ping"
	case cmd.Id == 0:
		return "pong"
	default:
		return "unknown"
	}
}

// call runs a command that waits, off the reading goroutine. The rules are checked
// at once: a later unsubscribe in the same frame must not change the answer.
func (s *session) call(cmd *protocol.Command, op router.Op, channel string, f func(context.Context, *protocol.Command) (*protocol.Reply, error)) {
	if err := s.allow(op, channel); err != nil {
		s.fail(cmd, err)
		return
	}
	s.begin()
	s.srv.calls.Go(func() {
		defer s.end()
		ctx, cancel := context.WithTimeout(s.srv.ctx, callTimeout)
		defer cancel()
		r, err := f(ctx, cmd)
		if err != nil {
			s.fail(cmd, err)
			return
		}
		if r != nil { // else f has replied
			s.reply(cmd, r)
		}
	})
}

func (s *session) checkName(channel string) error {
	if len(channel) > s.srv.cfg.MaxChannelLength {
		return router.Errorf(router.CodeInvalid, "channel is longer than %d bytes", s.srv.cfg.MaxChannelLength)
	}
	return nil
}

func (s *session) publish(cmd *protocol.Command) {
	req := cmd.Publish
	if req.Type != typeStream {
		s.publishMap(cmd)
		return
	}
	err := s.allow(router.OpPublish, req.Channel)
	if err == nil && len(req.Data) == 0 {
		err = router.Errorf(router.CodeInvalid, "data is empty")
	}
	if err != nil {
		s.fail(cmd, err)
		return
	}
	if user := s.user(); s.srv.cfg.UserLimit != nil && user != "" {
		s.publishWithin(cmd, user)
		return
	}
	s.publishNow(cmd)
}

// publishNow hands a publication that may be made to the router.
func (s *session) publishNow(cmd *protocol.Command) {
	req, start := cmd.Publish, time.Now()
	s.begin()
	info := s.clientInfo(req.Channel)
	s.srv.node.Publish(router.PublishRequest{Channel: req.Channel, Data: req.Data, Info: info}, func(_ router.Position, err error) {
		defer s.end()
		s.srv.metrics.publish.Observe(time.Since(start).Seconds())
		if err != nil {
			s.fail(cmd, err)
			return
		}
		s.reply(cmd, &protocol.Reply{Publish: &protocol.PublishResult{}})
	})
}

// clientInfo is what others learn of the client in channel.
func (s *session) clientInfo(channel string) *router.ClientInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.find(channel); c != nil && c.sub != nil {
		return c.sub.Info
	}
	info := s.info
	return &info
}

func (s *session) history(ctx context.Context, cmd *protocol.Command) (*protocol.Reply, error) {
	req := cmd.History
	limit := int(req.Limit)
	if limit < 0 || limit > s.srv.cfg.MaxHistoryLimit {
		limit = s.srv.cfg.MaxHistoryLimit
	}
	res, err := s.srv.node.History(ctx, req.Channel, router.HistoryRequest{Limit: limit, Reverse: req.Reverse, Since: sincePosition(req.Since)})
	if err != nil {
		return nil, err
	}
	return &protocol.Reply{History: &protocol.HistoryResult{
		Publications: s.kind.wirePublications(res.Publications), Offset: res.Position.Offset, Epoch: res.Position.Epoch,
	}}, nil
}

func sincePosition(p *protocol.StreamPosition) *router.Position {
	if p == nil {
		return nil
	}
	return &router.Position{Offset: p.Offset, Epoch: p.Epoch}
}

// presence replies on the channel's shard, so that the client gets the joins and
// leaves that follow after the members, and no others.
func (s *session) presence(ctx context.Context, cmd *protocol.Command) (*protocol.Reply, error) {
	return nil, s.srv.node.PresenceInOrder(ctx, cmd.Presence.Channel, func(members map[string]*router.ClientInfo) {
		out := make(map[string]*protocol.ClientInfo, len(members))
		for id, info := range members {
			out[id] = s.kind.wireInfo(info)
		}
		s.reply(cmd, &protocol.Reply{Presence: &protocol.PresenceResult{Presence: out}})
	})
}

func (s *session) presenceStats(ctx context.Context, cmd *protocol.Command) (*protocol.Reply, error) {
	st, err := s.srv.node.PresenceStats(ctx, cmd.PresenceStats.Channel)
	if err != nil {
		return nil, err
	}
	return &protocol.Reply{PresenceStats: &protocol.PresenceStatsResult{NumClients: uint32(st.Clients), NumUsers: uint32(st.Users)}}, nil
}
