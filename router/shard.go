package router

import (
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/nats-io/nats.go"
)

// shard serves a part of the channels on one goroutine. Whatever happens to a
// channel (a live entry, a subscriber, the result of a read) happens there, one
// after the other, so channels need no locks, and the order of replies and
// pushes is the order of the code.
type shard struct {
	n *Node
	// msgs receives the live copies of all channels of the shard. nats.go drops
	// when it is full and reports a slow consumer; Disturbed then heals.
	msgs chan *nats.Msg
	wake chan struct{}

	mu     sync.Mutex // guards the fields below
	queue  []func()   // bounded by the sessions' commands in flight and by maxIO
	closed bool

	// Owned by run.
	channels map[string]*liveChannel
	bySub    map[*nats.Subscription]*liveChannel
	dirty    []*liveChannel                         // to flush at the end of the pass
	checks   [len(checkDelays)][]check              // per delay, oldest first
	rings    *simplelru.LRU[*liveChannel, struct{}] // channels with a ring, oldest use first
	ringSize int64                                  // bytes of all rings
	states   *stateCache                            // keys of maps
	sweepAt  time.Time                              // next comparison of all channels
	plainAt  time.Time                              // next look at channels with too many members
	idleAt   time.Time                              // next look for channels nobody uses

	// Of members, owned by run.
	replicas     map[uint64]*replica              // by hash of the channel, chained; see followed
	opening      []*replica                       // oldest first
	memberChecks []memberCheck                    // oldest first
	wanted       map[string]map[*replica]struct{} // to be asked for, by node
	asking       map[string]int                   // questions on their way, by node
	changed      map[uint64]uint64                // newest version of own members, by hash of the channel: for heartbeats
	forgot       uint64                           // changed is not complete up to this version
}

const (
	shardQueue   = 16384 // live copies waiting per shard
	maxPass      = 512   // live copies taken in one pass
	tickInterval = 50 * time.Millisecond
)

func newShard(n *Node) *shard {
	sh := &shard{
		n:        n,
		msgs:     make(chan *nats.Msg, shardQueue),
		wake:     make(chan struct{}, 1),
		channels: make(map[string]*liveChannel),
		bySub:    make(map[*nats.Subscription]*liveChannel),
		replicas: make(map[uint64]*replica),
		wanted:   make(map[string]map[*replica]struct{}),
		asking:   make(map[string]int),
	}
	// The count is not what bounds it (bytes are, see growRing), so the limit is
	// out of reach. NewLRU fails for a limit below 1 only.
	sh.rings, _ = simplelru.NewLRU[*liveChannel, struct{}](1<<30, nil)
	sh.states = newStateCache(stateCacheBytes / runtime.GOMAXPROCS(0))
	return sh
}

// post runs f on the shard's goroutine, after all that was posted before. It
// never blocks. It returns false, and f will not run, when the shard has stopped.
func (sh *shard) post(f func()) bool {
	sh.mu.Lock()
	if sh.closed {
		sh.mu.Unlock()
		return false
	}
	sh.queue = append(sh.queue, f)
	sh.mu.Unlock()
	select {
	case sh.wake <- struct{}{}:
	default:
	}
	return true
}

func (sh *shard) run() {
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	defer sh.close()
	sh.sweepAt = time.Now().Add(sh.n.cfg.SweepInterval)
	for {
		select {
		case <-sh.n.ctx.Done():
			return
		case <-sh.wake:
			sh.runQueue()
		case m := <-sh.msgs:
			sh.receive(m)
			sh.receiveMore()
		case now := <-tick.C:
			sh.tick(now)
		}
		sh.flush()
	}
}

func (sh *shard) runQueue() {
	sh.mu.Lock()
	queue := sh.queue
	sh.queue = nil
	sh.mu.Unlock()
	for _, f := range queue {
		f()
	}
}

// receiveMore takes what else has arrived, so that a busy channel's publications
// leave as one frame: batches grow by themselves when the shard is behind and
// cost no delay when it is not.
func (sh *shard) receiveMore() {
	for range maxPass - 1 {
		select {
		case m := <-sh.msgs:
			sh.receive(m)
		default:
			return
		}
	}
}

func (sh *shard) receive(m *nats.Msg) {
	c := sh.bySub[m.Sub]
	if c == nil {
		return // interest ended while the message was on its way
	}
	if m.Sub != c.liveSub {
		c.receiveMembers(m)
		return
	}
	c.receive(m)
}

// flush delivers what the channels gathered during the pass.
func (sh *shard) flush() {
	for _, c := range sh.dirty {
		c.flush()
	}
	clear(sh.dirty)
	sh.dirty = sh.dirty[:0]
}

func (sh *shard) tick(now time.Time) {
	sh.runChecks(now)
	sh.tickMembers(now)
	if !now.Before(sh.idleAt) {
		sh.idleAt = now.Add(time.Second)
		sh.dropIdle(now)
	}
	if !now.Before(sh.sweepAt) {
		sh.sweepAt = now.Add(sh.n.cfg.SweepInterval)
		sh.sweep()
	}
	if !now.Before(sh.plainAt) {
		sh.plainAt = now.Add(plainInterval)
		sh.sweepPlain()
	}
}

// close ends the interest of all channels and answers whoever waits.
func (sh *shard) close() {
	sh.mu.Lock()
	sh.closed = true
	queue := sh.queue
	sh.queue = nil
	sh.mu.Unlock()
	for _, f := range queue {
		f() // subscribers among them are answered below
	}
	for _, c := range sh.channels {
		c.failWaiting(Unavailable("this node", errStopped))
		c.end()
	}
	sh.flush()
}

// subscribe adds j to its channel, creating the channel's interest if needed.
func (sh *shard) subscribe(ch Channel, ns *Namespace, j *joiner) {
	if j.req.Recover && ns.HistorySize > 0 {
		// A node cut off from the leader would call a stale answer recovered.
		if err := sh.n.cfg.Store.Healthy(); err != nil {
			j.done(SubscribeResult{}, Unavailable("recovery", err))
			return
		}
	}
	c := sh.channels[j.sub.Channel]
	if c == nil {
		var err error
		if c, err = sh.open(j.sub.Channel, ch, ns); err != nil {
			j.done(SubscribeResult{}, Unavailable("channel", err))
			return
		}
	}
	if j.wantsMembers(ns) && !c.members.follow(j) {
		return
	}
	c.admit(j)
}

func (sh *shard) unsubscribe(s *Subscription, done func()) {
	if !s.ended {
		s.ended = true
		if s.ch != nil {
			s.ch.remove(s)
		}
	}
	if done != nil {
		done()
	}
}
