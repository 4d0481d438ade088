package edge

import (
	"context"
	"sync"
	"time"

	"github.com/headrace/headrace/router"
)

// Bounds of a pull.
const (
	maxPullJobs     = 100
	pullWaitDefault = 5 * time.Second
	minPullWait     = 100 * time.Millisecond // it takes that to know that there is nothing
	maxPullWait     = 20 * time.Second       // below the time of a call, and what proxies cut after
	pullHoldDefault = 30 * time.Second
	minPullHold     = 100 * time.Millisecond
	maxPullHold     = 24 * time.Hour

	// A pull begins with pullFirst credits and doubles them when it has that many jobs,
	// up to what was asked for, while the jobs have less than pullBytes: jobs can be
	// large, and what it got cannot be left.
	pullFirst = 4
	pullBytes = 4 << 20

	// pullLinger is how long it waits for one more job when it has some.
	pullLinger = 30 * time.Millisecond
	// pullLook is the time between looks at whether the node drains.
	pullLook = 100 * time.Millisecond
)

// pullMethod is offered over HTTP only: there the end of the caller is seen, and
// answers may be large. Workers with NATS use its own pull consumers.
const pullMethod = "queue_pull"

type apiPullRequest struct {
	Queue string `json:"queue"`
	Max   int    `json:"max"`
	Wait  string `json:"wait"`
	Hold  string `json:"hold"`
}

// check returns how long to wait for jobs and how long they are the caller's.
func (r *apiPullRequest) check() (wait, hold time.Duration, err error) {
	if wait, err = duration("wait", r.Wait); err != nil {
		return 0, 0, err
	}
	if hold, err = duration("hold", r.Hold); err != nil {
		return 0, 0, err
	}
	if r.Wait == "" {
		wait = pullWaitDefault
	}
	wait = max(wait, minPullWait)
	if r.Hold == "" {
		hold = pullHoldDefault
	}
	if r.Max == 0 {
		r.Max = 1
	}
	switch {
	case r.Max < 0 || r.Max > maxPullJobs:
		err = router.Errorf(router.CodeInvalid, "max is not within 1 to %d", maxPullJobs)
	case wait > maxPullWait:
		err = router.Errorf(router.CodeInvalid, "wait is longer than %v", maxPullWait)
	case hold < minPullHold || hold > maxPullHold:
		err = router.Errorf(router.CodeInvalid, "hold is not within %v to %v", minPullHold, maxPullHold)
	}
	return wait, hold, err
}

type apiPullResult struct {
	Jobs []queueJob `json:"jobs"`
}

// apiQueuePull takes jobs for a worker that is not connected. The jobs are the
// caller's for hold: they are given back with that as the grace (router.Worker), in
// which any node settles or extends them. When the caller is gone before the
// answer, they go back at once.
func (s *Server) apiQueuePull(ctx context.Context, req *apiPullRequest) (apiPullResult, error) {
	q, err := s.apiQueues(req.Queue)
	if err != nil {
		return apiPullResult{}, err
	}
	wait, hold, err := req.check()
	if err != nil {
		return apiPullResult{}, err
	}
	select {
	case s.pullSlots <- struct{}{}:
		defer func() { <-s.pullSlots }()
	default:
		return apiPullResult{}, router.Errorf(router.CodeTooMany, "pulling is exhausted: too many pulls wait on this node")
	}
	p := &pull{most: req.Max, got: make(chan struct{}, 1)}
	w, err := q.Pull(req.Queue, p.take)
	if err != nil {
		return apiPullResult{}, err
	}
	p.collect(ctx, w, wait, &s.draining)
	w.SetCredits(0)
	jobs := p.end()
	if ctx.Err() != nil {
		w.Close(0)
		return apiPullResult{}, router.Unavailable("pulling", ctx.Err())
	}
	w.Close(hold)
	return apiPullResult{Jobs: jobs}, nil
}

// pull collects the jobs of one call.
type pull struct {
	most int
	got  chan struct{} // one pending notice: there is another job

	mu    sync.Mutex // guards the fields below
	jobs  []queueJob
	bytes int
	ended bool

	granted int // credits so far
}

// take is called by the queue, which gives a job that comes after the end to others.
func (p *pull) take(j *router.Job) bool {
	job := toQueueJob(j)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.jobs = append(p.jobs, job)
	p.bytes += len(j.Payload)
	select {
	case p.got <- struct{}{}:
	default:
	}
	return true
}

// end returns the jobs; none come after it.
func (p *pull) end() []queueJob {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	if p.jobs == nil {
		return []queueJob{}
	}
	return p.jobs
}

// credits returns how many jobs to take in all, and whether they are there. It never
// takes back credits: a job may be on its way for each.
func (p *pull) credits() (n int, some, enough bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.jobs) >= p.granted {
		if p.granted == p.most || p.bytes >= pullBytes {
			return p.granted, true, true
		}
		p.granted = min(max(pullFirst, 2*p.granted), p.most)
	}
	return p.granted, len(p.jobs) > 0, false
}

// collect returns when there are enough jobs, when no more came for a moment, when
// wait is over, the caller gone, or the node about to stop.
func (p *pull) collect(ctx context.Context, w router.Worker, wait time.Duration, draining interface{ Load() bool }) {
	over, look := time.NewTimer(wait), time.NewTicker(pullLook)
	defer over.Stop()
	defer look.Stop()
	for {
		n, some, enough := p.credits()
		if enough {
			return
		}
		w.SetCredits(n)
		var linger <-chan time.Time
		if some {
			linger = time.After(pullLinger)
		}
		select {
		case <-p.got:
			continue
		case <-linger:
			return
		case <-over.C:
			return
		case <-ctx.Done():
			return
		case <-look.C:
			if draining.Load() {
				return
			}
		}
	}
}
