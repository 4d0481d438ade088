package router

import (
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/planted"
)

// flow says how a channel stands to its log.
type flow uint8

const (
	// flowJoining: interest was just taken; the head is not known yet.
	flowJoining flow = iota
	// flowLive: everything up to the position was delivered; copies follow.
	flowLive
	// flowRepairing: entries are being read; copies wait in held.
	flowRepairing
)

// liveChannel is a channel with interest on this node. Its shard owns it.
type liveChannel struct {
	sh   *shard
	name string
	id   Channel
	ns   *Namespace
	key  string
	log  Log // nil without history

	liveSub *nats.Subscription
	members *channelMembers // nil unless the namespace tells joins
	ended   bool

	subs    []*Subscription
	waiting []*joiner // subscribers to be answered when the flow is live
	idleAt  time.Time // since when there are no subscribers; zero while there are

	flow flow
	// head is the last entry accepted; its payload is not kept. Its Number is 0
	// while the key is empty; Seq is then a sequence the stream had reached
	// before it was seen empty (EmptyEpoch).
	head Entry
	// firstSeq is the stream's first sequence, read while head.Life was the
	// current life (or the key was empty); 0 when not read. See recoverEmpty.
	firstSeq uint64
	held     []Entry // copies that arrived while joining or repairing
	overflow bool    // held was full: read the head again before going live
	retries  int     // failed repairs in a row
	// doubtSince is since when the leader has told an older head than ours.
	doubtSince time.Time
	ring       ring
	// stateGen changes whenever entries may have passed unseen, see stateCache.
	stateGen uint64
	// stateSeen is the highest offset that an answer brought in this life.
	stateSeen uint64
	ahead     flowValues // of channels with deltas, see putState

	out   []Push // accepted in this pass, delivered at its end
	dirty bool   // queued in sh.dirty
}

// open takes interest in a channel.
func (sh *shard) open(name string, id Channel, ns *Namespace) (*liveChannel, error) {
	c := &liveChannel{sh: sh, name: name, id: id, ns: ns, key: id.Key(), idleAt: time.Now()}
	subject := sh.n.ephemeralSubject(ns.Name, c.key)
	if ns.HistorySize > 0 {
		log, ok := sh.n.cfg.Store.Log(ns.Name)
		if !ok {
			return nil, Errorf(CodeInternal, "no log for namespace %q", ns.Name)
		}
		c.log = log
		subject = log.LiveSubject(c.key)
	}
	var err error
	if c.liveSub, err = sh.n.cfg.Core.ChanSubscribe(subject, sh.msgs); err != nil {
		return nil, err
	}
	if ns.tellsMembers() {
		c.members = newChannelMembers(c)
	}
	sh.bySub[c.liveSub] = c
	sh.channels[name] = c
	sh.n.cfg.Metrics.channels.Inc()
	if planted.Bug(planted.StaleRing) {
		sh.restoreRing(c)
	}
	c.join()
	return c, nil
}

// end gives up interest. Nobody may be subscribed or waiting.
func (c *liveChannel) end() {
	c.ended = true
	sh := c.sh
	delete(sh.bySub, c.liveSub)
	delete(sh.channels, c.name)
	c.liveSub.Unsubscribe() //nolint:errcheck // fails only when the connection is closed, and then interest is gone
	if c.members != nil {
		c.members.end()
	}
	if planted.Bug(planted.StaleRing) {
		sh.keepRing(c)
	}
	c.dropRing()
	sh.n.cfg.Metrics.channels.Dec()
}

// receive takes a live copy, or an ephemeral publication.
func (c *liveChannel) receive(m *nats.Msg) {
	metrics := c.sh.n.cfg.Metrics
	if c.log == nil {
		pub, err := decodeEphemeral(c.ns, m)
		if err != nil {
			metrics.dropped[dropMalformed].Inc()
			c.sh.n.log.Warn("ephemeral publication refused", "subject", m.Subject, "err", err)
			return
		}
		metrics.received.Inc()
		c.emit(Push{Pub: pub})
		return
	}
	e, err := c.log.DecodeLive(m)
	if err != nil {
		metrics.dropped[dropMalformed].Inc()
		c.sh.n.log.Error("live copy refused", "subject", m.Subject, "err", err)
		return
	}
	metrics.received.Inc()
	if c.flow != flowLive {
		c.hold(e)
		return
	}
	c.onLive(e)
}

// hold keeps a copy until the flow is live again.
func (c *liveChannel) hold(e Entry) {
	if len(c.held) >= c.sh.n.cfg.MaxJoinBuffer {
		c.held, c.overflow = nil, true
	}
	c.held = append(c.held, e)
}

// onLive is rule L1: the next entry is delivered, an old one dropped, and a gap
// repaired from the log before anything after it is seen.
func (c *liveChannel) onLive(e Entry) {
	h := &c.head
	switch {
	case e.Seq <= h.Seq && (h.Number == 0 || e.Life != h.Life || e.Number <= h.Number):
		// Stored before the head: a copy sent twice, or late. Unless the store
		// went back in time; only its leader knows.
		c.sh.n.cfg.Metrics.dropped[dropDuplicate].Inc()
		if !c.ring.holds(e) {
			c.repair(nil)
		}
	case h.Number == 0 && e.Number == 1, e.Life == h.Life && e.Number == h.Number+1 && e.Seq > h.Seq:
		c.accept(e)
	case (h.Number == 0 || e.Life == h.Life) && e.Number > h.Number && e.Seq > h.Seq:
		c.sh.n.cfg.Metrics.gaps.Inc()
		if planted.Bug(planted.SkipGaps) {
			c.dropRing()
			c.accept(e)
			return
		}
		c.hold(e)
		c.repair(&e)
	default:
		// Another life, or a number going backwards under a new sequence: the
		// history is not the one our subscribers hold a position in.
		c.invalidate()
		c.hold(e)
		c.repair(nil)
	}
}

// holds reports whether e is the very entry that the ring has under its number.
func (r *ring) holds(e Entry) bool {
	if len(r.entries) == 0 || e.Number < r.entries[0].number {
		return false
	}
	i := e.Number - r.entries[0].number
	return i < uint64(len(r.entries)) && r.entries[i].seq == e.Seq
}

// accept makes e the head and delivers it at the end of the pass. The caller has
// checked that e is the next entry.
func (c *liveChannel) accept(e Entry) {
	first := c.head.Number == 0
	var pub *Publication
	if !e.Cleared {
		pub = newPublication(e)
		if first || e.Number == 1 {
			pub.Epoch = LifeEpoch(c.log.Incarnation(c.key), e.Life)
		}
		c.emit(Push{Pub: pub, Before: c.before(&e)})
	} else {
		// What was removed must not come back from here either.
		c.dropRing()
		c.ring.complete = true
	}
	c.setHead(e)
	c.learnState(&e)
	c.growRing(c.ring.push(newRingEntry(e, pub), c.ns.HistorySize))
}

func (c *liveChannel) setHead(e Entry) {
	if e.Number != c.head.Number+1 || e.Life != c.head.Life {
		c.stateGen++
	}
	if e.Life != c.head.Life {
		c.stateSeen = 0
	}
	e.Data, e.Meta = nil, nil
	c.head = e
}

// emit queues p for delivery at the end of the pass.
func (c *liveChannel) emit(p Push) {
	if len(c.subs) == 0 {
		return
	}
	c.out = append(c.out, p)
	c.mark()
}

// mark has the channel flushed at the end of the pass.
func (c *liveChannel) mark() {
	if !c.dirty {
		c.dirty = true
		c.sh.dirty = append(c.sh.dirty, c)
	}
}

// invalidate ends all subscriptions: positions in this channel mean nothing any
// more. The subscribers come back, are told recovered: false, and reload.
func (c *liveChannel) invalidate() { c.dropAll(UnsubscribedStateInvalidated) }

func (c *liveChannel) dropAll(reason UnsubscribeReason) {
	c.flush()
	c.sh.n.log.Warn("subscriptions ended", "channel_namespace", c.ns.Name, "reason", uint32(reason), "subscribers", len(c.subs))
	for _, s := range c.subs {
		s.ended, s.ch = true, nil
		s.Subscriber.Dropped(s, reason)
		c.tellLeave(s)
	}
	c.sh.n.cfg.Metrics.subscriptions.Sub(float64(len(c.subs)))
	clear(c.subs)
	c.subs = c.subs[:0]
	c.idleAt = time.Now()
	c.out = nil
	c.dropRing()
	c.stateGen, c.stateSeen = c.stateGen+1, 0
	c.head = Entry{Seq: c.head.Seq}
	c.firstSeq = 0
}

// remove takes s, one of c.subs, out.
func (c *liveChannel) remove(s *Subscription) {
	last := len(c.subs) - 1
	c.subs[s.index] = c.subs[last]
	c.subs[s.index].index = s.index
	c.subs[last] = nil
	c.subs = c.subs[:last]
	s.ch = nil
	if last == 0 {
		c.idleAt = time.Now()
	}
	c.sh.n.cfg.Metrics.subscriptions.Dec()
	if planted.Bug(planted.DeadMembers) {
		c.sh.n.keepMember(c.name, s.Info)
	}
	c.tellLeave(s)
}

func (c *liveChannel) oldestServed() time.Time {
	if c.ns.HistoryTTL == 0 {
		return time.Time{}
	}
	return time.Now().Add(-c.ns.HistoryTTL)
}

// epoch returns the epoch of the channel's current life.
func (c *liveChannel) epoch() string {
	inc := c.log.Incarnation(c.key)
	if c.head.Number == 0 {
		return EmptyEpoch(inc, c.head.Seq)
	}
	return LifeEpoch(inc, c.head.Life)
}

func (c *liveChannel) position() Position {
	return Position{Offset: c.head.Number, Epoch: c.epoch()}
}

// growRing accounts for a change in size and drops the rings used longest ago
// when the shard's share of the cache is full.
func (c *liveChannel) growRing(delta int64) {
	sh := c.sh
	sh.ringSize += delta
	sh.rings.Add(c, struct{}{})
	limit := sh.n.cfg.RingCacheBytes / int64(len(sh.n.shards))
	for sh.ringSize > limit && sh.rings.Len() > 0 {
		victim, _, _ := sh.rings.RemoveOldest()
		sh.ringSize -= victim.ring.reset()
	}
}

func (c *liveChannel) dropRing() {
	c.sh.ringSize -= c.ring.reset()
	c.sh.rings.Remove(c)
}

// receiveMembers takes what another node tells of its members.
func (c *liveChannel) receiveMembers(m *nats.Msg) {
	msg, err := decodeMemberMessage(m.Data)
	if err != nil {
		c.sh.n.cfg.Metrics.dropped[dropMalformed].Inc()
		return
	}
	c.members.replica.receive(msg)
}
