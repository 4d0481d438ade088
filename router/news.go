package router

import (
	"slices"
	"sync"
	"time"

	"github.com/headrace/headrace/internal/planted"
)

// newsBeats is how many heartbeats tell of a change. A node that misses as many is
// about to be taken for gone, or was deaf itself: then it compares all channels.
const newsBeats = 3

// beatNews sends a heartbeat with the joins and leaves of the last few intervals;
// several, when they are too many for one.
func (ms *membership) beatNews() {
	upto := ms.n.versions.Load() // before the shards are looked at: what is up to it is seen
	var since uint64
	if len(ms.sent) == newsBeats {
		since = ms.sent[0]
	}
	var mu sync.Mutex // guards what follows: onShard gives up when the node stops
	var list []toldVersion
	var lost uint64 // not all changes up to it are in list
	for _, sh := range ms.n.shards {
		onShard(ms.n.ctx, sh, func() {
			told, forgot := sh.news(since)
			mu.Lock()
			defer mu.Unlock()
			list, lost = append(list, told...), max(lost, forgot)
		})
	}
	mu.Lock()
	all := newNews(slices.Clone(list), min(max(since, lost), upto), upto)
	mu.Unlock()
	for _, news := range all {
		if !ms.beat(false, news) {
			return // told again, and from the same version on
		}
	}
	ms.sent = append(ms.sent, upto)
	if len(ms.sent) > newsBeats {
		ms.sent = ms.sent[1:]
	}
}

// follow takes what the heartbeats of a node tell of joins and leaves. Callers hold
// mu, so that the shards hear of a node's coming and going in order.
func (ms *membership) follow(id string, p *peer, news *memberNews) {
	if planted.Bug(planted.SkipMemberNews) {
		return
	}
	list, err := news.decode()
	if err != nil {
		ms.n.cfg.Metrics.dropped[dropMalformed].Inc()
		return
	}
	if news.Since > p.covered {
		p.covered = news.Upto
		for _, sh := range ms.n.shards {
			sh.post(func() { sh.suspectNode(id) })
		}
		return
	}
	fresh := make([][]toldVersion, len(ms.n.shards))
	for _, t := range list {
		if t.version > p.covered {
			i := t.hash % uint64(len(fresh))
			fresh[i] = append(fresh[i], t)
		}
	}
	p.covered = max(p.covered, news.Upto)
	for i, told := range fresh {
		if len(told) > 0 {
			sh := ms.n.shards[i]
			sh.post(func() { sh.told(id, told) })
		}
	}
}

// dropped has the shards drop the members at a node. Callers hold mu.
func (ms *membership) dropped(id string) {
	for _, sh := range ms.n.shards {
		sh.post(func() { sh.dropNode(id) })
	}
}

// dropNode drops the members at a node that is no more.
func (sh *shard) dropNode(id string) {
	for r := range sh.followed() {
		r.gone(id)
	}
}

// doubtful reports whether it is not known who is in the cluster: this node is deaf,
// or another is silent and not known to be gone, or too old to tell.
func (ms *membership) doubtful() bool {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.deaf() {
		return true
	}
	for _, p := range ms.nodes {
		if p.older || time.Since(p.seen) > missedHeartbeats*ms.n.cfg.HeartbeatInterval {
			return true
		}
	}
	return false
}
