package queue

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/router"
)

func TestMain(m *testing.M) { natstest.Main(m) }

// environment is a NATS installation that the conformance suite runs on.
type environment struct {
	replicas int
	memory   bool
	conn     func(i int) *nats.Conn // i spreads clients over the nodes
	cluster  *natstest.Cluster      // nil without replicas
	prefixes atomic.Int32
}

// conform runs f on every kind of installation.
func conform(t *testing.T, f func(t *testing.T, env *environment)) {
	single := func(t *testing.T, memory bool) {
		srv := natstest.Run(t)
		f(t, &environment{replicas: 1, memory: memory, conn: func(int) *nats.Conn { return srv.Conn(persistence.ConnectOptions()...) }})
	}
	t.Run("R1 file", func(t *testing.T) { single(t, false) })
	t.Run("R1 memory", func(t *testing.T) { single(t, true) })
	t.Run("R3", func(t *testing.T) {
		c := natstest.NewCluster(t, 3)
		f(t, &environment{replicas: 3, cluster: c, conn: func(i int) *nats.Conn { return c.ConnAll(i%3, persistence.ConnectOptions()...) }})
	})
}

// fastQueue is "q" with waits that suit a test.
func fastQueue(memory bool) router.Queue {
	return router.Queue{
		Name: "q", MaxAttempts: 3, AckWait: 20 * time.Second, MemoryStorage: memory,
		Backoff: router.Backoff{Base: 10 * time.Millisecond, Cap: 50 * time.Millisecond, Factor: 2},
	}
}

// fresh returns a configuration that shares no stream with others. The streams
// are deleted when the test ends: a queue is nine raft groups.
func (env *environment) fresh(t *testing.T) Config {
	t.Helper()
	cfg := Config{
		Prefix: fmt.Sprintf("t%d", env.prefixes.Add(1)), Replicas: env.replicas,
		Queues: []router.Queue{fastQueue(env.memory)},
	}
	t.Cleanup(func() {
		js, err := jetstream.New(env.conn(0))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		for _, kind := range []string{"JOBS", "RETRY", "DEAD"} {
			_ = js.DeleteStream(ctx, strings.ToUpper(cfg.Prefix)+"_"+kind+"_q") // only frees resources
		}
	})
	return cfg
}

// start opens a store on nc and runs it until the test ends.
func start(t testing.TB, nc *nats.Conn, cfg Config) *Store {
	s, _ := startStop(t, nc, cfg)
	return s
}

// startStop is start for a store that may be stopped before.
func startStop(t testing.TB, nc *nats.Conn, cfg Config) (*Store, func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), natstest.Patience(40*time.Second))
	defer cancel()
	s, err := Open(ctx, nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	run, end := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(run); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	stop := func() { end(); wg.Wait() }
	t.Cleanup(stop)
	return s, stop
}

// stores opens n stores on the same fresh streams, as n edges would.
func (env *environment) stores(t *testing.T, n int, change ...func(*Config)) []*Store {
	t.Helper()
	cfg := env.fresh(t)
	for _, f := range change {
		f(&cfg)
	}
	s := make([]*Store, n)
	for i := range s {
		s[i] = start(t, env.conn(i), cfg)
	}
	return s
}

// hands takes jobs as a worker does.
type hands struct {
	t testing.TB
	s *Store
	w router.Worker
	c chan *router.Job
}

func hire(t testing.TB, s *Store, credits int) *hands {
	t.Helper()
	h := &hands{t: t, s: s, c: make(chan *router.Job, 10_000)}
	w, err := s.Pull("q", func(j *router.Job) bool { h.c <- j; return true })
	if err != nil {
		t.Fatal(err)
	}
	h.w = w
	w.SetCredits(credits)
	t.Cleanup(func() { w.Close(0) })
	return h
}

// next returns the next job.
func (h *hands) next() *router.Job {
	h.t.Helper()
	select {
	case j := <-h.c:
		return j
	case <-time.After(natstest.Patience(20 * time.Second)):
		h.t.Fatal("no job")
		return nil
	}
}

// none fails if a job comes within d.
func (h *hands) none(d time.Duration) {
	h.t.Helper()
	select {
	case j := <-h.c:
		h.t.Fatalf("unexpected job %s %q, attempt %d", j.ID, j.Payload, j.Attempt)
	case <-time.After(d):
	}
}

func (h *hands) ack(j *router.Job) {
	h.t.Helper()
	if err := h.s.Ack(context.Background(), "q", j.Token); err != nil {
		h.t.Fatalf("ack: %v", err)
	}
}

func (h *hands) nack(j *router.Job, n router.Nack) {
	h.t.Helper()
	if err := h.s.Nack(context.Background(), "q", j.Token, n); err != nil {
		h.t.Fatalf("nack: %v", err)
	}
}

func mustPush(t testing.TB, s *Store, j router.NewJob) router.Pushed {
	t.Helper()
	p, err := s.Push(context.Background(), "q", j)
	if err != nil {
		t.Fatalf("push: %v", err)
	}
	return p
}

func text(s string) router.NewJob { return router.NewJob{Payload: []byte(s)} }

// eventuallyDead waits for n dead letters and returns them.
func eventuallyDead(t testing.TB, s *Store, n int) (dead []router.DeadLetter) {
	t.Helper()
	natstest.Eventually(t, 20*time.Second, fmt.Sprintf("%d dead letters", n), func() bool {
		var err error
		dead, err = s.ListDead(context.Background(), "q", 0, 1000)
		return err == nil && len(dead) >= n
	})
	if len(dead) != n {
		t.Fatalf("%d dead letters, want %d: %+v", len(dead), n, dead)
	}
	return dead
}

func mustStats(t testing.TB, s *Store) router.QueueStats {
	t.Helper()
	st, err := s.Stats(context.Background(), "q")
	if err != nil {
		t.Fatalf("stats: %v", err)
	}
	return st
}

// eventuallyEmpty waits until no job is left.
func eventuallyEmpty(t testing.TB, s *Store) {
	t.Helper()
	natstest.Eventually(t, 20*time.Second, "empty queue", func() bool {
		st := mustStats(t, s)
		return st.Depth[router.PriorityHigh]+st.Depth[router.PriorityMedium]+st.Depth[router.PriorityLow]+st.Scheduled == 0
	})
}
