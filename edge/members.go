package edge

import (
	"cmp"
	"slices"

	"github.com/centrifugal/protocol"

	"github.com/headrace/headrace/router"
)

// maxMembers bounds the members that a subscription to them starts with: they come
// in one answer, because pages could not be joined to what happens meanwhile.
const maxMembers = 10_000

// memberSub is the subscriber of a subscription to the members of a channel: of the
// channel itself, whose joins and leaves it shows as changes of keys.
type memberSub struct {
	s     *session
	name  string // of the channel that the client knows
	users bool   // the keys are users, not clients
	key   any    // a memberKey, made once
	told  bool   // what comes now follows the members. Owned by the channel's shard
	held  *holdback
	gone  bool // the router ended it. Guarded by s.mu
}

// memberKey is what a batch looks like in the channel of that name.
type memberKey string

// Deliver implements router.Subscriber.
func (v *memberSub) Deliver(_ *router.Subscription, b *router.Batch) {
	if !v.told {
		return // the members will have it
	}
	part := b.Part(v.key, v.view)
	if part == nil {
		return
	}
	if frame := v.s.batchFrame(part, &v.s.srv.encode); len(frame) > 0 {
		v.held.send(v.s, frame)
	}
}

// view returns the joins and leaves of b, nil for none.
func (v *memberSub) view(b *router.Batch) *router.Batch {
	part := &router.Batch{Channel: v.name}
	for _, p := range b.Pushes {
		who := p.Join
		if who == nil {
			who = p.Leave
		}
		if who == nil || p.Hidden || v.users && (!p.User || who.User == "") {
			continue
		}
		pub := &router.Publication{Key: who.Client, Info: who, Removed: p.Leave != nil}
		if v.users {
			pub.Key, pub.Info = who.User, nil
		}
		part.Pushes = append(part.Pushes, router.Push{Pub: pub})
	}
	if len(part.Pushes) == 0 {
		return nil
	}
	return part
}

// Dropped implements router.Subscriber.
func (v *memberSub) Dropped(sub *router.Subscription, reason router.UnsubscribeReason) {
	v.s.mu.Lock()
	v.gone = true
	v.s.mu.Unlock()
	v.s.dropped(v.name, sub, reason)
}

// watchMembers subscribes to the members of the channel named behind the namespace,
// and answers with those there are.
func (s *session) watchMembers(cmd *protocol.Command, state *channelState, in invitation) {
	s.begin()
	end := func(err error) {
		if err != nil {
			s.fail(cmd, err)
		}
		s.release(state)
		s.end()
	}
	source, err := s.memberSource(cmd.Subscribe)
	if err != nil {
		end(err)
		return
	}
	v := &memberSub{s: s, name: state.name, users: in.ns.Members == router.MembersUsers, key: memberKey(state.name), held: new(holdback)}
	sub := &router.Subscription{Channel: source, Subscriber: v, Info: in.info, NoPresence: true, NoJoinLeave: true}
	req := router.SubscribeRequest{JoinLeave: true, Exact: true, Users: v.users}
	s.srv.node.Subscribe(sub, req, func(_ router.SubscribeResult, err error) {
		if err != nil {
			end(err)
			return
		}
		s.srv.node.Members(sub, func(members []*router.ClientInfo, err error) {
			v.told = true
			// Many members take long to encode: not on the shard.
			s.srv.calls.Go(func() { end(s.tellMembers(cmd, state, sub, v, in, members, err)) })
		})
	})
}

// memberSource is the channel whose members req is about, if the client may know.
func (s *session) memberSource(req *protocol.SubscribeRequest) (string, error) {
	ch, err := router.ParseChannel(req.Channel)
	if err != nil {
		return "", err
	}
	ns, err := s.srv.node.Namespace(ch.Name)
	switch {
	case err != nil:
		return "", err
	case !ns.Presence || !ns.JoinLeave && !ns.ForceJoinLeave:
		return "", router.Errorf(router.CodeNotAvailable, "namespace %q does not tell who is there: it needs presence and join_leave", ns.Name)
	case req.Tf != nil:
		return "", router.Errorf(router.CodeNotAvailable, "members have no tags")
	case req.Recover || req.Phase == phaseStream:
		return "", router.Errorf(router.CodeUnrecoverable, "unrecoverable position: read the members again")
	}
	return ch.Name, s.allow(router.OpPresence, ch.Name)
}

// tellMembers answers cmd with members, and lets what happened meanwhile follow.
func (s *session) tellMembers(cmd *protocol.Command, state *channelState, sub *router.Subscription, v *memberSub, in invitation, members []*router.ClientInfo, err error) error {
	if err == nil && len(members) > maxMembers {
		err = router.Errorf(router.CodeLimit, "the channel has more than %d members", maxMembers)
	}
	if err != nil {
		s.srv.node.Unsubscribe(sub, nil)
		return err
	}
	if !s.own(state, sub, in) {
		return nil
	}
	s.mu.Lock()
	gone := v.gone // before it was the session's
	if gone {
		state.sub = nil
	}
	s.mu.Unlock()
	if gone {
		return router.Errorf(router.CodeUnavailable, "the channel is temporarily unavailable")
	}
	r := &protocol.SubscribeResult{Type: memberTypes[in.ns.Members], Data: s.kind.wireBytes(in.data), State: v.state(members)}
	r.Expires, r.Ttl = lifetime(in.expireAt)
	s.reply(cmd, &protocol.Reply{Subscribe: r})
	if !v.held.release(s) {
		s.srv.node.Unsubscribe(sub, nil)
		v.Dropped(sub, router.UnsubscribedInsufficientState)
	}
	return nil
}

// state returns the entries for members, by key.
func (v *memberSub) state(members []*router.ClientInfo) (state []*protocol.Publication) {
	users := make(map[string]bool)
	for _, info := range members {
		if !v.users {
			state = append(state, &protocol.Publication{Key: info.Client, Info: v.s.kind.wireInfo(info)})
		} else if info.User != "" && !users[info.User] {
			users[info.User] = true
			state = append(state, &protocol.Publication{Key: info.User})
		}
	}
	slices.SortFunc(state, func(a, b *protocol.Publication) int { return cmp.Compare(a.Key, b.Key) })
	return state
}
