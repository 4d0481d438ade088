package edge

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

// serverSub is the subscriber of a server-side subscription: one that the server
// made, by the token, by the personal channel or through the API. SDKs do not
// subscribe such a channel again by themselves, so what would end a subscription
// of the client's ends the connection here: it comes back and recovers.
type serverSub struct {
	s    *session
	held *holdback // nil when made after the connect reply
}

// Deliver implements router.Subscriber.
func (v *serverSub) Deliver(_ *router.Subscription, b *router.Batch) {
	if frame := v.s.batchFrame(b, &v.s.srv.encode); len(frame) > 0 {
		v.held.send(v.s, frame)
	}
}

// Dropped implements router.Subscriber.
func (v *serverSub) Dropped(_ *router.Subscription, reason router.UnsubscribeReason) {
	if reason == router.UnsubscribedStateInvalidated {
		v.s.close(disconnectInvalidated)
		return
	}
	v.s.close(disconnectInsufficient)
}

// holdback keeps what the channels deliver until the connect reply is out. A nil
// holdback is open.
type holdback struct {
	open atomic.Bool

	mu       sync.Mutex // guards the fields below
	frames   [][]byte
	bytes    int // of frames, at most Config.QueueBytes
	overflow bool

	trail *trail // of a plain EventSource with several channels; else nil
}

func (h *holdback) send(s *session, frame []byte) {
	if h == nil || h.open.Load() {
		s.t.Send(frame)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.open.Load():
		s.t.Send(frame)
	case h.overflow || h.bytes+len(frame) > s.srv.cfg.QueueBytes:
		s.srv.metrics.drop(dropSlow, 1+len(h.frames))
		h.overflow, h.frames = true, nil
	default:
		h.frames = append(h.frames, frame)
		h.bytes += len(frame)
	}
}

// release opens h, after what it held was sent. It returns false when something
// was dropped.
func (h *holdback) release(s *session) bool {
	if h == nil {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, frame := range h.frames {
		s.t.Send(frame)
	}
	h.frames = nil
	h.open.Store(true)
	return h.trail.release() && !h.overflow
}

// starting is a connect command whose server-side subscriptions are being made.
type starting struct {
	s     *session
	cmd   *protocol.Command
	token token.Connection
	held  *holdback

	mu   sync.Mutex // guards the fields below
	left int
	subs map[string]*protocol.SubscribeResult
	err  error
}

// serverChannel is a channel that a client is subscribed to when it connects.
type serverChannel struct {
	name string
	token.SubscribeOptions
	// Of channels that a one-way client asked for.
	expireAt  int64 // Unix seconds; 0 never
	joinLeave bool
}

// serverChannels returns those of a client with token t, each once.
func (s *session) serverChannels(t *token.Connection) []serverChannel {
	inbox := &s.srv.cfg.Inbox
	if len(t.Channels)+len(t.Subs) == 0 && s.srv.cfg.PersonalNamespace == "" && !inbox.AutoSubscribe {
		return nil
	}
	var channels []serverChannel
	seen := make(map[string]bool, len(t.Channels)+len(t.Subs)+1)
	add := func(name string, o token.SubscribeOptions) {
		if !seen[name] {
			seen[name] = true
			channels = append(channels, serverChannel{name: name, SubscribeOptions: o})
		}
	}
	for name, o := range t.Subs {
		add(name, o)
	}
	for _, name := range t.Channels {
		add(name, token.SubscribeOptions{})
	}
	if ns := s.srv.cfg.PersonalNamespace; ns != "" && t.User != "" {
		add(router.Channel{Namespace: ns, Name: "#" + t.User}.String(), token.SubscribeOptions{})
	}
	if inbox.AutoSubscribe && inbox.Service != nil {
		if own, err := inbox.Service.Channel(t.User); err == nil { // others have no inbox
			add(own, token.SubscribeOptions{})
		}
	}
	return channels
}

// start subscribes s to channels and then answers cmd. Commands that follow wait
// for that, see admit.
func (s *session) start(cmd *protocol.Command, t token.Connection, channels []serverChannel) bool {
	if len(channels) > s.srv.cfg.ChannelLimit {
		s.close(disconnectChannelLimit)
		return false
	}
	st := &starting{s: s, cmd: cmd, token: t, held: new(holdback), left: len(channels), subs: make(map[string]*protocol.SubscribeResult, len(channels))}
	if s.kind == uniSSE && len(channels) > 1 {
		st.held.trail = &trail{s: s}
	}
	for _, c := range channels {
		if err := s.checkServerSide(c.name); err != nil {
			s.fail(cmd, err)
			return true
		}
	}
	s.mu.Lock()
	s.connecting = true
	s.info = router.ClientInfo{Client: s.id, User: t.User, ConnInfo: t.Info}
	info := s.info
	s.mu.Unlock()
	s.begin()
	for _, c := range channels {
		own := info
		own.ChanInfo = c.Info
		sub := &router.Subscription{Channel: c.name, Subscriber: st.subscriber(), Info: &own,
			NoPresence: off(c.Override.Presence), NoJoinLeave: off(c.Override.JoinLeave)}
		// A client cannot ask for recovery here, so it is on wherever there is history.
		req := router.SubscribeRequest{Recoverable: true, JoinLeave: on(c.Override.ForceJoinLeave) || c.joinLeave}
		if asked := cmd.Connect.Subs[c.name]; asked != nil && asked.Recover {
			req.Recover = true
			req.Position = router.Position{Offset: asked.Offset, Epoch: asked.Epoch}
		}
		s.srv.node.Subscribe(sub, req, func(res router.SubscribeResult, err error) {
			st.subscribed(sub, &c, req.Position.Offset, res, err)
		})
	}
	return true
}

// checkServerSide checks what the client's own subscribe command would be checked
// for, except for the rules: the server may.
func (s *session) checkServerSide(channel string) error {
	if err := s.checkName(channel); err != nil {
		return err
	}
	ns, err := s.srv.node.Namespace(channel)
	if err != nil {
		return err
	}
	return s.checkPayload(ns)
}

// subscribed is called on the channel's shard.
func (st *starting) subscribed(sub *router.Subscription, c *serverChannel, since uint64, res router.SubscribeResult, err error) {
	s := st.s
	if err == nil && !s.keep(sub, c.expireAt, c.Allow) {
		err = router.Errorf(router.CodeUnavailable, "closed")
	}
	if v, ok := sub.Subscriber.(*trailSub); ok && err == nil {
		v.subscribedAt(sub.Channel, &res)
	}
	st.mu.Lock()
	if err == nil {
		r := s.subscribeResult(res, since, c.expireAt)
		r.Data = s.kind.wireBytes(c.Data)
		st.subs[sub.Channel] = r
	} else if st.err == nil {
		st.err = err
	}
	st.left--
	last := st.left == 0
	err = st.err
	st.mu.Unlock()
	if !last {
		return
	}
	if err != nil {
		st.fail(err)
	} else {
		s.connectReply(st.cmd, &st.token, st.subs, st.held)
	}
	s.end()
}

// keep makes sub, a server-side one, the session's. When the session is closed it
// ends sub and returns false.
func (s *session) keep(sub *router.Subscription, expireAt int64, allow router.Ops) bool {
	s.mu.Lock()
	closed := s.closed
	if !closed {
		c := s.find(sub.Channel)
		if c == nil {
			c = &channelState{name: sub.Channel}
			s.channels = append(s.channels, c)
		}
		c.sub, c.expireAt, c.allow, c.serverSide = sub, expireAt, allow, true
	}
	s.mu.Unlock()
	if closed {
		s.srv.node.Unsubscribe(sub, nil)
	}
	return !closed
}

// fail ends what was subscribed; the client may try again on this connection.
func (st *starting) fail(err error) {
	s := st.s
	s.mu.Lock()
	channels := s.channels
	s.channels, s.info = nil, router.ClientInfo{}
	s.connecting, s.since = false, time.Now()
	s.mu.Unlock()
	for _, c := range channels {
		if c.sub != nil {
			s.srv.node.Unsubscribe(c.sub, nil)
		}
	}
	s.fail(st.cmd, err)
}
