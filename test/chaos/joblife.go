package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/test/check"
)

// jobLoad is what is pushed and worked on in a run.
type jobLoad struct {
	pushers, workers sync.WaitGroup
	finished         chan struct{} // the workers'
}

// floodJobs are pushed of each priority before there is any worker, and without
// faults, to see that low priority progresses.
const floodJobs = 400

// beginJobs floods the work queue, lets the workers in, and then pushes until stop
// is closed.
func (r *run) beginJobs(ctx context.Context, stop <-chan struct{}) *jobLoad {
	l := &jobLoad{finished: make(chan struct{})}
	if !r.jobs {
		return l
	}
	r.flood()
	for _, w := range r.workforce() {
		l.workers.Go(func() { w.work(l.finished) })
	}
	l.workers.Go(func() { r.workNATS(ctx, "plain", l.finished) })
	l.workers.Go(func() { r.redrive(ctx, l.finished) })
	pushers, every := 2, 300*time.Millisecond
	r.toPush.Store(1 << 40)
	if r.count > 0 {
		// All are pushed within three quarters of the time, if the cluster keeps up.
		pushers = 8
		every = time.Duration(int64(r.duration) * 3 / 4 / int64(max(r.count/(3*pushers), 1)))
		r.toPush.Store(int64(r.count))
	}
	for _, kind := range []publisherKind{byAPI, bySocket, byNATS} {
		for n := range pushers {
			p := &pusher{r: r, kind: kind, name: fmt.Sprintf("%s%d", kind, n), spare: r.count > 0}
			l.pushers.Go(func() { p.pushUntil(stop, workQueue, every) })
		}
		if kind != byNATS { // which cannot delay
			p := &pusher{r: r, kind: kind, name: string(kind) + "-timed"}
			l.pushers.Go(func() { p.pushUntil(stop, timedQueue, 300*time.Millisecond) })
		}
		p := &pusher{r: r, kind: kind, name: string(kind) + "-hooked"}
		l.pushers.Go(func() { p.pushUntil(stop, hookQueue, 300*time.Millisecond) })
	}
	return l
}

// flood pushes jobs of all priorities at once.
func (r *run) flood() {
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			p := &pusher{r: r, kind: byAPI, name: fmt.Sprintf("flood%d", i)}
			for n := range 3 * floodJobs / 6 {
				name := p.next()
				p.push(newJob{queue: workQueue, name: name, payload: fmt.Sprintf("%q", doOK+" "+name), priority: []string{"high", "medium", "low"}[n%3]})
			}
		})
	}
	wg.Wait()
}

// workforce is workers of different habits: with few and many credits, who stay
// and who come and go.
func (r *run) workforce() []*worker {
	var list []*worker
	for i := range 8 {
		w := &worker{r: r, name: fmt.Sprintf("w%d", i+1), queue: workQueue, credits: []int{1, 4, 10, 25}[i%4]}
		if r.count > 0 {
			w.credits *= 4
		}
		if i%3 == 0 {
			w.stay = func() time.Duration { return 5*time.Second + randUpTo(20*time.Second) }
		}
		list = append(list, w)
	}
	for i := range 3 {
		list = append(list, &worker{r: r, name: fmt.Sprintf("t%d", i+1), queue: timedQueue, credits: 10})
	}
	return list
}

// redrive brings dead letters back whose jobs will be done then, now and again.
func (r *run) redrive(ctx context.Context, finished <-chan struct{}) {
	for {
		select {
		case <-finished:
			return
		case <-ctx.Done():
			return
		case <-time.After(3 * time.Second):
		}
		from := uint64(0)
		for {
			var page struct {
				Dead []struct {
					Seq  uint64
					Data json.RawMessage
				} `json:"dead"`
			}
			body, _ := json.Marshal(map[string]any{"queue": workQueue, "from": from, "limit": 500}) //nolint:errcheck // numbers
			if r.call(randEdge(), "dlq_list", body, &page) != nil || len(page.Dead) == 0 {
				break
			}
			for _, d := range page.Dead {
				from = d.Seq + 1
				if deedOf(d.Data) != doAgain {
					continue
				}
				r.history.Add(check.Event{Kind: check.Redrive, Channel: "queue:" + workQueue, Payload: string(d.Data), Job: &check.Job{}})
				body, _ := json.Marshal(map[string]any{"queue": workQueue, "seqs": []uint64{d.Seq}}) //nolint:errcheck // numbers
				r.call(randEdge(), "dlq_redrive", body, nil)                                         //nolint:errcheck // repeated when the letter is still there
			}
		}
	}
}

// drainBound is how long the workers may take for what is left when everything is
// mended, retries of jobs that fail included.
const drainBound = 90 * time.Second

// drained waits until nothing waits in the queues. What is left then is for the
// checker to judge.
func (r *run) drained(ctx context.Context) error {
	js, err := jetstream.New(r.c.nc)
	if err != nil {
		return err
	}
	bound := drainBound + time.Duration(r.count)*2*time.Millisecond
	for deadline := time.Now().Add(bound); time.Now().Before(deadline); {
		left := uint64(0)
		for _, q := range queueNames {
			for _, kind := range []string{"JOBS", "RETRY"} {
				s, err := js.Stream(ctx, "HR_"+kind+"_"+q)
				if err != nil {
					left++
					continue
				}
				left += s.CachedInfo().State.Msgs
			}
		}
		if left == 0 {
			return nil
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	return nil
}

// lastJobs reads what the queues hold in the end.
func (r *run) lastJobs(ctx context.Context) error {
	js, err := jetstream.New(r.c.nc)
	if err != nil {
		return err
	}
	for _, q := range queueNames {
		for kind, at := range map[string]string{"JOBS": "jobs", "RETRY": "retries", "DEAD": "dead"} {
			reading, cancel := context.WithTimeout(ctx, 60*time.Second)
			err := r.readStream(reading, js, "HR_"+kind+"_"+q, func(m *jetstream.RawStreamMsg) {
				r.history.Add(check.Event{Kind: check.Left, At: at, Channel: "queue:" + q, Payload: string(m.Data), Began: r.history.At(m.Time), Job: storedJob(m)})
			})
			cancel()
			if err != nil {
				return fmt.Errorf("what %s of queue %s holds in the end: %w", at, q, err)
			}
		}
	}
	return nil
}

// readStream reads a stream message by message.
func (r *run) readStream(ctx context.Context, js jetstream.JetStream, name string, f func(*jetstream.RawStreamMsg)) error {
	s, err := js.Stream(ctx, name)
	if err != nil {
		return err
	}
	last := s.CachedInfo().State.LastSeq
	for seq := uint64(1); seq <= last; seq++ {
		m, err := s.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(">"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		f(m)
		seq = m.Sequence
	}
	return nil
}

// storedJob reads the headers of a stored job or dead letter (docs/queue.md).
func storedJob(m *jetstream.RawStreamMsg) *check.Job {
	h := func(name string) string { return m.Header.Get("Headrace-" + name) }
	number := func(name string) (n int) {
		fmt.Sscan(h(name), &n) //nolint:errcheck // 0 when absent
		return n
	}
	j := &check.Job{
		ID: h("Job"), Priority: h("Priority"), Max: number("Max-Attempts"), Attempt: number("Attempt"), Redriven: number("Redriven"),
		Error: h("Error"), Reason: h("Reason"),
		Origin: fmt.Sprint(h("Origin-Subject"), " ", h("Origin-Sequence"), " ", h("Origin-Time")),
	}
	headers := make(map[string]string)
	for name, values := range m.Header {
		if !strings.HasPrefix(name, "Nats-") && !strings.HasPrefix(name, "Headrace-") {
			headers[name] = values[0]
		}
	}
	json.Unmarshal([]byte(h("Headers")), &headers) //nolint:errcheck // a job without
	j.Headers = spell(headers)
	return j
}
