package persistence

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/headrace/headrace/router"
)

// A key expires by the clock of whoever reads it. That subscribers hear of it, and
// that its place is freed, is a removal like any other, appended by an edge that knew
// when: the one that set the key at once, those that have read it or follow the
// channel a moment later, if nobody did.
const (
	watchGrace = time.Second            // how much longer those wait who did not set the key
	sweepEvery = 200 * time.Millisecond // how often what is due is looked for
	// maxExpiring bounds the keys whose expiry a partition remembers, at about 200
	// bytes each. Those above are found by the scan.
	maxExpiring = 200_000
	// sweepAtOnce bounds the removals under way, maxSweep those of one look.
	sweepAtOnce = 64
	maxSweep    = 4096
)

type expiring struct {
	id      keyID
	version uint64
	life    string
	at      time.Time
	index   int
}

// expiryQueue holds keys that expire, soonest first.
type expiryQueue struct {
	mu   sync.Mutex // guards the fields below
	heap expiryHeap
	byID map[keyID]*expiring
}

func newExpiryQueue() *expiryQueue { return &expiryQueue{byID: make(map[keyID]*expiring)} }

// saw notes that e is a version of its key. What is known to be newer stays.
func (p *keyPart) saw(channel string, e *router.Entry, grace time.Duration) {
	m := e.Mark
	if m == nil {
		return
	}
	q := p.expiry
	id := keyID{channel, m.Key}
	q.mu.Lock()
	defer q.mu.Unlock()
	have := q.byID[id]
	if have != nil && have.life == m.Life && have.version >= m.Version {
		return
	}
	if have != nil {
		heap.Remove(&q.heap, have.index)
		delete(q.byID, id)
	}
	if m.Expires == 0 || m.Removed || len(q.heap) >= maxExpiring {
		return
	}
	if grace > 0 {
		grace += rand.N(grace)
	}
	x := &expiring{id: id, version: m.Version, life: m.Life, at: time.UnixMilli(m.Expires).Add(grace)}
	q.byID[id] = x
	heap.Push(&q.heap, x)
}

// due takes what expired before now, at most limit.
func (q *expiryQueue) due(now time.Time, limit int) (all []*expiring) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(all) < limit && len(q.heap) > 0 && !q.heap[0].at.After(now) {
		x := heap.Pop(&q.heap).(*expiring)
		delete(q.byID, x.id)
		all = append(all, x)
	}
	return all
}

// again puts x back, to be tried later.
func (q *expiryQueue) again(x *expiring, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.byID[x.id] == nil && len(q.heap) < maxExpiring {
		x.at = at
		q.byID[x.id] = x
		heap.Push(&q.heap, x)
	}
}

// sweep removes keys that expired, until ctx ends.
func (p *keyPart) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	defer p.tails.prune(true)
	slots := make(chan struct{}, sweepAtOnce)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.tails.prune(false)
		for _, x := range p.expiry.due(time.Now(), maxSweep) {
			select {
			case slots <- struct{}{}:
				p.expire(x, func() { <-slots })
			case <-ctx.Done():
				return
			}
		}
	}
}

// expire removes x if it is still what its key is.
func (p *keyPart) expire(x *expiring, done func()) {
	u := router.KeyUpdate{Key: x.id.key, Decide: func(cur router.StateEntry) (router.Decision, error) {
		if cur.Version != x.version || cur.Life != x.life || cur.Removed {
			return router.Decision{Refuse: router.ReasonConflict}, nil
		}
		if !cur.ExpiredAt(time.Now()) {
			return router.Decision{Refuse: router.ReasonConflict}, nil
		}
		return router.Decision{Remove: true}, nil
	}}
	p.change(x.id.channel, u, func(_ router.Changed, err error) {
		if err != nil {
			p.expiry.again(x, time.Now().Add(5*time.Second+rand.N(5*time.Second)))
		}
		done()
	})
}

// expiryHeap implements heap.Interface.
type expiryHeap []*expiring

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h expiryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *expiryHeap) Push(x any) {
	e := x.(*expiring)
	e.index = len(*h)
	*h = append(*h, e)
}

func (h *expiryHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
