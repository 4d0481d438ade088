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
	counts atomic.Pointer[NodeInfo] // Channels and Subs, gathered by run

	mu    sync.Mutex // guards nodes
	nodes map[string]*member
}

type member struct {
	info NodeInfo
	seen time.Time
}

// heartbeat is NodeInfo and whether the node says goodbye.
type heartbeat struct {
	NodeInfo
	Bye bool `json:"bye,omitempty"`
}

func newMembership(n *Node) *membership {
	return &membership{n: n, ready: make(chan struct{}), nodes: make(map[string]*member)}
}

// run sends heartbeats until the node stops, and then says goodbye.
func (ms *membership) run() {
	cfg := ms.n.cfg
	ms.beat(false)
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
			ms.beat(false)
			ms.expire()
		case <-ms.n.ctx.Done():
			ms.beat(true)
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

func (ms *membership) beat(bye bool) {
	b, err := json.Marshal(heartbeat{NodeInfo: ms.self(), Bye: bye})
	if err == nil {
		err = ms.n.cfg.Core.Publish(ms.n.cfg.Prefix+ctlHeartbeat, b)
	}
	if err != nil {
		ms.n.log.Warn("heartbeat not sent", "err", err)
	}
}

func (ms *membership) receive(m *nats.Msg) {
	var hb heartbeat
	if err := json.Unmarshal(m.Data, &hb); err != nil || hb.ID == "" {
		ms.n.cfg.Metrics.dropped[dropMalformed].Inc()
		return
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	switch known := ms.nodes[hb.ID]; {
	case hb.Bye:
		delete(ms.nodes, hb.ID)
	case known == nil:
		ms.nodes[hb.ID] = &member{info: hb.NodeInfo, seen: time.Now()}
		if hb.ID != ms.n.cfg.NodeID {
			ms.n.log.Info("node joined", "node", hb.ID, "name", hb.Name)
		}
	default:
		known.info, known.seen = hb.NodeInfo, time.Now()
	}
}

// expire forgets nodes that have been silent for too long. A node cut off from
// its NATS hears nobody: it does not declare the others dead for that.
func (ms *membership) expire() {
	if ms.n.cfg.Core.Status() != nats.CONNECTED {
		return
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	self := ms.nodes[ms.n.cfg.NodeID]
	limit := missedHeartbeats * ms.n.cfg.HeartbeatInterval
	if self == nil || time.Since(self.seen) > limit {
		return // we do not even hear ourselves
	}
	for id, m := range ms.nodes {
		if time.Since(m.seen) > limit {
			delete(ms.nodes, id)
			ms.n.log.Warn("node is gone", "node", id, "name", m.info.Name)
		}
	}
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
