package persistence

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

// namespaces returns the namespaces most tests use: "n" with a ring of 8.
func namespaces(memory bool) []router.Namespace {
	return []router.Namespace{{
		Name: "n", HistorySize: 8, Retention: time.Hour, Partitions: 1,
		Payload: router.PayloadJSON, MemoryStorage: memory,
	}}
}

// start opens a store on nc and runs it until the test ends.
func start(t testing.TB, nc *nats.Conn, cfg Config) *Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), natstest.Patience(30*time.Second))
	defer cancel()
	s, err := Open(ctx, nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(run); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	return s
}

func logOf(t testing.TB, s *Store) router.Log {
	t.Helper()
	l, ok := s.Log("n")
	if !ok {
		t.Fatal("namespace n has no log")
	}
	return l
}

// put appends and waits for the answer.
func put(l router.Log, key string, e router.NewEntry) (router.Appended, error) {
	type result struct {
		a   router.Appended
		err error
	}
	c := make(chan result, 1)
	l.Append(key, e, func(a router.Appended, err error) { c <- result{a, err} })
	r := <-c
	return r.a, r.err
}

func mustPut(t testing.TB, l router.Log, key, data string) router.Appended {
	t.Helper()
	a, err := put(l, key, router.NewEntry{Data: []byte(data)})
	if err != nil {
		t.Fatalf("append to %s: %v", key, err)
	}
	return a
}

// environment is a NATS installation that the conformance suite runs on.
type environment struct {
	replicas int
	memory   bool
	conn     func(i int) *nats.Conn // i spreads clients over the nodes
	cluster  *natstest.Cluster      // nil without replicas
	prefixes atomic.Int32
}

// fresh returns a configuration that shares no stream with others.
func (env *environment) fresh() Config {
	return Config{
		Prefix:     fmt.Sprintf("t%d", env.prefixes.Add(1)),
		Replicas:   env.replicas,
		Namespaces: namespaces(env.memory),
	}
}

// stores opens n stores on the same fresh streams, as n edges would.
func (env *environment) stores(t *testing.T, n int) []*Store {
	t.Helper()
	cfg := env.fresh()
	s := make([]*Store, n)
	var wg sync.WaitGroup
	for i := range s {
		nc := env.conn(i)
		wg.Go(func() { s[i] = start(t, nc, cfg) })
	}
	wg.Wait()
	if t.Failed() { // in a goroutine, Fatal ends only that
		t.FailNow()
	}
	return s
}

// conform runs f on every kind of installation.
func conform(t *testing.T, f func(t *testing.T, env *environment)) {
	t.Run("R1 file", func(t *testing.T) { f(t, single(t)) })
	t.Run("R1 memory", func(t *testing.T) {
		srv := natstest.Run(t)
		f(t, &environment{replicas: 1, memory: true, conn: func(int) *nats.Conn { return srv.Conn(ConnectOptions()...) }})
	})
	t.Run("R3", func(t *testing.T) {
		f(t, replicated(t))
	})
}

// single starts one server.
func single(t testing.TB) *environment {
	srv := natstest.Run(t)
	return &environment{replicas: 1, conn: func(int) *nats.Conn { return srv.Conn(ConnectOptions()...) }}
}

// replicated starts a cluster of three.
func replicated(t testing.TB) *environment {
	c := natstest.NewCluster(t, 3)
	return &environment{
		replicas: 3, cluster: c,
		conn: func(i int) *nats.Conn { return c.ConnAll(i%3, ConnectOptions()...) },
	}
}

func mustHead(t testing.TB, l router.Log, key string) router.Entry {
	t.Helper()
	h, err := l.Head(t.Context(), key)
	if err != nil {
		t.Fatalf("head of %s: %v", key, err)
	}
	return h
}

func mustRead(t testing.TB, l router.Log, key string, after uint64, h router.Entry) []router.Entry {
	t.Helper()
	run, err := l.Read(t.Context(), key, after, h)
	if err != nil {
		t.Fatalf("read %s after %d: %v", key, after, err)
	}
	return run
}

// numbers returns the numbers of entries.
func numbers(entries []router.Entry) []uint64 {
	n := make([]uint64, len(entries))
	for i, e := range entries {
		n[i] = e.Number
	}
	return n
}

// through returns from, from+1 … to.
func through(from, to uint64) []uint64 {
	var n []uint64
	for ; from <= to; from++ {
		n = append(n, from)
	}
	return n
}

// eventuallyHead waits for the head of key to reach n.
func eventuallyHead(t testing.TB, l router.Log, key string, n uint64) {
	t.Helper()
	natstest.Eventually(t, 20*time.Second, fmt.Sprintf("entry %d of %s", n, key), func() bool {
		h, err := l.Head(t.Context(), key)
		return err == nil && h.Number >= n
	})
}

// count returns the value of a counter.
func count(c prometheus.Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue()
}

// runNode runs a router's node until the test ends, and returns when it is ready.
func runNode(t *testing.T, node *router.Node) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	natstest.Eventually(t, 30*time.Second, "readiness", func() bool { return node.Ready() == nil })
}
