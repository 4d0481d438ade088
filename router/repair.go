package router

import (
	"context"
	"time"
)

// read is the result of reading part of a channel's log.
type read struct {
	head     Entry   // the head that entries lead up to; zero Number when empty
	entries  []Entry // the unbroken run that ends at head, above the asked number
	firstSeq uint64
	err      error
}

// start runs f off the shard with the flow held, and then done on it.
func (c *liveChannel) start(f func(ctx context.Context) read, done func(read)) {
	c.flow = flowRepairing
	c.sh.n.async(func(ctx context.Context) {
		r := f(ctx)
		c.sh.post(func() {
			if !c.ended {
				done(r)
			}
		})
	})
}

// maxOverwritten bounds how often a read starts over because its head was
// overwritten meanwhile: the channel then turns around its whole ring faster
// than it can be read.
const maxOverwritten = 4

// readTo reads the entries of c after number that lead up to target, or to the
// leader's head when target is nil.
func (c *liveChannel) readTo(ctx context.Context, number uint64, life string, target *Entry) (r read) {
	for range maxOverwritten {
		if target == nil {
			if r.head, r.err = readHead(ctx, c.log, c.key); r.err != nil {
				return r
			}
		} else {
			r.head = *target
		}
		if r.head.Number <= number || (life != "" && r.head.Life != life) {
			return r
		}
		r.entries, r.err = c.log.Read(ctx, c.key, number, r.head)
		if CodeOf(r.err) != CodeConflict || r.err == nil {
			return r
		}
		target = nil
	}
	return r
}

// repair reads what lies between the head and target (the leader's head when
// nil) and delivers it.
func (c *liveChannel) repair(target *Entry) {
	if target == nil {
		for _, j := range c.waiting {
			j.refreshed = true // one read of the head serves all who wait (rule R2)
		}
	}
	number, life := c.head.Number, c.head.Life
	c.start(
		func(ctx context.Context) read { return c.readTo(ctx, number, life, target) },
		func(r read) { c.repaired(r) },
	)
}

func (c *liveChannel) repaired(r read) {
	metrics := c.sh.n.cfg.Metrics
	if r.err != nil {
		metrics.repairs[repairFailed].Inc()
		c.retryRepair(r.err)
		return
	}
	h := &c.head
	switch {
	case h.Number == 0 && len(c.subs) == 0 && c.firstSeq == 0:
		// Nobody holds a position: take the head as it is.
		c.setHead(r.head)
		c.suspect()
	case h.Number == 0 && r.head.Number == 0, r.head.Life == h.Life && r.head.Number == h.Number && r.head.Seq == h.Seq:
		// Nothing new.
	case (r.head.Number == 0 || r.head.Seq < h.Seq) && c.doubt():
		// Expired, or gone back in time, or not told the newest: ask again.
		c.repairAfter(doubtPause)
		return
	case r.head.Number == 0, h.Number > 0 && r.head.Life != h.Life, r.head.Number <= h.Number:
		// Expired, born again, or gone back in time.
		metrics.repairs[repairInvalidated].Inc()
		c.invalidate()
		c.setHead(r.head)
	case len(r.entries) == 0 || r.entries[0].Number != h.Number+1:
		// Part of what was missed is gone for good: say so, never skip it.
		metrics.repairs[repairImpossible].Inc()
		c.dropAll(UnsubscribedInsufficientState)
		c.setHead(r.head)
	default:
		metrics.repairs[repairDone].Inc()
		for _, e := range r.entries {
			c.accept(e)
		}
	}
	c.doubtSince = time.Time{}
	c.goLive()
}

// A leader that was just elected may answer before it has applied all that it
// holds (met by the chaos runner: a head older than one that was delivered, for a
// moment after a kill). So an answer that would end subscriptions must stand for
// doubtBound.
const (
	doubtBound = 2 * time.Second
	doubtPause = 200 * time.Millisecond
)

// doubt reports whether it is too early to believe that the log went back.
func (c *liveChannel) doubt() bool {
	now := time.Now()
	if c.doubtSince.IsZero() {
		c.doubtSince = now
	}
	return now.Sub(c.doubtSince) < doubtBound
}

// retryRepair tries again after a pause; the flow stays held. Subscribers get
// nothing until it succeeds: late is right, skipped is not.
func (c *liveChannel) retryRepair(err error) {
	c.retries++
	pause := min(50*time.Millisecond<<min(c.retries, 6), 2*time.Second)
	c.sh.n.log.Warn("repair failed, trying again", "namespace", c.ns.Name, "attempt", c.retries, "err", err)
	// Who waits is answered now: they can go to a node that is better off.
	c.failWaiting(Unavailable("channel", err))
	c.repairAfter(pause)
}

// repairAfter repairs after a pause; the flow stays held.
func (c *liveChannel) repairAfter(pause time.Duration) {
	c.sh.n.wg.Go(func() {
		t := time.NewTimer(pause)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.sh.n.ctx.Done():
			return
		}
		c.sh.post(func() {
			if c.ended {
				return
			}
			c.held, c.overflow = nil, false // the leader's head covers them
			c.repair(nil)
		})
	})
}

// extendRing reads entries older than the ring's first, down to after at least.
// One read serves all who wait (rule R2). A second one takes all there is, so
// that clients with ever older positions do not cost a read each.
func (c *liveChannel) extendRing(after uint64) {
	for _, j := range c.waiting {
		if j.req.Recover && j.req.Position.Offset < after {
			after = j.req.Position.Offset
		}
	}
	if len(c.ring.entries) > 0 {
		after = 0
	}
	floor := c.head.Number - min(c.head.Number, uint64(c.ns.HistorySize))
	after = max(after, floor)
	head, asked := c.head, after
	c.sh.n.cfg.Metrics.ringReads.Inc()
	c.start(
		func(ctx context.Context) read {
			entries, err := c.log.Read(ctx, c.key, asked, head)
			return read{entries: entries, err: err}
		},
		func(r read) {
			switch {
			case CodeOf(r.err) == CodeConflict && r.err != nil:
				c.repair(nil) // the head moved on and overwrote ours
				return
			case r.err != nil:
				c.failWaiting(Unavailable("history", r.err))
				c.goLive()
				return
			}
			c.fillRing(r.entries, asked)
			c.goLive()
		},
	)
}

// fillRing puts entries, a run that ends at the head, in front of the ring.
func (c *liveChannel) fillRing(entries []Entry, asked uint64) {
	start := c.ring.start(c.head.Number)
	var older []ringEntry
	for _, e := range entries {
		if e.Number >= start {
			break
		}
		var pub *Publication
		if !e.Cleared {
			pub = newPublication(e)
		}
		older = append(older, newRingEntry(e, pub))
	}
	delta := c.ring.prepend(older)
	if c.ring.start(c.head.Number) > asked+1 || asked == 0 {
		c.ring.complete = true
	}
	c.growRing(delta)
}

// readFirstSeq asks the leader for the first sequence of the stream, see
// sameEpoch. It must be read while the current life is known, and it is: a later
// life would end this one's subscriptions.
func (c *liveChannel) readFirstSeq() {
	c.start(
		func(ctx context.Context) read {
			state, err := c.log.State(ctx, c.key)
			// An empty stream reports 0 or the next sequence; 0 is "not read" here.
			return read{firstSeq: max(state.FirstSeq, 1), err: err}
		},
		func(r read) {
			if r.err != nil {
				c.failWaiting(Unavailable("history", r.err))
			} else {
				c.firstSeq = r.firstSeq
			}
			c.goLive()
		},
	)
}
