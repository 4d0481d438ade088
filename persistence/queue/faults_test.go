package queue

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/router"
)

// book records what became of jobs.
type book struct {
	mu    sync.Mutex
	acked map[string]bool // the push was acknowledged
	done  map[string]bool // a worker's ack was acknowledged
}

// pushSome pushes jobs until ctx ends, those whose number ends in 7 with one
// attempt only.
func (b *book) pushSome(ctx context.Context, t *testing.T, s *Store, name string) {
	for n := 0; ctx.Err() == nil; n++ {
		id := fmt.Sprintf("%s-%d", name, n)
		j := router.NewJob{Payload: []byte(id), Priority: router.Priorities[n%3], MaxAttempts: 20}
		if n%10 == 7 {
			j.MaxAttempts = 1
		}
		if n%10 == 3 {
			j.Delay = 100 * time.Millisecond
		}
		_, err := s.Push(context.WithoutCancel(ctx), "q", j)
		if err == nil {
			b.mu.Lock()
			b.acked[id] = true
			b.mu.Unlock()
		} else if router.CodeOf(err) != router.CodeUnavailable {
			t.Errorf("push: %v", err)
			return
		}
	}
}

// workSome settles what h gets until ctx ends: one in three attempts fails,
// and so do all jobs with one attempt.
func (b *book) workSome(ctx context.Context, t *testing.T, h *hands) {
	for n := 1; ; n++ {
		var j *router.Job
		select {
		case j = <-h.c:
		case <-ctx.Done():
			return
		}
		var err error
		if j.MaxAttempts == 1 || n%3 == 0 && j.Attempt < 5 {
			err = h.s.Nack(context.Background(), "q", j.Token, router.Nack{Error: "no"})
		} else if err = h.s.Ack(context.Background(), "q", j.Token); err == nil {
			b.mu.Lock()
			b.done[string(j.Payload)] = true
			b.mu.Unlock()
		}
		if code := router.CodeOf(err); err != nil && code != router.CodeUnavailable && code != router.CodeConflict {
			t.Errorf("settle: %v", err)
		}
	}
}

// TestQueueLosesNothing pushes and works on three nodes while the leader of the
// jobs is killed, and comes back. Every acknowledged job is done or a dead
// letter, and no dead letter is there twice.
func TestQueueLosesNothing(t *testing.T) {
	c := natstest.NewCluster(t, 3)
	qc := fastQueue(false)
	qc.AckWait = 3 * time.Second
	var stores []*Store
	for i := range 3 {
		stores = append(stores, start(t, c.ConnAll(i, persistence.ConnectOptions()...), Config{Replicas: 3, Queues: []router.Queue{qc}}))
	}
	b := &book{acked: make(map[string]bool), done: make(map[string]bool)}
	pushing, stop := context.WithCancel(t.Context())
	working, leave := context.WithCancel(t.Context())
	var pushers, workers sync.WaitGroup
	for i, s := range stores {
		pushers.Go(func() { b.pushSome(pushing, t, s, fmt.Sprint(i)) })
		h := hire(t, s, 10)
		for range 3 {
			workers.Go(func() { b.workSome(working, t, h) })
		}
	}
	progress := func(n int) {
		b.mu.Lock()
		goal := len(b.done) + n
		b.mu.Unlock()
		natstest.Eventually(t, 60*time.Second, "progress", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return len(b.done) >= goal
		})
	}
	progress(50)
	leader := c.StreamLeader("HR_JOBS_q")
	c.Kill(leader)
	progress(50)
	c.Start(leader)
	progress(50)
	stop()
	pushers.Wait()
	eventuallySettled(t, stores[0])
	leave()
	workers.Wait()
	b.check(t, stores[0])
}

// eventuallySettled is eventuallyEmpty after trouble.
func eventuallySettled(t *testing.T, s *Store) {
	t.Helper()
	natstest.Eventually(t, 60*time.Second, "empty queue", func() bool {
		st, err := s.Stats(context.Background(), "q")
		return err == nil && st.Depth[router.PriorityHigh]+st.Depth[router.PriorityMedium]+st.Depth[router.PriorityLow]+st.Scheduled == 0
	})
}

func (b *book) check(t *testing.T, s *Store) {
	t.Helper()
	dead := make(map[string]bool)
	for from := uint64(0); ; {
		page, err := s.ListDead(t.Context(), "q", from, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, d := range page {
			if dead[d.ID] {
				t.Errorf("dead letter %s is there twice", d.ID)
			}
			dead[d.ID], dead[string(d.Payload)] = true, true
		}
		from = page[len(page)-1].Seq + 1
	}
	for id := range b.acked {
		if !b.done[id] && !dead[id] {
			t.Errorf("job %s is neither done nor dead", id)
		}
	}
	t.Logf("%d pushed, %d done, %d dead", len(b.acked), len(b.done), len(dead)/2)
	if len(b.acked) < 100 || len(dead) == 0 {
		t.Error("the test is toothless")
	}
}
