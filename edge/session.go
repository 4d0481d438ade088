package edge

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// session is one client connection as the protocol sees it. It is passive: the
// transport calls onFrame, the router calls Deliver, and neither blocks, except
// that onFrame waits while too many commands are in flight.
type session struct {
	// Set by newSession, read-only afterwards.
	srv  *Server
	t    transport
	id   string
	seat *seat // nil unless a limit has to be remembered; set before it is read from

	mu        sync.Mutex // guards the fields below
	room      sync.Cond  // signalled when inflight falls
	connected bool
	// connecting: the connect command waits for server-side subscriptions.
	connecting bool
	closed     bool
	leaving    bool // no command is taken any more; see leave
	fetching   bool // a command waits for the key of a token; see withKey
	// Packed with the flags above: 320 bytes is a size class of the allocator, and the
	// next is 352. kind is read-only, index is guarded by Sessions.mu.
	kind     kind
	deflate  bool              // WebSocket only: large frames are compressed; read-only
	inflight int32             // commands being taken or waiting for the cluster
	index    int32             // in Sessions.all
	info     router.ClientInfo // set by connect
	channels []*channelState   // few: searched one by one
	expireAt int64             // Unix seconds of the token's end; 0 never
	since    time.Time         // when it began
	pingAt   time.Time         // when the next ping is due
	pongBy   time.Time         // when the answer to the last ping is due; zero when it came
	grant    *grant            // nil for most
}

// channelState is what a session knows of one channel: its subscription, and the
// commands that wait for one in flight, because commands of a session to one
// channel take effect in the order of arrival.
type channelState struct {
	name     string
	sub      *router.Subscription // nil unless subscribed
	expireAt int64                // Unix seconds; 0 never
	// serverSide: the server subscribed, not the client; see serverSub.
	serverSide bool
	busy       bool                // a subscribe or unsubscribe is in flight
	running    bool                // release is running what waited
	keyed      bool                // the client's key is set and to be removed, see map_leave.go
	allow      router.Ops          // granted by the subscription token
	waiting    []func(closed bool) // each counts as in flight, so MaxInflight bounds them
}

func newSession(srv *Server, k kind, t transport, now time.Time) *session {
	s := &session{srv: srv, kind: k, t: t, id: newUUID(), since: now}
	s.room.L = &s.mu
	return s
}

// newUUID returns a random UUID (RFC 9562 version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// onFrame takes one message of the client. It returns false when the session has
// ended.
func (s *session) onFrame(data []byte) bool {
	alive := true
	err := s.kind.decodeCommands(data, func(cmd *protocol.Command) bool {
		alive = s.take(cmd)
		return alive
	})
	if err != nil && alive {
		s.close(disconnectBadRequest)
		return false
	}
	return alive
}

// take takes one command, when there is room for it. It returns false when the
// session has ended.
func (s *session) take(cmd *protocol.Command) bool {
	if !s.admit() {
		return false
	}
	alive := s.command(cmd)
	s.end()
	return alive
}

// admit waits until there is room for one more command in flight, a connect command
// before it is answered and a key before it is fetched, and counts it as in flight;
// end must follow. A session that leaves takes no more commands.
func (s *session) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for (int(s.inflight) >= s.srv.cfg.MaxInflight || s.leaving || s.connecting || s.fetching) && !s.closed {
		s.room.Wait()
	}
	if s.closed {
		return false
	}
	s.inflight++
	return true
}

// open reports whether the session has not ended.
func (s *session) open() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closed
}

func (s *session) begin() {
	s.mu.Lock()
	s.inflight++
	s.mu.Unlock()
}

func (s *session) end() {
	s.mu.Lock()
	s.inflight--
	s.room.Signal()
	s.mu.Unlock()
	s.leaveIfDone()
}

// settle waits until no command is in flight. Only one goroutine at a time waits on
// room, here and in admit: the one that hands over commands, and then the one that
// ends the session.
func (s *session) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.inflight > 0 {
		s.room.Wait()
	}
}

// reply sends r with the id of cmd.
func (s *session) reply(cmd *protocol.Command, r *protocol.Reply) {
	r.Id = cmd.Id
	frame, err := s.kind.frame(r)
	if err != nil {
		s.srv.metrics.drop(dropEncoding, 1)
		frame, err = s.kind.frame(&protocol.Reply{Id: cmd.Id, Error: errorInternal.wire()})
		if err != nil {
			return
		}
	}
	s.send(frame)
}

func (s *session) fail(cmd *protocol.Command, err error) {
	var d disconnect
	switch {
	case errors.As(err, &d):
		s.close(d)
	case errors.Is(err, errTokenExpired):
		s.failWith(cmd, errorTokenExpired)
	case errors.Is(err, errPast):
		s.failWith(cmd, errorExpired)
	default:
		s.failWith(cmd, toProtoError(err))
	}
}

func (s *session) failWith(cmd *protocol.Command, p protoError) {
	s.srv.metrics.errors.WithLabelValues(errorLabel(p.code)).Inc()
	if s.kind.oneWay() {
		s.close(oneWayDisconnect(p)) // it has no replies
		return
	}
	s.reply(cmd, &protocol.Reply{Error: p.wire()})
}

func (s *session) push(p *protocol.Push) {
	frame, err := s.kind.frame(&protocol.Reply{Push: p})
	if err != nil {
		s.srv.metrics.drop(dropEncoding, 1)
		return
	}
	s.send(frame)
}

// Deliver implements router.Subscriber.
func (s *session) Deliver(_ *router.Subscription, b *router.Batch) {
	if frame := s.batchFrame(b, &s.srv.encode); len(frame) > 0 {
		s.t.Send(frame)
	}
}

// Dropped implements router.Subscriber.
func (s *session) Dropped(sub *router.Subscription, reason router.UnsubscribeReason) {
	s.dropped(sub.Channel, sub, reason)
}

// dropped tells that sub, the session's in channel, has ended.
func (s *session) dropped(channel string, sub *router.Subscription, reason router.UnsubscribeReason) {
	s.mu.Lock()
	if c := s.find(channel); c != nil && c.sub == sub {
		c.sub = nil
		s.forget(c)
	}
	s.mu.Unlock()
	s.push(&protocol.Push{Channel: channel, Unsubscribe: &protocol.Unsubscribe{Code: uint32(reason), Reason: unsubscribeText(reason)}})
}

func (s *session) find(channel string) *channelState {
	for _, c := range s.channels {
		if c.name == channel {
			return c
		}
	}
	return nil
}

// forget drops the state of a channel that nothing refers to.
func (s *session) forget(c *channelState) {
	if c.busy || c.running || c.keyed || c.sub != nil || len(c.waiting) > 0 {
		return
	}
	for i, other := range s.channels {
		if other == c {
			last := len(s.channels) - 1
			s.channels[i], s.channels[last] = s.channels[last], nil
			s.channels = s.channels[:last]
			return
		}
	}
}

// inOrder runs f when no subscribe or unsubscribe to channel is in flight. It
// counts the command as in flight until then.
func (s *session) inOrder(channel string, f func()) {
	s.mu.Lock()
	// While release runs what waited, a later command must not overtake it.
	if c := s.find(channel); c != nil && (c.busy || c.running) {
		s.inflight++
		c.waiting = append(c.waiting, func(closed bool) {
			if !closed {
				f()
			}
		})
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	f()
}

// exclusive runs f when no subscribe or unsubscribe to channel is in flight, with
// the channel marked as busy; f must see to it that release follows. When the
// session ends while f waits, dropped is called instead, unless it is nil.
func (s *session) exclusive(channel string, f func(*channelState), dropped func()) {
	s.mu.Lock()
	c := s.find(channel)
	if c == nil {
		c = &channelState{name: channel}
		s.channels = append(s.channels, c)
	}
	if c.busy || c.running {
		s.inflight++
		c.waiting = append(c.waiting, func(closed bool) {
			if closed {
				if dropped != nil {
					dropped()
				}
				return
			}
			s.mu.Lock()
			c.busy = true // release waits for it, being the one who runs this
			s.mu.Unlock()
			f(c)
		})
		s.mu.Unlock()
		return
	}
	c.busy = true
	s.mu.Unlock()
	f(c)
}

// release ends the hold on c and runs what waited for it, up to the next command
// that holds it again.
func (s *session) release(c *channelState) {
	defer s.leaveIfDone()
	s.mu.Lock()
	defer s.mu.Unlock()
	c.busy = false
	if c.running {
		return // the call below us on the stack, or on another shard, goes on
	}
	c.running = true
	for len(c.waiting) > 0 && !c.busy {
		f := c.waiting[0]
		c.waiting = c.waiting[1:]
		closed := s.closed
		s.mu.Unlock()
		f(closed)
		s.mu.Lock()
		s.inflight--
		s.room.Signal()
	}
	c.running = false
	s.forget(c)
}

// close ends the session for a reason the peer is told.
func (s *session) close(d disconnect) {
	s.t.Close(d)
	s.ended(d)
}

// ended releases everything the session holds. The first call counts.
func (s *session) ended(d disconnect) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	s.room.Broadcast()
	channels := s.channels
	s.channels = nil
	var subs []*router.Subscription
	var keyed []string
	for _, c := range channels {
		if c.sub != nil {
			subs = append(subs, c.sub)
		}
		if c.keyed {
			keyed = append(keyed, c.name)
		}
	}
	s.mu.Unlock()
	for _, sub := range subs {
		s.srv.node.Unsubscribe(sub, nil)
	}
	s.leaveMaps(keyed)
	s.srv.sessions.remove(s)
	s.srv.metrics.disconnected(d)
	s.srv.metrics.open[s.kind].Add(-1)
}

// tick is the session's part of the wheel, once a second: pings, and everything
// that ends with time.
func (s *session) tick(now time.Time) {
	cfg := s.srv.cfg
	s.mu.Lock()
	var why *disconnect
	ping, leaving := false, false
	var expired []*channelState
	switch unix := now.Add(-cfg.ExpireGrace).Unix(); {
	case s.closed, s.connecting, s.fetching:
	case !s.connected:
		if now.Sub(s.since) >= cfg.ConnectTimeout {
			why = &disconnectStale
		}
	case s.leaving: // its commands in flight end it; pongs are not read any more
		leaving = true
	case s.expireAt > 0 && s.expireAt <= unix:
		why = &disconnectExpired
	case !s.pongBy.IsZero() && !now.Before(s.pongBy):
		why = &disconnectNoPong
	default:
		if !now.Before(s.pingAt) {
			ping = true
			s.pingAt = now.Add(cfg.PingInterval)
			if !s.kind.oneWay() {
				s.pongBy = now.Add(cfg.PongTimeout)
			}
		}
		for _, c := range s.channels {
			if c.sub != nil && c.expireAt > 0 && c.expireAt <= unix {
				expired = append(expired, c)
			}
		}
	}
	s.mu.Unlock()
	if leaving {
		s.leaveIfDone()
	}
	if ping {
		s.t.Send(pingFrames[s.kind])
	}
	for _, c := range expired {
		s.expire(c)
	}
	if why != nil {
		s.close(*why)
	}
}

// expire ends a subscription whose token has run out.
func (s *session) expire(c *channelState) {
	s.mu.Lock()
	sub := c.sub
	c.sub = nil
	s.forget(c)
	serverSide := c.serverSide
	s.mu.Unlock()
	if sub == nil {
		return
	}
	if serverSide {
		s.srv.node.Unsubscribe(sub, nil)
		s.close(disconnectSubExpired)
		return
	}
	// The push follows the last delivery.
	s.srv.node.Unsubscribe(sub, func() {
		s.push(&protocol.Push{Channel: c.name, Unsubscribe: &protocol.Unsubscribe{
			Code: uint32(unsubscribeExpired), Reason: unsubscribeText(unsubscribeExpired)}})
		s.leaveExpired(c)
	})
}
