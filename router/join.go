package router

import (
	"context"
	"time"

	"github.com/headrace/headrace/internal/planted"
)

// joiner is a subscriber that waits for its reply.
type joiner struct {
	sub  *Subscription
	req  SubscribeRequest
	done func(SubscribeResult, error)
	// refreshed is true once the leader was asked on its behalf, see repair.
	refreshed bool
}

// wantsMembers reports whether the subscriber is told of joins and leaves in ns.
func (j *joiner) wantsMembers(ns *Namespace) bool {
	return ns.JoinLeave && j.req.JoinLeave || ns.ForceJoinLeave
}

// fit is how many of pubs the subscriber takes with its answer.
func (j *joiner) fit(pubs []*Publication) int {
	if j.req.Fit == nil {
		return len(pubs)
	}
	return j.req.Fit(pubs)
}

// join takes the channel from no knowledge to live (rule J1): interest was just
// taken, so flush it to the server, then read the head at the leader. Copies that
// arrive meanwhile wait in held.
func (c *liveChannel) join() {
	c.flow = flowJoining
	n := c.sh.n
	n.async(func(ctx context.Context) {
		err := n.cfg.Core.FlushWithContext(ctx)
		var head Entry
		if err == nil && c.log != nil {
			head, err = readHead(ctx, c.log, c.key)
		}
		c.sh.post(func() { c.joined(head, err) })
	})
}

// readHead reads the head of key at the leader. For an empty key it returns an
// Entry with a Seq only: one that the stream had reached before the read.
func readHead(ctx context.Context, log Log, key string) (Entry, error) {
	seen := log.LastSeq(key) // before the read: what is born later has a higher one
	head, err := log.Head(ctx, key)
	if err == nil && head.Number == 0 {
		head = Entry{Seq: seen}
	}
	return head, err
}

func (c *liveChannel) joined(head Entry, err error) {
	if c.ended {
		return
	}
	if err != nil {
		c.sh.n.log.Warn("join failed", "namespace", c.ns.Name, "err", err)
		c.failWaiting(err)
		c.end()
		return
	}
	c.setHead(head)
	c.suspect()
	c.goLive()
}

// failWaiting answers all who wait with err.
func (c *liveChannel) failWaiting(err error) {
	waiting := c.waiting
	c.waiting = nil
	if c.members != nil && c.members.replica != nil {
		r := c.members.replica
		waiting, r.waiting = append(waiting, r.waiting...), nil
	}
	for _, j := range waiting {
		j.done(SubscribeResult{}, err)
	}
}

// goLive takes in the copies that were held, and answers who waits, unless the
// copies show that more must be read first.
func (c *liveChannel) goLive() {
	c.flow = flowLive
	c.retries = 0
	if c.overflow {
		c.overflow, c.held = false, nil
		c.repair(nil)
		return
	}
	held := c.held
	c.held = nil
	for i, e := range held {
		c.onLive(e)
		if c.flow != flowLive {
			c.held = append(c.held, held[i+1:]...)
			return
		}
	}
	for len(c.waiting) > 0 && c.flow == flowLive {
		j := c.waiting[0]
		c.waiting = c.waiting[1:]
		c.answer(j)
	}
}

// admit answers j now if the channel is live, else when it is.
func (c *liveChannel) admit(j *joiner) {
	if c.flow != flowLive {
		c.waiting = append(c.waiting, j)
		return
	}
	c.answer(j)
}

// answer adds j's subscription and tells it where it stands. When the answer
// needs entries or facts that are not here, it starts a read and puts j back at
// the front of those who wait.
func (c *liveChannel) answer(j *joiner) {
	if j.sub.ended {
		j.done(SubscribeResult{}, Errorf(CodeConflict, "unsubscribed before the subscription was made"))
		return
	}
	var res SubscribeResult
	if c.log != nil {
		wanted := c.ns.Recover || c.ns.Positioned || c.ns.CacheMode
		res.Recoverable = j.req.Recoverable || j.req.Recover || c.ns.Recover || c.ns.CacheMode
		res.Positioned = j.req.Positioned || res.Recoverable || wanted
		if res.Positioned {
			res.Position = c.position()
		}
		if j.req.Recover {
			res.WasRecovering = true
			switch c.recover(j, &res) {
			case verdictMore:
				c.waiting = append([]*joiner{j}, c.waiting...)
				return
			case verdictYes:
				res.Recovered = true
				if fits := j.fit(res.Publications); fits < len(res.Publications) {
					res.Publications, res.More = res.Publications[:fits:fits], true
					j.done(res, nil)
					return
				}
				c.sh.n.cfg.Metrics.recoveries[true].Inc()
			default:
				c.sh.n.cfg.Metrics.recoveries[false].Inc()
				if j.req.RejectUnrecovered {
					j.done(SubscribeResult{}, Errorf(CodeUnrecoverable, "unrecoverable position"))
					return
				}
			}
		}
	}
	c.add(j, res)
}

// add makes j a subscriber as of the channel's head.
func (c *liveChannel) add(j *joiner, res SubscribeResult) {
	s := j.sub
	s.joinLeave, s.exact = j.wantsMembers(c.ns), j.req.Exact
	if m := c.members; s.joinLeave && m.leaving {
		c.flush() // so that s hears of no leave from before
	}
	if j.req.Exact {
		if err := c.members.exact(j.req.Users); err != nil {
			j.done(SubscribeResult{}, err)
			return
		}
	}
	s.ch, s.index, s.floor = c, len(c.subs), c.head.Number
	c.subs = append(c.subs, s)
	c.learnPage(j.req.State, &res)
	c.idleAt = time.Time{}
	c.sh.n.cfg.Metrics.subscriptions.Inc()
	j.done(res, nil) // before any delivery: those happen at the end of the pass
	c.tellJoin(s)
}

// verdict is the answer to "can this position be recovered".
type verdict uint8

const (
	verdictNo verdict = iota
	verdictYes
	verdictMore // not known yet: a read was started
)

// recover is rule R1. It fills res with the publications after pos when they are
// all here; pos is recovered iff its epoch is the current one, it is not beyond
// the head, and what follows it is an unbroken run that ends at the head.
func (c *liveChannel) recover(j *joiner, res *SubscribeResult) verdict {
	pos := j.req.Position
	if c.ns.CacheMode {
		return c.recoverLast(pos, res)
	}
	v := c.sameEpoch(pos)
	if v == verdictMore {
		return v
	}
	if v == verdictNo || pos.Offset > c.head.Number {
		// Another node is ahead of us (its copies reached it first, or ours were
		// lost), or the store went back: ask the leader once, and believe it.
		if j.refreshed {
			return verdictNo
		}
		j.refreshed = true
		c.repair(nil)
		return verdictMore
	}
	if planted.Bug(planted.StaleRing) && c.ring.entries != nil {
		res.Publications = c.ring.above(pos.Offset)
		return verdictYes
	}
	c.sh.rings.Get(c) // used: keep it in the cache
	pubs, covered := c.ring.after(pos.Offset, c.head.Number, c.oldestServed())
	if covered {
		res.Publications = pubs
		return verdictYes
	}
	start := c.ring.start(c.head.Number)
	tooOld := c.head.Number-pos.Offset > uint64(c.ns.HistorySize)
	if planted.Bug(planted.RecoverTooOld) && len(c.ring.entries) > 0 {
		res.Publications, _ = c.ring.after(start-1, c.head.Number, c.oldestServed())
		return verdictYes
	}
	if pos.Offset+1 >= start || c.ring.complete || tooOld {
		return verdictNo // expired, or no longer stored
	}
	c.extendRing(pos.Offset)
	return verdictMore
}

// recoverLast is recovery in cache mode: the newest publication, if there is one
// that the client does not have.
func (c *liveChannel) recoverLast(pos Position, res *SubscribeResult) verdict {
	if c.head.Number == 0 {
		return verdictYes
	}
	if len(c.ring.entries) == 0 && !c.ring.complete {
		c.extendRing(c.head.Number - 1)
		return verdictMore
	}
	last := c.ring.last(c.oldestServed())
	if last != nil && (pos.Offset != last.Offset || pos.Epoch != c.epoch()) {
		res.Publications = []*Publication{last}
	}
	return verdictYes
}

// sameEpoch reports whether pos belongs to the current life. An empty epoch
// means any, as in the SDKs.
func (c *liveChannel) sameEpoch(pos Position) verdict {
	inc := c.log.Incarnation(c.key)
	if planted.Bug(planted.RecoverAnyEpoch) {
		return verdictYes
	}
	if pos.Epoch == "" || (c.head.Number > 0 && pos.Epoch == LifeEpoch(inc, c.head.Life)) {
		return verdictYes
	}
	// Taken when the key was empty, the stream then being at seq: it belongs to
	// the current life iff no other came in between. Another one would have lost
	// its head to eviction, and the stream evicts from its front: it would begin
	// after seq + 1.
	at, seq, ok := parseEmptyEpoch(pos.Epoch)
	if !ok || at != inc {
		return verdictNo
	}
	if c.firstSeq == 0 {
		c.readFirstSeq()
		return verdictMore
	}
	if c.firstSeq <= seq+1 {
		return verdictYes
	}
	return verdictNo
}
