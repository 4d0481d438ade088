package persistence

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

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
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
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

func TestSmoke(t *testing.T) {
	srv := natstest.Run(t)
	s := start(t, srv.Conn(ConnectOptions()...), Config{Namespaces: namespaces(false)})
	l := logOf(t, s)
	for i := range 12 {
		if a := mustPut(t, l, "a.b", fmt.Sprint(i)); a.Number != uint64(i+1) {
			t.Fatalf("number %d, want %d", a.Number, i+1)
		}
	}
	h, err := l.Head(t.Context(), "a.b")
	if err != nil || h.Number != 12 {
		t.Fatalf("head %+v %v", h, err)
	}
	run, err := l.Read(t.Context(), "a.b", 9, h)
	if err != nil || len(run) != 3 || string(run[2].Data) != "11" {
		t.Fatalf("read %+v %v", run, err)
	}
	run, err = l.Read(t.Context(), "a.b", 0, h)
	if err != nil || len(run) != 8 {
		t.Fatalf("read %d %v", len(run), err)
	}
	if _, err := l.Clear(t.Context(), "a.b"); err != nil {
		t.Fatal(err)
	}
	if a := mustPut(t, l, "a.b", "x"); a.Number != 14 {
		t.Fatalf("after clear: %+v", a)
	}
	h, _ = l.Head(t.Context(), "a.b")
	run, err = l.Read(t.Context(), "a.b", 0, h)
	if err != nil || len(run) != 2 || !run[0].Cleared {
		t.Fatalf("read %+v %v", run, err)
	}
	var rerr *router.Error
	if errors.As(err, &rerr) {
		t.Fatal(err)
	}
}
