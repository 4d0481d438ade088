package persistence

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"crypto/rand"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// keyQueue holds the appends to one key in order. One goroutine works on it while
// there is work and is gone afterwards; it exists in stream.queues as long.
// Guarded by stream.mu.
type keyQueue struct {
	waiting []*pending
}

// pending is an append that was not answered yet.
type pending struct {
	entry router.Entry // Number, Life and Seq are filled when it is stored
	bytes int64
	done  func(router.Entry, bool, error)
	plan  plan // nil: entry is stored as it is
	// rebirth makes the entry the first of a new life.
	rebirth bool

	// Owned by the key's goroutine once it was taken from the queue.
	deadline time.Time // no attempt starts later; set before the first one
	tried    []uint64  // numbers of attempts whose outcome is not known (W2)
	foundAt  time.Time // when one of them was first found, see settled
	refused  bool      // see noneLands
}

// plan makes an entry of what is current when its turn has come, for one append.
type plan interface {
	// prepare returns the entry to store behind h. Its errors are final unless they
	// are temporary.
	prepare(ctx context.Context, h head) (router.Entry, error)
	// stored runs when e was stored, before any other entry of the key that this
	// edge appends. On error the append has failed: it may have been stored.
	stored(ctx context.Context, e *router.Entry) error
	// lost is told that somebody else stored an entry first. It returns a newer head
	// if it knows one.
	lost(h head) (head, bool)
}

// budget bounds the bytes that wait in all queues of a namespace.
type budget struct {
	limit int64
	used  atomic.Int64
}

func (b *budget) take(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// entryOverhead stands for the memory of a waiting append besides its bytes.
const entryOverhead = 256

var errClosing = errors.New("store is closing")

// append queues one entry. done is called from a goroutine of the stream's.
func (p *stream) append(key string, e router.Entry, done func(e router.Entry, duplicate bool, err error)) {
	if e.ID == "" {
		e.ID = rand.Text()
	}
	q := &pending{entry: e, bytes: int64(len(e.Data)+len(e.Meta)) + entryOverhead, done: done}
	if err := p.enqueue(key, q); err != nil {
		go done(router.Entry{}, false, err)
	}
}

func (p *stream) enqueue(key string, q *pending) error {
	if !p.budget.take(q.bytes) {
		p.metrics.refused.Add(refusedBytes)
		return router.Errorf(router.CodeLimit, "too many publications are waiting to be stored")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		p.budget.give(q.bytes)
		return router.Unavailable("history", errClosing)
	}
	kq := p.queues[key]
	if kq == nil {
		kq = &keyQueue{}
		p.queues[key] = kq
		p.writers.Add(1)
		go p.work(key, kq)
	} else if len(kq.waiting) >= p.cfg.MaxQueuedPerKey {
		p.budget.give(q.bytes)
		p.metrics.refused.Add(refusedKey)
		return router.Errorf(router.CodeLimit, "too many publications are waiting in this channel")
	}
	kq.waiting = append(kq.waiting, q)
	return nil
}

// work stores what waits for key until nothing does.
func (p *stream) work(key string, kq *keyQueue) {
	defer p.writers.Done()
	w := writer{p: p, key: key}
	for {
		p.mu.Lock()
		if len(kq.waiting) == 0 {
			delete(p.queues, key)
			p.mu.Unlock()
			return
		}
		n := p.groupSize(kq.waiting)
		group := slices.Clone(kq.waiting[:n])
		kq.waiting = slices.Delete(kq.waiting, 0, n)
		p.mu.Unlock()
		w.store(group)
	}
}

// groupSize returns how many of the appends that wait go together, at least one.
func (p *stream) groupSize(waiting []*pending) int {
	if !p.batches {
		return 1
	}
	most := min(len(waiting), int(p.slots), maxBatch)
	if waiting[0].plan != nil {
		most = min(most, together(waiting, max(int(p.slots/2), 1)))
	}
	bytes := waiting[0].bytes
	for n := 1; n < most; n++ {
		if bytes += waiting[n].bytes; bytes > maxBatchBytes {
			return n
		}
	}
	return most
}

// close lets the attempts under way end, fails those that wait, and returns when
// no goroutine of the stream's is left.
func (p *stream) close() {
	p.mu.Lock()
	p.closed = true
	var rest []*pending
	for _, kq := range p.queues {
		rest = append(rest, kq.waiting...)
		kq.waiting = nil
	}
	p.mu.Unlock()
	for _, q := range rest {
		p.budget.give(q.bytes)
		q.done(router.Entry{}, false, router.Unavailable("history", errClosing))
	}
	p.writers.Wait()
}

func (p *stream) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// conflicted reports whether a compare-and-set lost.
func conflicted(err error) bool {
	var refusal *jet.APIError
	return errors.As(err, &refusal) &&
		(refusal.ErrCode == jet.CodeWrongLastSequence || refusal.ErrCode == jet.CodeLastSequenceBusy)
}

// inFlight reports whether the leader is still busy with an earlier attempt.
func inFlight(err error) bool {
	var refusal *jet.APIError
	return errors.As(err, &refusal) && refusal.ErrCode == jet.CodeDuplicateInFlight
}

// refusedForGood reports whether the stream will never take the entry.
func refusedForGood(err error) bool {
	var refusal *jet.APIError
	return errors.As(err, &refusal) && refusal.Code == 400 && !conflicted(err) && !inFlight(err) && !brokenBatch(err)
}

// brokenBatch reports whether an atomic batch was refused because of what it is: it holds
// an id that was stored before, or a part of it did not arrive, for instance.
func brokenBatch(err error) bool {
	var refusal *jet.APIError
	return errors.As(err, &refusal) && refusal.Code == 400 && strings.Contains(refusal.Text, "batch")
}

// appendTimeout bounds the first attempt. It is far above a slow disk's latency;
// a leader that steps down forgets what was under way and never answers. Each
// attempt without an answer doubles it, up to four times, so that an overloaded
// cluster is not asked ever more.
const appendTimeout = time.Second

// attemptContext ends after the time for an attempt that follows unanswered ones,
// or at deadline.
func (p *stream) attemptContext(deadline time.Time, unanswered int) (context.Context, context.CancelFunc) {
	if d := time.Now().Add(appendTimeout << min(unanswered, 2)); d.Before(deadline) {
		deadline = d
	}
	return context.WithDeadline(context.Background(), deadline)
}
