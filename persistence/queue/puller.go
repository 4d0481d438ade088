package queue

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/router"
)

// puller hands the jobs of a queue to this node's workers. It asks for as many as
// the workers can take and no more, so that no job waits here while a worker of
// another node is free.
//
// It asks without waiting and is told by NATS when a job is stored (the streams
// republish headers). Jobs that come back are not told; a look each pollInterval
// finds them.
type puller struct {
	q       *queue
	changed chan struct{} // one pending notice: credits, or ends
	stop    chan struct{} // closed by drain
	stopped chan struct{} // closed when nothing is asked for any more
	msgs    chan *nats.Msg

	// Owned by run.
	sources  [6]source
	schedule schedule
	lastAsk  time.Time

	mu       sync.Mutex // guards the fields below
	workers  []*worker
	next     int // worker to look at first
	held     map[heldKey]*held
	draining bool

	again atomic.Bool // jobs were given back: all sources are worth a look
}

const (
	pollInterval = time.Second
	// maxAsk bounds the messages asked for at once.
	maxAsk = 256
	// stuckAfter is when a request without an answer gets no more credits: its
	// consumer is paused, full, or without a leader. answerTimeout is when it is
	// given up.
	stuckAfter = 250 * time.Millisecond
	// patience is how long few free credits (less than 1/patienceShare) wait for
	// more to be free, so that a busy queue is not asked for every single job.
	patience      = 5 * time.Millisecond
	patienceShare = 8
	// A consumer learns of a job a little after the notice of it went out, on another
	// node than its stream's leader later still. So for a while after a notice
	// "nothing there" is not believed: lagTries times lagPause.
	lagTries      = 8
	answerTimeout = 5 * time.Second
)

func newPuller(q *queue) *puller {
	p := &puller{
		q: q, changed: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
		msgs: make(chan *nats.Msg, 6*maxAsk+64), held: make(map[heldKey]*held),
	}
	for i := range p.sources {
		st, priority := i%2, router.Priorities[i/2]
		infix := ""
		if st == retries {
			infix = "due."
		}
		p.sources[i] = source{
			stream: q.streams[st].name, index: st, priority: priority,
			filter: q.streams[st].subjects + infix + string(priority), weight: weights[priority], ready: true,
		}
	}
	return p
}

// run hands out jobs until ctx ends or drain is called.
func (p *puller) run(ctx context.Context) {
	defer close(p.stopped)
	wake := make(chan *nats.Msg, 1024) // a lost notice costs pollInterval at most
	sub, err := p.q.s.nc.ChanSubscribe(p.q.s.wakeSubject(p.q.cfg.Name)+">", wake)
	if err != nil {
		p.q.s.cfg.Log.Error("queue not handed out", "queue", p.q.cfg.Name, "err", err)
		return
	}
	defer sub.Unsubscribe() //nolint:errcheck // fails only when the connection is closed
	defer p.unsubscribe()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	stop := p.stop
	var last <-chan time.Time // set while draining
	wait := time.NewTimer(patience)
	defer wait.Stop()
	for {
		if stop != nil {
			if again := p.ask(); again > 0 {
				wait.Reset(again)
			}
		} else if p.outstanding() == 0 {
			return
		}
		select {
		case <-wait.C:
		case <-ctx.Done():
			return
		case <-stop:
			stop = nil
			last = time.After(answerTimeout)
		case <-last:
			return
		case <-p.changed:
			if p.again.Swap(false) {
				p.look()
			}
		case m := <-wake:
			p.woken(m)
		case m := <-p.msgs:
			p.receive(m)
		case <-tick.C:
			p.poll()
		}
	}
}

// poll has every source looked at again and forgets jobs that workers let
// expire.
func (p *puller) poll() {
	now := time.Now()
	for i := range p.sources {
		src := &p.sources[i]
		if src.asked > 0 && now.Sub(src.since) > answerTimeout {
			src.renew() // what arrives for the old request is given back
		}
	}
	p.expire(now)
	p.look()
}

// look makes every source worth a question.
func (p *puller) look() {
	for i := range p.sources {
		p.sources[i].ready = true
		p.sources[i].wakes++
	}
}

func (p *puller) outstanding() int {
	n := 0
	for i := range p.sources {
		n += p.sources[i].asked
	}
	return n
}

// ask distributes the free credits over the sources by weight and asks for the
// jobs. It returns when to come back, 0 when something will happen anyhow.
func (p *puller) ask() (again time.Duration) {
	free, all := p.free()
	now := time.Now()
	for i := range p.sources {
		src := &p.sources[i]
		if src.wanted > 0 && !src.eligible(now) {
			src.wanted = 0
		}
		free -= src.asked + src.wanted
	}
	if free > 0 {
		again = p.lagging(now)
	}
	if rest := patience - now.Sub(p.lastAsk); free > 0 && free < all/patienceShare && rest > 0 {
		free, again = 0, rest
	}
	for ; free > 0; free-- {
		i := p.schedule.next(func(i int) int {
			if src := &p.sources[i]; src.eligible(now) && src.wanted < maxAsk {
				return src.weight
			}
			return 0
		})
		if i < 0 {
			break
		}
		p.sources[i].wanted++
	}
	for i := range p.sources {
		if src := &p.sources[i]; src.wanted > 0 && src.asked == 0 {
			p.request(src, now)
			p.lastAsk = now
		}
	}
	return again
}

// lagPause is the time between two questions after a notice.
func (p *puller) lagPause() time.Duration {
	if p.q.s.cfg.Replicas > 1 {
		return 30 * time.Millisecond
	}
	return 5 * time.Millisecond
}

// lagging returns when the next source may be asked again, 0 when none waits for
// that.
func (p *puller) lagging(now time.Time) (wait time.Duration) {
	for i := range p.sources {
		if src := &p.sources[i]; src.ready && src.asked == 0 && now.Before(src.notBefore) {
			if d := src.notBefore.Sub(now); wait == 0 || d < wait {
				wait = d
			}
		}
	}
	return wait
}

// request sends what is wanted of src.
func (p *puller) request(src *source, now time.Time) {
	nc := p.q.s.nc
	if src.sub == nil {
		inbox := nc.NewInbox()
		sub, err := nc.ChanSubscribe(inbox, p.msgs)
		if err != nil {
			src.ready, src.wanted = false, 0
			return
		}
		src.sub, src.inbox = sub, inbox
	}
	body, err := json.Marshal(map[string]any{"batch": src.wanted, "no_wait": true})
	if err == nil {
		err = nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+src.stream+"."+string(src.priority), src.inbox, body)
	}
	if err != nil { // disconnected: the next poll tries again
		src.ready, src.wanted = false, 0
		return
	}
	src.asked, src.wanted, src.since, src.wakesThen = src.wanted, 0, now, src.wakes
}

// receive takes a job, or the word that there is none.
func (p *puller) receive(m *nats.Msg) {
	var src *source
	for i := range p.sources {
		if p.sources[i].sub == m.Sub {
			src = &p.sources[i]
		}
	}
	if m.Reply != "" { // a job
		if src != nil && src.asked > 0 {
			src.asked--
		}
		p.take(m)
		return
	}
	if src == nil {
		return
	}
	src.asked = 0
	now := time.Now()
	switch {
	case src.wakes != src.wakesThen: // something was stored since the question
	case now.Sub(src.lastWake) < lagTries*p.lagPause():
		src.notBefore = now.Add(p.lagPause())
	default:
		src.ready = false
	}
}

// woken notes that a job was stored.
func (p *puller) woken(m *nats.Msg) {
	tail := m.Subject[len(p.q.s.wakeSubject(p.q.cfg.Name)):] // "0.high"
	for i := range p.sources {
		src := &p.sources[i]
		if len(tail) > 2 && int(tail[0]-'0') == src.index && tail[2:] == string(src.priority) {
			src.ready, src.lastWake = true, time.Now()
			src.wakes++
		}
	}
}

func (p *puller) unsubscribe() {
	for i := range p.sources {
		p.sources[i].renew()
	}
}

// notify has run look at the credits again.
func (p *puller) notify() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}
