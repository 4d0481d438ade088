package edge

import (
	"cmp"
	"context"
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
	s    *session
	name string    // of the channel that the client knows
	key  any       // a memberKey, made once
	held *holdback // what comes before the members are told
	gone bool      // the router ended it. Guarded by s.mu
}

// memberKey is what a batch looks like in the channel of that name.
type memberKey string

// Deliver implements router.Subscriber.
func (v *memberSub) Deliver(_ *router.Subscription, b *router.Batch) {
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
		switch {
		case p.Join != nil:
			part.Pushes = append(part.Pushes, router.Push{Pub: &router.Publication{Key: p.Join.Client, Info: p.Join}})
		case p.Leave != nil:
			part.Pushes = append(part.Pushes, router.Push{Pub: &router.Publication{Key: p.Leave.Client, Info: p.Leave, Removed: true}})
		}
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
// and answers with those there are once it hears who comes and goes.
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
	v := &memberSub{s: s, name: state.name, key: memberKey(state.name), held: new(holdback)}
	sub := &router.Subscription{Channel: source, Subscriber: v, Info: in.info, NoPresence: true, NoJoinLeave: true}
	s.srv.node.Subscribe(sub, router.SubscribeRequest{JoinLeave: true}, func(_ router.SubscribeResult, err error) {
		if err != nil {
			end(err)
			return
		}
		s.srv.calls.Go(func() { end(s.tellMembers(cmd, state, sub, v, in)) })
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

// tellMembers answers cmd with the members, and lets what happened meanwhile follow.
func (s *session) tellMembers(cmd *protocol.Command, state *channelState, sub *router.Subscription, v *memberSub, in invitation) error {
	ctx, cancel := context.WithTimeout(s.srv.ctx, callTimeout)
	defer cancel()
	members, err := s.srv.node.Presence(ctx, sub.Channel)
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
	r := &protocol.SubscribeResult{Type: typeMapClients, Data: s.kind.wireBytes(in.data)}
	for id, info := range members {
		r.State = append(r.State, &protocol.Publication{Key: id, Info: s.kind.wireInfo(info)})
	}
	slices.SortFunc(r.State, func(a, b *protocol.Publication) int { return cmp.Compare(a.Key, b.Key) })
	r.Expires, r.Ttl = lifetime(in.expireAt)
	s.reply(cmd, &protocol.Reply{Subscribe: r})
	if !v.held.release(s) {
		s.srv.node.Unsubscribe(sub, nil)
		v.Dropped(sub, router.UnsubscribedInsufficientState)
	}
	return nil
}
