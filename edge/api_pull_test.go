package edge

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headrace/headrace/router"
)

// pullQueues has one queue and hands out what the test puts there.
type pullQueues struct {
	router.Queues // nil: nothing else is called

	mu      sync.Mutex // guards the fields below
	waiting int        // jobs that are there
	size    int        // of each, in bytes
	holds   int
	log     []string
}

func (q *pullQueues) Names() []string { return []string{"q"} }

func (q *pullQueues) Pull(_ string, take func(*router.Job) bool) (router.Worker, error) {
	return &pullWorker{q: q, take: take}, nil
}

type pullWorker struct {
	q    *pullQueues
	take func(*router.Job) bool
}

func (w *pullWorker) SetCredits(n int) {
	w.q.mu.Lock()
	defer w.q.mu.Unlock()
	w.q.log = append(w.q.log, fmt.Sprint(n))
	for ; w.q.holds < n && w.q.waiting > 0; w.q.waiting-- {
		w.q.holds++
		payload := []byte(`"` + strings.Repeat("x", w.q.size) + `"`)
		go w.take(&router.Job{ID: "j", Payload: payload})
	}
}

func (w *pullWorker) Close(grace time.Duration) {
	w.q.mu.Lock()
	defer w.q.mu.Unlock()
	w.q.log = append(w.q.log, "close "+grace.String())
}

func TestPull(t *testing.T) {
	for name, tt := range map[string]struct {
		body    string
		waiting int
		size    int
		gone    time.Duration // when the caller goes away; 0 is never
		drain   time.Duration // when the node drains; 0 is never
		jobs    int           // -1: an error
		took    time.Duration
		log     string // credits that were set, and the close
	}{
		"credits double until there are enough":  {`{"queue":"q","max":20}`, 100, 1, 0, 0, 20, 0, "4 8 16 20 0 close 30s"},
		"the first job is waited for, not more":  {`{"queue":"q","max":20}`, 1, 1, 0, 0, 1, pullLinger, "4 0 close 30s"},
		"nothing there":                          {`{"queue":"q","wait":"2s"}`, 0, 1, 0, 0, 0, 2 * time.Second, "1 0 close 30s"},
		"large jobs are few, none is left":       {`{"queue":"q","max":100,"hold":"1m"}`, 100, pullBytes / 4, 0, 0, 4, 0, "4 0 close 1m0s"},
		"a caller that goes away without a job":  {`{"queue":"q","wait":"10s"}`, 0, 1, time.Second, 0, -1, time.Second, "1 0 close 0s"},
		"a caller that goes away with some jobs": {`{"queue":"q","max":20}`, 2, 1, pullLinger / 2, 0, -1, pullLinger / 2, "4 0 close 0s"},
		"a node that drains answers":             {`{"queue":"q","wait":"10s"}`, 0, 1, 0, time.Second, 0, time.Second + pullLook, "1 0 close 30s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &pullQueues{waiting: tt.waiting, size: tt.size}
				s := &Server{cfg: &Config{Queues: q}, pullSlots: make(chan struct{}, 1)}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.gone > 0 {
					time.AfterFunc(tt.gone, cancel)
				}
				if tt.drain > 0 {
					time.AfterFunc(tt.drain, func() { s.draining.Store(true) })
				}
				start := time.Now()
				result, err := strictMethod(s.apiQueuePull)(ctx, []byte(tt.body))
				got := -1
				if err == nil {
					got = len(result.(apiPullResult).Jobs)
				}
				if took := time.Since(start); got != tt.jobs || took > tt.took {
					t.Errorf("%d jobs after %v (%v), want %d within %v", got, took, err, tt.jobs, tt.took)
				}
				if log := strings.Join(compact(q.log), " "); log != strings.Join(compact(strings.Split(tt.log, " ")), " ") {
					t.Errorf("the queue saw %s, want %s", log, tt.log)
				}
				if len(s.pullSlots) != 0 {
					t.Error("a slot was not given back")
				}
			})
		})
	}
}

// compact returns log without repetitions: how many looks a pull takes is its own.
func compact(log []string) []string {
	var out []string
	for _, l := range strings.Fields(strings.Join(log, " ")) {
		if len(out) == 0 || out[len(out)-1] != l {
			out = append(out, l)
		}
	}
	return out
}

func TestE10PullsAreBounded(t *testing.T) {
	s := &Server{cfg: &Config{Queues: &pullQueues{}}, pullSlots: make(chan struct{}, 1)}
	s.pullSlots <- struct{}{}
	if _, err := s.apiQueuePull(t.Context(), &apiPullRequest{Queue: "q"}); router.CodeOf(err) != router.CodeTooMany {
		t.Errorf("got %v, want too many", err)
	}
}
