package edge

import (
	"context"
	"slices"
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// match returns the sessions that c means. mu is held.
func (ss *Sessions) match(c *router.Control) []*session {
	candidates := ss.byUser[c.User]
	if c.Client != "" {
		candidates = nil
		if s := ss.byID[c.Client]; s != nil && (c.User == "" || s.info.User == c.User) {
			candidates = []*session{s}
		}
	}
	if len(c.Except) == 0 {
		return candidates
	}
	return slices.DeleteFunc(slices.Clone(candidates), func(s *session) bool { return slices.Contains(c.Except, s.id) })
}

// outcome is what a Control did to one session.
type outcome uint8

const (
	outcomeNone outcome = iota // nothing to do
	outcomeDone
	outcomeRefused
)

// Control implements router.Sessions.
func (ss *Sessions) Control(ctx context.Context, c router.Control) router.Controlled {
	var outcomes chan outcome
	count := ss.do(func() []*session {
		to := ss.match(&c)
		outcomes = make(chan outcome, len(to))
		return to
	}, func(s *session) { s.control(&c, func(o outcome) { outcomes <- o }) })
	var total router.Controlled
	for range count {
		select {
		case o := <-outcomes:
			switch o {
			case outcomeDone:
				total.Sessions++
			case outcomeRefused:
				total.Refused++
			}
		case <-ctx.Done():
			total.Refused = count - total.Sessions
			return total
		}
	}
	return total
}

// control does c and calls done, once and without blocking.
func (s *session) control(c *router.Control, done func(outcome)) {
	switch c.Op {
	case router.ControlSubscribe:
		s.controlSubscribe(c, done)
	case router.ControlUnsubscribe:
		s.controlUnsubscribe(c, done)
	case router.ControlDisconnect:
		s.close(disconnect{uint16(c.Code), c.Reason})
		done(outcomeDone)
	case router.ControlRefresh:
		s.controlRefresh(c)
		done(outcomeDone)
	default: // of a newer node
		done(outcomeRefused)
	}
}

func (s *session) controlSubscribe(c *router.Control, done func(outcome)) {
	s.exclusive(c.Channel, func(state *channelState) {
		s.mu.Lock()
		closed, subscribed, count, info := s.closed, state.sub != nil, len(s.channels), s.info
		s.mu.Unlock()
		if closed || subscribed || count > s.srv.cfg.ChannelLimit || s.checkServerSide(c.Channel) != nil {
			s.release(state)
			if closed || subscribed {
				done(outcomeNone)
			} else {
				done(outcomeRefused)
			}
			return
		}
		info.ChanInfo = c.Info
		sub := &router.Subscription{Channel: c.Channel, Subscriber: s.laterSub(), Info: &info}
		req := router.SubscribeRequest{Recoverable: true}
		if c.Since != nil {
			req.Recover, req.Position = true, *c.Since
		}
		s.begin()
		s.srv.node.Subscribe(sub, req, func(res router.SubscribeResult, err error) {
			o := outcomeRefused
			if err == nil && s.keep(sub, c.ExpireAt, 0) {
				s.pushSubscribe(c, res)
				o = outcomeDone
			}
			s.release(state)
			s.end()
			done(o)
		})
	}, func() { done(outcomeNone) })
}

// pushSubscribe tells the client of a subscription and what it recovered, on the
// channel's shard and so before everything the channel delivers.
func (s *session) pushSubscribe(c *router.Control, res router.SubscribeResult) {
	var since uint64
	if c.Since != nil {
		since = c.Since.Offset
	}
	r := s.subscribeResult(res, since, c.ExpireAt)
	s.push(&protocol.Push{Channel: c.Channel, Subscribe: &protocol.Subscribe{
		Recoverable: r.Recoverable, Positioned: r.Positioned, Offset: r.Offset, Epoch: r.Epoch, Data: s.kind.wireBytes(c.Data),
	}})
	for _, p := range r.Publications {
		s.push(&protocol.Push{Channel: c.Channel, Pub: p})
	}
}

func (s *session) controlUnsubscribe(c *router.Control, done func(outcome)) {
	s.exclusive(c.Channel, func(state *channelState) {
		s.mu.Lock()
		sub := state.sub
		state.sub = nil
		s.mu.Unlock()
		if sub == nil {
			s.release(state)
			done(outcomeNone)
			return
		}
		s.begin()
		// The push follows the last delivery.
		s.srv.node.Unsubscribe(sub, func() {
			s.push(&protocol.Push{Channel: c.Channel, Unsubscribe: &protocol.Unsubscribe{Code: c.Code, Reason: c.Reason}})
			s.leaveMap(state)
			s.end()
			done(outcomeDone)
		})
	}, func() { done(outcomeNone) })
}

func (s *session) controlRefresh(c *router.Control) {
	if c.Expired || c.ExpireAt > 0 && c.ExpireAt <= time.Now().Unix() {
		s.close(disconnectExpired)
		return
	}
	s.mu.Lock()
	s.expireAt = c.ExpireAt
	if c.Info != nil {
		s.info.ConnInfo = c.Info
	}
	s.mu.Unlock()
	expires, ttl := lifetime(c.ExpireAt)
	s.push(&protocol.Push{Refresh: &protocol.Refresh{Expires: expires, Ttl: ttl}})
}
