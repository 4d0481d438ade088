package router

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// missedHeartbeats is how many intervals a node may be silent before it is gone.
const missedHeartbeats = 3

// settleTime is how long a new node waits for the heartbeats it asked for before
// it believes that it knows the others.
const settleTime = 250 * time.Millisecond

// membership knows which nodes are alive, by their heartbeats.
type membership struct {
	n      *Node
	ready  chan struct{}            // closed when the others are known
	heard  chan struct{}            // this node heard itself
	counts atomic.Pointer[NodeInfo] // Channels and Subs, gathered by run

	sent []uint64 // Upto of the last newsBeats news, oldest first; owned by run

	mu    sync.Mutex // guards nodes
	nodes map[string]*peer
}

type peer struct {
	info    NodeInfo
	seen    time.Time
	older   bool   // it tells nobody of its members
	covered uint64 // up to where its joins and leaves were heard of; see memberNews
}

// heartbeat is NodeInfo, whether the node says goodbye, and what it has to tell of
// joins and leaves.
type heartbeat struct {
	NodeInfo
	Bye   bool        `json:"bye,omitempty"`
	Views bool        `json:"views,omitempty"` // of all but older nodes, see olderAnswer
	News  *memberNews `json:"news,omitempty"`
}

func newMembership(n *Node) *membership {
	return &membership{n: n, ready: make(chan struct{}), heard: make(chan struct{}, 1), nodes: make(map[string]*peer)}
}

// run sends heartbeats until the node stops, and then says goodbye.
func (ms *membership) run() {
	cfg := ms.n.cfg
	ms.beat(false, nil)
	if err := cfg.Core.Publish(cfg.Prefix+ctlHello, nil); err != nil {
		ms.n.log.Warn("hello not sent", "err", err)
	}
	settle := time.NewTimer(settleTime)
	defer settle.Stop()
	tick := time.NewTicker(cfg.HeartbeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-settle.C:
			close(ms.ready)
		case <-tick.C:
			ms.count()
			ms.beatNews()
		case <-ms.heard:
			ms.expire()
		case <-ms.n.ctx.Done():
			ms.beat(true, nil)
			return
		}
	}
}

// count gathers the local numbers that heartbeats tell.
func (ms *membership) count() {
	var channels, subs atomic.Int64
	for _, sh := range ms.n.shards {
		onShard(ms.n.ctx, sh, func() {
			for _, c := range sh.channels {
				if len(c.subs) > 0 {
					channels.Add(1)
					subs.Add(int64(len(c.subs)))
				}
			}
		})
	}
	ms.counts.Store(&NodeInfo{Channels: int(channels.Load()), Subs: int(subs.Load())})
}

func (ms *membership) self() NodeInfo {
	cfg := ms.n.cfg
	info := NodeInfo{ID: cfg.NodeID, Name: cfg.NodeName, Version: cfg.Version, Uptime: int64(time.Since(ms.n.started).Seconds())}
	if cfg.Sessions != nil {
		info.Clients = cfg.Sessions.Count()
	}
	if c := ms.counts.Load(); c != nil {
		info.Channels, info.Subs = c.Channels, c.Subs
	}
	return info
}

// hello answers a new node; not after the goodbye.
func (ms *membership) hello() {
	if ms.n.ctx.Err() == nil {
		ms.beat(false, nil)
	}
}

func (ms *membership) beat(bye bool, news *memberNews) bool {
	b, err := json.Marshal(heartbeat{NodeInfo: ms.self(), Bye: bye, Views: true, News: news})
	if err == nil {
		err = ms.n.cfg.Core.Publish(ms.n.cfg.Prefix+ctlHeartbeat, b)
	}
	if err != nil {
		ms.n.log.Warn("heartbeat not sent", "err", err)
	}
	return err == nil
}

func (ms *membership) receive(m *nats.Msg) {
	var hb heartbeat
	if err := json.Unmarshal(m.Data, &hb); err != nil || hb.ID == "" {
		ms.n.cfg.Metrics.dropped[dropMalformed].Inc()
		return
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	now := time.Now()
	known := ms.nodes[hb.ID]
	switch {
	case hb.Bye:
		delete(ms.nodes, hb.ID)
		ms.dropped(hb.ID)
		return
	case known == nil:
		known = &peer{}
		ms.nodes[hb.ID] = known
		if hb.ID != ms.n.cfg.NodeID {
			ms.n.log.Info("node joined", "node", hb.ID, "name", hb.Name)
		}
	case hb.ID == ms.n.cfg.NodeID && now.Sub(known.seen) > 2*ms.n.cfg.HeartbeatInterval:
		// We were deaf. What the others said meanwhile is lost, not unsaid.
		for _, p := range ms.nodes {
			p.seen = now
		}
	}
	if hb.ID == ms.n.cfg.NodeID {
		select {
		case ms.heard <- struct{}{}:
		default:
		}
	}
	known.info, known.seen, known.older = hb.NodeInfo, now, !hb.Views
	if hb.News != nil && hb.ID != ms.n.cfg.NodeID {
		ms.follow(hb.ID, known, hb.News)
	}
}

// expire forgets nodes that have been silent for too long. It is called when the node
// has heard itself: then it has heard what the others said before, on the same way. A
// node that hears nobody, or stood still, does not declare the others dead for that.
func (ms *membership) expire() {
	healthy := ms.n.cfg.Store.Healthy() == nil
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.deaf() {
		return
	}
	var silent []string
	limit := missedHeartbeats * ms.n.cfg.HeartbeatInterval
	for id, p := range ms.nodes {
		if time.Since(p.seen) > limit {
			silent = append(silent, id)
		}
	}
	// When half of the nodes fall silent at once it may be us who were cut off, with the
	// NATS server and all that are with it. The store knows it, but only after a while.
	many := 2*len(silent) >= len(ms.nodes)
	for _, id := range silent {
		p := ms.nodes[id]
		if many && (!healthy || time.Since(p.seen) <= 2*limit) {
			continue
		}
		delete(ms.nodes, id)
		ms.dropped(id)
		ms.n.log.Warn("node is gone", "node", id, "name", p.info.Name)
	}
}

// deaf reports whether this node does not even hear itself. Callers hold mu.
func (ms *membership) deaf() bool {
	self := ms.nodes[ms.n.cfg.NodeID]
	return ms.n.cfg.Core.Status() != nats.CONNECTED || self == nil || time.Since(self.seen) > missedHeartbeats*ms.n.cfg.HeartbeatInterval
}

// settled waits until the node knows the others.
func (ms *membership) settled(ctx context.Context) error {
	select {
	case <-ms.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// alive returns the ids of the live nodes, this one included.
func (ms *membership) alive() map[string]bool {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ids := make(map[string]bool, len(ms.nodes)+1)
	ids[ms.n.cfg.NodeID] = true
	for id := range ms.nodes {
		ids[id] = true
	}
	return ids
}

func (ms *membership) isAlive(id string) bool {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return id == ms.n.cfg.NodeID || ms.nodes[id] != nil
}

// Info returns all nodes of the cluster, this one included.
func (n *Node) Info(ctx context.Context) ([]NodeInfo, error) {
	if err := n.members.settled(ctx); err != nil {
		return nil, Unavailable("the cluster", err)
	}
	n.members.count()
	nodes := []NodeInfo{n.members.self()}
	n.members.mu.Lock()
	defer n.members.mu.Unlock()
	for id, m := range n.members.nodes {
		if id != n.cfg.NodeID {
			nodes = append(nodes, m.info)
		}
	}
	return nodes, nil
}
