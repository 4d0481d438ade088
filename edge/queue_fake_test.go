package edge

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/headrace/headrace/router"
)

// fakeQueues is one queue, "jobs". It keeps what it was asked, and hands out jobs
// as the test says, within the credits.
type fakeQueues struct {
	router.Queues // what no test calls

	mu      sync.Mutex // guards the fields below
	log     []string
	workers []*fakeWorker
	fail    error // of the next calls
	letters []router.DeadLetter
	pushed  []router.NewJob
}

type fakeWorker struct {
	q       *fakeQueues
	take    func(*router.Job) bool
	credits int
	closed  bool
}

func (f *fakeQueues) note(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, fmt.Sprintf(format, args...))
	return f.fail
}

// asked returns what was asked since the last call.
func (f *fakeQueues) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	log := f.log
	f.log = nil
	return log
}

func (f *fakeQueues) Push(_ context.Context, queue string, j router.NewJob) (router.Pushed, error) {
	if err := j.Validate(); err != nil {
		return router.Pushed{}, err
	}
	err := f.note("push %s %s user=%q key=%q prio=%q delay=%v max=%d", queue, j.Payload, j.User, j.IdempotencyKey, j.Priority, j.Delay, j.MaxAttempts)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pushed = append(f.pushed, j)
	return router.Pushed{ID: "id-1", Duplicate: j.IdempotencyKey == "used"}, err
}

func (f *fakeQueues) Pull(queue string, take func(*router.Job) bool) (router.Worker, error) {
	if err := f.note("pull %s", queue); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &fakeWorker{q: f, take: take}
	f.workers = append(f.workers, w)
	return w, nil
}

func (f *fakeQueues) Ack(_ context.Context, queue, token string) error {
	return f.settle("ack", queue, token, "")
}

func (f *fakeQueues) Nack(_ context.Context, queue, token string, n router.Nack) error {
	return f.settle("nack", queue, token, fmt.Sprintf(" %q final=%t delay=%v", n.Error, n.Final, n.Delay))
}

func (f *fakeQueues) Extend(_ context.Context, queue, token string) error {
	return f.settle("extend", queue, token, "")
}

func (f *fakeQueues) settle(what, queue, token, rest string) error {
	if token == "foreign" {
		return router.Errorf(router.CodeInvalid, "the job token is not valid")
	}
	return f.note("%s %s %s%s", what, queue, token, rest)
}

func (f *fakeQueues) Drain(_ context.Context, grace time.Duration) {
	_ = f.note("drain %v", grace) // it has no error
}

func (f *fakeQueues) ListDead(_ context.Context, queue string, from uint64, limit int) ([]router.DeadLetter, error) {
	return f.letters, f.note("dead %s %d %d", queue, from, limit)
}

func (f *fakeQueues) Redrive(_ context.Context, queue string, seqs []uint64) (int, error) {
	return 3, f.note("redrive %s %v all=%t", queue, seqs, seqs == nil)
}

func (w *fakeWorker) SetCredits(n int) {
	w.q.mu.Lock()
	w.credits = n
	w.q.mu.Unlock()
	_ = w.q.note("credits %d", n)
}

func (w *fakeWorker) Close(grace time.Duration) {
	w.q.mu.Lock()
	w.closed = true
	w.q.workers = slices.DeleteFunc(w.q.workers, func(o *fakeWorker) bool { return o == w })
	w.q.mu.Unlock()
	_ = w.q.note("close %v", grace)
}

// worker returns the newest worker.
func (f *fakeQueues) worker() *fakeWorker {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.workers[len(f.workers)-1]
}

// withQueue gives an edge the queue "jobs" with rules.
func withQueue(f *fakeQueues, rules router.Queue) func(*Config) {
	return func(c *Config) {
		rules.Name = "jobs"
		c.Queues, c.QueueRules = f, []router.Queue{rules}
	}
}

// openQueue lets every user push and work.
var openQueue = router.Queue{AllowPush: true, AllowWork: true}
