package webhook

import (
	"context"
	"sync"
	"time"

	"github.com/headrace/headrace/router"
)

// lease keeps a job in hand: it restarts the ack wait at each third of it.
type lease struct {
	w      *worker
	j      *router.Job
	ctx    context.Context // ends with the lease
	cancel context.CancelFunc

	mu    sync.Mutex // guards the fields below
	timer *time.Timer
	ended bool
	wg    sync.WaitGroup // of the extension under way
}

// extend begins to keep j, until end.
func (w *worker) extend(j *router.Job) *lease {
	l := &lease{w: w, j: j}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(w.ackWait/3, l.again)
	return l
}

func (l *lease) again() {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return
	}
	l.wg.Add(1)
	l.mu.Unlock()
	defer l.wg.Done()
	ctx, cancel := context.WithTimeout(l.ctx, l.w.ackWait/3)
	defer cancel()
	if err := l.w.queues.Extend(ctx, l.w.queue, l.j.Token); err != nil && l.ctx.Err() == nil {
		l.w.log.Debug("webhook job not kept", "job", l.j.ID, "err", err) // the next third tries again
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.timer.Reset(l.w.ackWait / 3)
	}
}

// end lets go of the job and returns when nothing is under way for it.
func (l *lease) end() {
	l.mu.Lock()
	l.ended = true
	l.timer.Stop()
	l.mu.Unlock()
	l.cancel()
	l.wg.Wait()
}
