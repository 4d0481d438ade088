package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/router"
)

// worker implements router.Worker. Guarded by puller.mu, but for what is fixed.
type worker struct {
	p       *puller
	takeJob func(*router.Job) bool

	credits int
	holds   int
}

// heldKey names a message of the queue.
type heldKey struct {
	stream int
	seq    uint64
}

// held is a job in the hands of a worker.
type held struct {
	w     *worker
	ack   string
	until time.Time // then it is anybody's
}

// maxCredits bounds the jobs that one worker holds.
const maxCredits = 10_000

// Pull gives jobs to a worker.
func (s *Store) Pull(name string, take func(*router.Job) bool) (router.Worker, error) {
	q, err := s.queue(name)
	if err != nil {
		return nil, err
	}
	w := &worker{p: q.puller, takeJob: take}
	p := q.puller
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.draining {
		return nil, router.Errorf(router.CodeUnavailable, "this node is being drained")
	}
	p.workers = append(p.workers, w)
	return w, nil
}

// SetCredits sets how many jobs the worker may hold.
func (w *worker) SetCredits(n int) {
	w.p.mu.Lock()
	w.credits = min(max(n, 0), maxCredits)
	w.p.mu.Unlock()
	w.p.notify()
}

// Close gives the worker's jobs back.
func (w *worker) Close(grace time.Duration) {
	p := w.p
	p.mu.Lock()
	p.workers = slices.DeleteFunc(p.workers, func(o *worker) bool { return o == w })
	acks := p.releaseLocked(func(h *held) bool { return h.w == w })
	p.mu.Unlock()
	for _, ack := range acks {
		p.q.s.nak(ack, grace)
	}
	p.again.Store(true)
	p.notify()
}

// releaseLocked forgets the jobs that which selects and returns their acks.
func (p *puller) releaseLocked(which func(*held) bool) (acks []string) {
	for key, h := range p.held {
		if which(h) {
			delete(p.held, key)
			h.w.holds--
			acks = append(acks, h.ack)
		}
	}
	return acks
}

// Drain ends the handing out and gives all jobs back.
func (s *Store) Drain(ctx context.Context, grace time.Duration) {
	for _, q := range s.queues {
		q.puller.drain()
	}
	for _, q := range s.queues {
		p := q.puller
		select {
		case <-p.stopped:
		case <-ctx.Done():
		}
		p.mu.Lock()
		acks := p.releaseLocked(func(*held) bool { return true })
		p.mu.Unlock()
		for _, ack := range acks {
			s.nak(ack, grace)
		}
	}
}

func (p *puller) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.draining {
		p.draining = true
		close(p.stop)
	}
}

// free returns how many more jobs all workers can take, and how many in all.
func (p *puller) free() (free, all int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.workers {
		free += max(w.credits-w.holds, 0)
		if planted.Bug(planted.TooManyCredits) {
			free += w.holds
		}
		all += w.credits
	}
	return free, all
}

// take hands a job to the next worker that can take it. A job that was tried too
// often goes to the dead letters instead: whoever had it vanished (rule Q2).
func (p *puller) take(m *nats.Msg) {
	d, err := parseAck(m.Reply)
	if err != nil {
		return // not from a consumer
	}
	st, ok := p.q.streamOf(d.stream)
	if !ok {
		return
	}
	a := p.q.attempt(&stored{subject: m.Subject, seq: d.seq, time: d.stored, header: m.Header, data: m.Data}, d)
	if a.number > a.max {
		if !p.q.s.background(func(ctx context.Context) { p.q.buryVanished(ctx, &a) }) {
			p.q.s.nak(d.ack, time.Second)
		}
		return
	}
	w := p.assign(heldKey{st, d.seq}, d.ack)
	if w == nil || !w.takeJob(p.q.job(&a, d)) { // its worker left while the job was under way
		p.release(d)
		if !p.q.s.background(func(ctx context.Context) { p.q.putBack(ctx, &a) }) {
			p.q.s.nak(d.ack, time.Second)
		}
		return
	}
	if planted.Bug(planted.ForgetsOnDelivery) {
		_ = p.q.s.req.Send(&nats.Msg{Subject: d.ack, Data: []byte(ackDone)})
	}
	p.q.s.metrics.attempted(p.q.cfg.Name, a.number > 1)
}

// job is what a worker gets of an attempt.
func (q *queue) job(a *attempt, d delivery) *router.Job {
	return &router.Job{
		ID: a.env.id, Queue: q.cfg.Name, Priority: a.priority, Attempt: a.number, MaxAttempts: a.max,
		Token: q.token(d), Payload: a.payload, Headers: a.env.jobHeaders(), Origin: a.env.origin,
		LastError: a.env.lastError, Redriven: a.env.redriven,
	}
}

// buryVanished makes a dead letter of a job whose workers vanished. When that
// fails the job comes again.
func (q *queue) buryVanished(ctx context.Context, a *attempt) {
	if a.env.lastError == "" {
		a.env.lastError = "the worker vanished"
	}
	if err := q.bury(ctx, a, router.DeadVanished); err != nil {
		q.s.cfg.Log.Warn("dead letter not stored", "queue", q.cfg.Name, "err", err)
	}
}

// putBack has a job that no worker saw given out as the same attempt again: a
// delivery counts (rule Q2), so giving it back alone would cost a job with one
// attempt its life. What fails here costs an attempt. A job that was ended
// meanwhile, by a worker that had it before, stays ended.
func (q *queue) putBack(ctx context.Context, a *attempt) {
	if _, err := q.s.get(ctx, a.stream, map[string]any{"seq": a.seq}); errors.Is(err, errNotStored) {
		return
	}
	same := a.env
	same.attempt = a.number
	id := fmt.Sprintf("back:%s:%s:%d:%d", same.run(), a.stream, a.seq, a.delivered)
	_, err := q.s.publish(ctx, q.due(&same, a.payload, a.priority, id))
	if err == nil {
		err = q.s.settle(ctx, a.ack, ackDone)
	}
	if err != nil {
		q.s.nak(a.ack, 0)
	}
}

func (p *puller) assign(key heldKey, ack string) *worker {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.workers {
		w := p.workers[(p.next+i)%len(p.workers)]
		if w.holds >= w.credits && !planted.Bug(planted.TooManyCredits) {
			continue
		}
		p.next = (p.next + i + 1) % len(p.workers)
		if old := p.held[key]; old != nil {
			old.w.holds-- // it let the job expire and got it, or another did
		}
		w.holds++
		p.held[key] = &held{w: w, ack: ack, until: time.Now().Add(p.q.cfg.AckWait)}
		return w
	}
	return nil
}

// forget notes that the job of d was settled.
func (p *puller) forget(d delivery) {
	p.release(d)
	p.notify()
}

// release takes the job of d out of its worker's hands.
func (p *puller) release(d delivery) {
	st, _ := p.q.streamOf(d.stream)
	key := heldKey{st, d.seq}
	p.mu.Lock()
	if h := p.held[key]; h != nil {
		delete(p.held, key)
		h.w.holds--
	}
	p.mu.Unlock()
}

// prolong notes that the ack wait of d starts anew.
func (p *puller) prolong(d delivery) {
	st, _ := p.q.streamOf(d.stream)
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.held[heldKey{st, d.seq}]; h != nil {
		h.until = time.Now().Add(p.q.cfg.AckWait)
	}
}

// expire forgets the jobs whose ack wait ended: NATS gives them to others, and
// their workers can take another one.
func (p *puller) expire(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.releaseLocked(func(h *held) bool { return now.After(h.until) })
}
