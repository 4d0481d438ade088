package edge

import (
	"sync"

	"github.com/headrace/headrace/router"
)

// trail is where a plain EventSource stands in each of its channels. With several
// the id of an event has all of them, so that frames are the connection's own; one
// channel's are shared by all that have it alone, see trailSub.
type trail struct {
	s *session

	mu       sync.Mutex // guards the fields below, and is held while frames are sent
	at       positions
	open     bool        // the connect reply is out
	held     []trailPush // what came before
	bytes    int         // of held, at most Config.QueueBytes
	overflow bool
}

type trailPush struct {
	channel string
	router.Push
}

// trailSub is the subscriber of one channel of a plain EventSource.
type trailSub struct {
	serverSub
	many *trail // nil when the connection has this channel only

	// Owned by the channel's shard.
	epoch  string                     // of its publications; "" without a position
	encode func(*router.Batch) []byte // made once: a delivery allocates nothing
}

// trailSubscriber returns the subscriber for the channels of st, if they need one
// of this kind.
func (st *starting) subscriber() router.Subscriber {
	base := serverSub{s: st.s, held: st.held}
	if st.s.kind != uniSSE {
		return &base
	}
	v := &trailSub{serverSub: base, many: st.held.trail}
	v.encode = v.frame
	return v
}

// laterSub returns the subscriber of a channel that the API adds to a connection.
func (s *session) laterSub() router.Subscriber {
	base := serverSub{s: s}
	if s.kind != uniSSE {
		return &base
	}
	return &looseSub{base}
}

// looseSub is the subscriber of a channel that a plain EventSource did not ask for:
// its events have no id, since the client comes back without the channel. Those that
// asked for the channel share frames with ids (trailSub.frame), so these are made
// for each.
type looseSub struct{ serverSub }

// Deliver implements router.Subscriber.
func (v *looseSub) Deliver(_ *router.Subscription, b *router.Batch) {
	if frame := v.s.srv.encode[uniSSE](b); len(frame) > 0 {
		v.s.send(frame)
	}
}

// subscribedAt learns where the subscription begins. It is called on the shard,
// before everything that is delivered.
func (v *trailSub) subscribedAt(channel string, res *router.SubscribeResult) {
	if !res.Recoverable && !res.Positioned {
		return
	}
	v.epoch = res.Position.Epoch
	if v.many != nil {
		v.many.mu.Lock()
		v.many.at = append(v.many.at, position{channel, res.Position})
		v.many.mu.Unlock()
	}
}

// Deliver implements router.Subscriber.
func (v *trailSub) Deliver(_ *router.Subscription, b *router.Batch) {
	if v.many != nil {
		v.many.deliver(b)
		return
	}
	frame := b.Frame(int(uniSSE), v.encode)
	for i := range b.Pushes {
		if p := b.Pushes[i].Pub; p != nil && p.Epoch != "" && v.epoch != "" {
			v.epoch = p.Epoch
		}
	}
	if len(frame) > 0 {
		v.held.send(v.s, frame)
	}
}

// frame encodes b for all that have its channel alone: they are in the same epoch,
// since a subscription does not outlive one.
func (v *trailSub) frame(b *router.Batch) []byte {
	at := positions{{b.Channel, router.Position{Epoch: v.epoch}}}
	if v.epoch == "" {
		at = nil
	}
	frame := newFrame(len(b.Pushes) * 256)
	for i := range b.Pushes {
		frame = v.s.appendTrailed(frame, b.Channel, &b.Pushes[i], at)
	}
	return uniSSE.seal(frame)
}

// appendTrailed appends p with the id that at comes to with it.
func (s *session) appendTrailed(frame []byte, channel string, p *router.Push, at positions) []byte {
	var id string
	if pos := at.of(channel); pos != nil && p.Pub != nil && p.Pub.Offset > 0 {
		pos.Offset = p.Pub.Offset
		if p.Pub.Epoch != "" {
			pos.Epoch = p.Pub.Epoch
		}
		id = at.String()
	}
	out, err := appendPushEvent(frame, uniSSE.wirePush(channel, p, kind.wirePublication), id)
	if err != nil {
		s.srv.metrics.drop(dropEncoding, 1)
		return frame
	}
	return out
}

func (t *trail) deliver(b *router.Batch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open {
		t.send(b.Channel, b.Pushes)
		return
	}
	for _, p := range b.Pushes {
		size := commandCost
		if p.Pub != nil {
			size += len(p.Pub.Data)
		}
		if t.overflow = t.overflow || t.bytes+size > t.s.srv.cfg.QueueBytes; t.overflow {
			t.s.srv.metrics.drop(dropSlow, 1+len(t.held))
			t.held = nil
			return
		}
		t.bytes += size
		t.held = append(t.held, trailPush{b.Channel, p})
	}
}

func (t *trail) send(channel string, pushes []router.Push) {
	frame := newFrame(len(pushes) * 256)
	for i := range pushes {
		frame = t.s.appendTrailed(frame, channel, &pushes[i], t.at)
	}
	if len(frame) > frameHead {
		t.s.t.Send(uniSSE.seal(frame))
	}
}

// release sends what was held, after the connect reply. It returns false when
// something was dropped.
func (t *trail) release() bool {
	if t == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.held {
		t.send(p.channel, []router.Push{p.Push})
	}
	t.held, t.open = nil, true
	return !t.overflow
}
