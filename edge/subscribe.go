package edge

import (
	"errors"
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

// flagRejectUnrecovered in a subscribe request asks for error 112 instead of a
// subscription without what was missed (SubscribeRequest.flag of the protocol).
const flagRejectUnrecovered = 2

func (s *session) subscribe(cmd *protocol.Command) {
	req := cmd.Subscribe
	info, expireAt, err := s.admitTo(req)
	if err != nil {
		s.fail(cmd, err)
		return
	}
	sub := &router.Subscription{Channel: req.Channel, Subscriber: s, Info: info}
	state := s.hold(req.Channel)
	s.begin()
	s.srv.node.Subscribe(sub, router.SubscribeRequest{
		Recover: req.Recover, Position: router.Position{Offset: req.Offset, Epoch: req.Epoch},
		Recoverable: req.Recoverable, Positioned: req.Positioned, JoinLeave: req.JoinLeave,
		RejectUnrecovered: req.Flag&flagRejectUnrecovered != 0,
	}, func(res router.SubscribeResult, err error) {
		if err != nil {
			s.fail(cmd, err)
		} else {
			s.subscribed(cmd, state, sub, expireAt, res)
		}
		s.release(state)
		s.end()
	})
}

// subscribed makes sub the session's and replies; both happen on the channel's
// shard, so the reply precedes every push.
func (s *session) subscribed(cmd *protocol.Command, state *channelState, sub *router.Subscription, expireAt int64, res router.SubscribeResult) {
	s.mu.Lock()
	closed := s.closed
	if !closed {
		state.sub, state.expireAt = sub, expireAt
	}
	s.mu.Unlock()
	if closed {
		s.srv.node.Unsubscribe(sub, nil)
		return
	}
	r := &protocol.SubscribeResult{
		Recoverable: res.Recoverable, Positioned: res.Positioned, Recovered: res.Recovered, WasRecovering: res.WasRecovering,
		Offset: res.Position.Offset, Epoch: res.Position.Epoch, Publications: s.kind.wirePublications(res.Publications),
	}
	if res.Recovered && len(res.Publications) > 0 {
		// SDKs advance by the publications, from where they were.
		r.Offset = cmd.Subscribe.Offset
	}
	r.Expires, r.Ttl = lifetime(expireAt)
	s.reply(cmd, &protocol.Reply{Subscribe: r})
}

// lifetime is how a token's end is told: whether there is one, and in how many
// seconds.
func lifetime(expireAt int64) (expires bool, ttl uint32) {
	if expireAt == 0 {
		return false, 0
	}
	return true, uint32(max(expireAt-time.Now().Unix(), 1))
}

// admitTo checks everything about a subscription that needs no cluster.
func (s *session) admitTo(req *protocol.SubscribeRequest) (info *router.ClientInfo, expireAt int64, err error) {
	ns, err := s.checkSubscribable(req)
	if err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	own := s.info
	c := s.find(req.Channel)
	count := len(s.channels)
	s.mu.Unlock()
	switch {
	case c != nil && c.sub != nil:
		return nil, 0, router.Errorf(router.CodeConflict, "already subscribed")
	case count >= s.srv.cfg.ChannelLimit:
		return nil, 0, router.Errorf(router.CodeLimit, "more than %d channels", s.srv.cfg.ChannelLimit)
	case ns.Payload == router.PayloadBinary && s.kind == jsonWS:
		return nil, 0, router.Errorf(router.CodeNotAvailable, "namespace %q is binary: use the Protobuf protocol", ns.Name)
	}
	info = &own
	if req.Token == "" || s.srv.cfg.Insecure {
		return info, 0, s.srv.node.Allow(router.OpSubscribe, req.Channel, router.Access{User: own.User, Insecure: s.srv.cfg.Insecure})
	}
	t, err := s.subscriptionToken(req.Channel, req.Token)
	info.ChanInfo = t.Info
	return info, t.ExpireAt, err
}

func (s *session) checkSubscribable(req *protocol.SubscribeRequest) (*router.Namespace, error) {
	if err := s.checkName(req.Channel); err != nil {
		return nil, err
	}
	switch {
	case req.Type != 0:
		return nil, router.Errorf(router.CodeNotAvailable, "this subscription type is not available")
	case req.Tf != nil:
		return nil, router.Errorf(router.CodeNotAvailable, "tags filters are not available")
	}
	return s.srv.node.Namespace(req.Channel)
}

// errTokenExpired tells the client to bring a new token.
var errTokenExpired = errors.New("token expired")

func (s *session) subscriptionToken(channel, text string) (token.Subscription, error) {
	denied := router.Errorf(router.CodeDenied, "permission denied")
	if s.srv.verifier == nil {
		return token.Subscription{}, denied
	}
	t, err := s.srv.verifier.Subscription(text)
	switch {
	case errors.Is(err, token.ErrExpired):
		return t, errTokenExpired
	case err != nil:
		denied.Err = err
		return t, denied
	case t.Channel != channel || t.User != s.user():
		return t, denied
	}
	return t, nil
}

func (s *session) user() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info.User
}

func (s *session) unsubscribe(cmd *protocol.Command) {
	state := s.hold(cmd.Unsubscribe.Channel)
	s.mu.Lock()
	sub := state.sub
	state.sub = nil
	s.mu.Unlock()
	done := func() {
		s.reply(cmd, &protocol.Reply{Unsubscribe: &protocol.UnsubscribeResult{}})
		s.release(state)
	}
	if sub == nil {
		done()
		return
	}
	s.begin()
	s.srv.node.Unsubscribe(sub, func() { done(); s.end() })
}

func (s *session) subRefresh(cmd *protocol.Command) {
	req := cmd.SubRefresh
	t, err := s.subscriptionToken(req.Channel, req.Token)
	if err != nil {
		s.fail(cmd, err)
		return
	}
	s.mu.Lock()
	c := s.find(req.Channel)
	subscribed := c != nil && c.sub != nil
	if subscribed {
		c.expireAt = t.ExpireAt
	}
	s.mu.Unlock()
	if !subscribed {
		s.fail(cmd, router.Errorf(router.CodeDenied, "not subscribed"))
		return
	}
	expires, ttl := lifetime(t.ExpireAt)
	s.reply(cmd, &protocol.Reply{SubRefresh: &protocol.SubRefreshResult{Expires: expires, Ttl: ttl}})
}
