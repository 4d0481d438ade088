package edge

import (
	"errors"
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// flagRejectUnrecovered in a subscribe request asks for error 112 instead of a
// subscription without what was missed (SubscribeRequest.flag of the protocol).
const flagRejectUnrecovered = 2

func (s *session) subscribe(cmd *protocol.Command, state *channelState) {
	req := cmd.Subscribe
	in, err := s.admitTo(req, state)
	if err != nil {
		s.fail(cmd, err)
		s.release(state)
		return
	}
	switch req.Type {
	case typeMap:
		s.walk(cmd, state, in)
		return
	case typeMapClients, typeMapUsers:
		s.watchMembers(cmd, state, in)
		return
	}
	if device, err := s.deviceOf(req); err != nil || device != "" {
		if err == nil {
			s.resume(cmd, state, in, device)
			return
		}
		s.fail(cmd, err)
		s.release(state)
		return
	}
	s.subscribeFrom(cmd, state, in, router.SubscribeRequest{
		Recover: req.Recover, Position: router.Position{Offset: req.Offset, Epoch: req.Epoch},
		Recoverable: req.Recoverable || on(in.override.ForceRecovery), Positioned: req.Positioned || on(in.override.ForcePositioning),
		JoinLeave:         req.JoinLeave || on(in.override.ForceJoinLeave),
		RejectUnrecovered: req.Flag&flagRejectUnrecovered != 0,
		Data:              req.Data,
	}, nil)
}

// subscribeFrom subscribes as req says. When that fails and again, unless nil,
// returns true, it goes on elsewhere.
func (s *session) subscribeFrom(cmd *protocol.Command, state *channelState, in invitation, req router.SubscribeRequest, again func(error) bool) {
	sub := s.subscription(cmd.Subscribe.Channel, in)
	s.begin()
	s.srv.node.Subscribe(sub, req, func(res router.SubscribeResult, err error) {
		defer s.end()
		switch {
		case err == nil:
			s.subscribed(cmd, state, sub, in, req.Position.Offset, res)
		case again != nil && again(err):
			return
		default:
			s.fail(cmd, err)
		}
		s.release(state)
	})
}

// subscription is the client's own to channel.
func (s *session) subscription(channel string, in invitation) *router.Subscription {
	return &router.Subscription{Channel: channel, Subscriber: s.subscriber(&in), Info: in.info,
		NoPresence: off(in.override.Presence), NoJoinLeave: off(in.override.JoinLeave)}
}

// subscribed makes sub the session's and replies; both happen on the channel's
// shard, so the reply precedes every push. since is what it asked to recover from.
func (s *session) subscribed(cmd *protocol.Command, state *channelState, sub *router.Subscription, in invitation, since uint64, res router.SubscribeResult) {
	if !s.own(state, sub, in) {
		return
	}
	res.Publications = in.filter.pick(res.Publications)
	r := s.subscribeResult(res, since, in.expireAt)
	if d, ok := sub.Subscriber.(*streamDelta); ok {
		r.Delta, r.Publications = true, d.begin(res.Publications)
	}
	r.Recovered = r.Recovered && !in.gone
	r.Data = s.kind.wireBytes(in.data)
	s.reply(cmd, &protocol.Reply{Subscribe: r})
}

// own makes sub the session's. When the session is closed it ends sub and returns
// false.
func (s *session) own(state *channelState, sub *router.Subscription, in invitation) bool {
	s.mu.Lock()
	closed := s.closed
	if !closed {
		state.sub, state.expireAt, state.allow, state.serverSide = sub, in.expireAt, in.allow, false
	}
	s.mu.Unlock()
	if closed {
		s.srv.node.Unsubscribe(sub, nil)
	}
	return !closed
}

// subscribeResult is res as a client gets it that asked for what followed offset
// since.
func (s *session) subscribeResult(res router.SubscribeResult, since uint64, expireAt int64) *protocol.SubscribeResult {
	r := &protocol.SubscribeResult{
		Recoverable: res.Recoverable, Positioned: res.Positioned, Recovered: res.Recovered, WasRecovering: res.WasRecovering,
		Offset: res.Position.Offset, Epoch: res.Position.Epoch, Publications: s.kind.wirePublications(res.Publications),
	}
	if res.Recovered && len(res.Publications) > 0 {
		// SDKs advance by the publications, from where they were.
		r.Offset = since
	}
	r.Expires, r.Ttl = lifetime(expireAt)
	return r
}

// on reports whether an override is there and true.
func on(b *bool) bool { return b != nil && *b }

// off reports whether an override is there and false.
func off(b *bool) bool { return b != nil && !*b }

// past reports whether a time a token gives is over.
func past(expireAt int64) bool { return expireAt > 0 && expireAt <= time.Now().Unix() }

// lifetime is how a token's end is told: whether there is one, and in how many
// seconds.
func lifetime(expireAt int64) (expires bool, ttl uint32) {
	if expireAt == 0 {
		return false, 0
	}
	return true, uint32(max(expireAt-time.Now().Unix(), 1))
}

// admitTo checks everything about a subscription that needs no cluster.
func (s *session) admitTo(req *protocol.SubscribeRequest, state *channelState) (invitation, error) {
	ns, err := s.checkSubscribable(req)
	if err != nil {
		return invitation{}, err
	}
	s.mu.Lock()
	subscribed := state.sub != nil
	count := len(s.channels) // with this one
	s.mu.Unlock()
	switch {
	case subscribed:
		return invitation{}, router.Errorf(router.CodeConflict, "already subscribed")
	case count > s.srv.cfg.ChannelLimit:
		s.srv.metrics.refuse(refusedChannels)
		return invitation{}, router.Errorf(router.CodeLimit, "more than %d channels", s.srv.cfg.ChannelLimit)
	}
	if err := s.checkPayload(ns); err != nil {
		return invitation{}, err
	}
	in, err := s.invite(req.Channel, req.Token)
	if err == nil {
		in.ns = ns
		in.filter, err = newFilter(req.Tf)
		in.delta = offersDelta(ns, req)
	}
	return in, err
}

// checkPayload refuses what the session's protocol cannot carry.
func (s *session) checkPayload(ns *router.Namespace) error {
	if ns.Payload == router.PayloadBinary && !s.kind.protobuf() {
		return router.Errorf(router.CodeNotAvailable, "namespace %q is binary: use the Protobuf protocol", ns.Name)
	}
	return nil
}

func (s *session) checkSubscribable(req *protocol.SubscribeRequest) (*router.Namespace, error) {
	if err := s.checkName(req.Channel); err != nil {
		return nil, err
	}
	ns, err := s.srv.node.Namespace(req.Channel)
	if err == nil {
		err = checkType(ns, req)
	}
	return ns, err
}

// errTokenExpired tells the client to bring a new token.
var errTokenExpired = errors.New("token expired")

func (s *session) user() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info.User
}

func (s *session) unsubscribe(cmd *protocol.Command, state *channelState) {
	s.mu.Lock()
	sub := state.sub
	state.sub = nil
	s.mu.Unlock()
	done := func() {
		s.reply(cmd, &protocol.Reply{Unsubscribe: &protocol.UnsubscribeResult{}})
		s.leaveMap(state)
	}
	if sub == nil {
		done()
		return
	}
	s.begin()
	s.srv.node.Unsubscribe(sub, func() { done(); s.end() })
}
