package router

import (
	"context"
	"time"

	"github.com/headrace/headrace/internal/planted"
)

// checkDelays are the ages at which a channel newly of interest, or restored
// after a disturbance, is compared with its log. Interest reaches the leader's
// node late, and an entry stored in between is neither read nor live (rule J1).
var checkDelays = [...]time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second}

type check struct {
	due time.Time
	c   *liveChannel
}

// suspect schedules checks of c.
func (c *liveChannel) suspect() {
	if c.log == nil {
		return
	}
	now := time.Now()
	for i, d := range checkDelays {
		c.sh.checks[i] = append(c.sh.checks[i], check{due: now.Add(d), c: c})
	}
}

// suspectAll checks all channels now and schedules more checks.
func (sh *shard) suspectAll() {
	all := make([]*liveChannel, 0, len(sh.channels))
	for _, c := range sh.channels {
		c.suspect()
		all = append(all, c)
	}
	sh.compare(all)
}

// runChecks compares the channels whose check is due.
func (sh *shard) runChecks(now time.Time) {
	var due []*liveChannel
	for i := range sh.checks {
		queue := sh.checks[i]
		for len(queue) > 0 && !queue[0].due.After(now) {
			due = append(due, queue[0].c)
			queue[0] = check{}
			queue = queue[1:]
		}
		sh.checks[i] = queue
	}
	sh.compare(due)
}

// sweep compares all channels: a lost last entry shows in no other way.
func (sh *shard) sweep() {
	all := make([]*liveChannel, 0, len(sh.channels))
	for _, c := range sh.channels {
		all = append(all, c)
	}
	sh.compare(all)
}

// dropIdle ends the channels without subscribers for the linger time.
func (sh *shard) dropIdle(now time.Time) {
	for _, c := range sh.channels {
		if !c.idleAt.IsZero() && len(c.waiting) == 0 && !c.members.awaited() && c.flow != flowJoining && now.Sub(c.idleAt) >= sh.n.cfg.Linger {
			c.end()
		}
	}
}

// compare asks each log which of its channels have moved past their head here,
// and repairs those that have.
func (sh *shard) compare(channels []*liveChannel) {
	type group struct {
		marks    []Mark
		channels map[string]*liveChannel // by key
	}
	if planted.Bug(planted.SkipTailChecks) {
		return
	}
	groups := make(map[Log]*group)
	for _, c := range channels {
		// A channel under repair reads the leader's head anyway.
		if c.ended || c.log == nil || c.flow != flowLive {
			continue
		}
		g := groups[c.log]
		if g == nil {
			g = &group{channels: make(map[string]*liveChannel)}
			groups[c.log] = g
		}
		if g.channels[c.key] == nil {
			g.channels[c.key] = c
			g.marks = append(g.marks, Mark{Key: c.key, Number: c.head.Number, Seq: c.head.Seq})
		}
	}
	for log, g := range groups {
		sh.n.cfg.Metrics.checks.Add(float64(len(g.marks)))
		sh.n.async(func(ctx context.Context) {
			moved, rewound, err := log.Moved(ctx, g.marks)
			sh.post(func() {
				switch {
				case err != nil:
					// Not known: compare all again soon, once, however many checks fail.
					sh.n.log.Warn("tail check failed", "channels", len(g.marks), "err", err)
					if again := time.Now().Add(time.Second); again.Before(sh.sweepAt) {
						sh.sweepAt = again
					}
				case rewound:
					sh.n.log.Warn("a leader tells less of a stream than was delivered; checking all its channels")
					for _, m := range g.marks {
						sh.catchUp(g.channels[m.Key], m)
					}
				default:
					byKey := make(map[string]Mark, len(moved))
					for _, m := range g.marks {
						byKey[m.Key] = m
					}
					for _, key := range moved {
						sh.catchUp(g.channels[key], byKey[key])
					}
				}
			})
		})
	}
}

// catchUp repairs c if it still stands where it stood when it was compared. If it
// has moved since, the flow works, and what was missed would have been a gap.
func (sh *shard) catchUp(c *liveChannel, m Mark) {
	if c == nil || c.ended || c.flow != flowLive || c.head.Seq != m.Seq || c.head.Number != m.Number {
		return
	}
	sh.n.cfg.Metrics.tailLosses.Inc()
	c.repair(nil)
}
