package persistence

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

// mapNamespaces returns the namespaces of state tests: "m" keeps 3 versions of a key
// and 64 changes.
func mapNamespaces(memory bool) []router.Namespace {
	return []router.Namespace{{
		Name: "m", HistorySize: 64, Partitions: 1, Payload: router.PayloadJSON, MemoryStorage: memory,
		Map: &router.MapOptions{Mode: router.MapPersistent, KeyHistory: 3, TombstoneTTL: time.Hour},
	}}
}

// edge is a node with a store of its own, as a process has them.
type edge struct {
	*router.Node
	store *Store
}

// part returns the partition that all channels of the tests are in.
func (e *edge) part() *keyPart { return e.store.keys["m"].parts[0] }

func startEdge(t testing.TB, nc, core *nats.Conn, cfg Config) *edge {
	t.Helper()
	s := start(t, nc, cfg)
	n, err := router.New(router.Config{
		NodeID: nc.Opts.Name + fmt.Sprintf("%p", s), Prefix: cfg.Prefix, Namespaces: cfg.Namespaces,
		Core: core, Store: s, Sessions: noSessions{},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Errorf("run node: %v", err)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	natstest.Eventually(t, 10*time.Second, "node ready", func() bool { return n.Ready() == nil })
	return &edge{n, s}
}

type noSessions struct{}

func (noSessions) Message(router.Target, []byte) int { return 0 }
func (noSessions) Count() int                        { return 0 }
func (noSessions) Post(string, []byte) error         { return nil }
func (noSessions) Control(context.Context, router.Control) router.Controlled {
	return router.Controlled{}
}

// edges starts n edges on fresh streams, with f applied to the configuration.
func (env *environment) edges(t testing.TB, n int, f ...func(*router.Namespace)) []*edge {
	t.Helper()
	cfg := env.fresh()
	cfg.Namespaces = mapNamespaces(env.memory)
	for _, f := range f {
		f(&cfg.Namespaces[0])
	}
	all := make([]*edge, n)
	for i := range all {
		all[i] = startEdge(t, env.conn(i), env.conn(i), cfg)
	}
	return all
}

func value(s string) []byte { return fmt.Appendf(nil, "%q", s) }

// set changes a key of m:c, which must be applied.
func (e *edge) set(t testing.TB, key, data string) router.Changed {
	t.Helper()
	return e.change(t, router.Change{Key: key, Data: value(data)}, true)
}

func (e *edge) change(t testing.TB, c router.Change, applied bool) router.Changed {
	t.Helper()
	res, err := e.ChangeState(t.Context(), "m:c", c)
	if err != nil {
		t.Fatalf("change %s: %v", c.Key, err)
	}
	if res.Applied != applied {
		t.Fatalf("change %s: applied %v, reason %q, current %+v", c.Key, res.Applied, res.Reason, res.Entry)
	}
	return res
}

func (e *edge) get(t testing.TB, key string) router.StateEntry {
	t.Helper()
	s, err := e.GetState(t.Context(), "m:c", key, router.GetOptions{Fresh: true})
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	return s
}

// all reads the whole state of m:c in pages of limit.
func (e *edge) all(t testing.TB, limit int) (map[string]router.StateEntry, router.Position) {
	t.Helper()
	state, first, err := readAll(t.Context(), e, limit)
	if err != nil {
		t.Fatal(err)
	}
	return state, first
}

func readAll(ctx context.Context, e *edge, limit int) (map[string]router.StateEntry, router.Position, error) {
	state := make(map[string]router.StateEntry)
	var first router.Position
	for cursor, i := "", 0; i == 0 || cursor != ""; i++ {
		page, err := e.StatePage(ctx, "m:c", cursor, limit)
		if err != nil {
			return nil, first, err
		}
		if i == 0 {
			first = page.Position
		}
		for _, s := range page.Entries {
			if _, twice := state[s.Key]; twice {
				return nil, first, fmt.Errorf("key %s is on two pages", s.Key)
			}
			state[s.Key] = s
		}
		cursor = page.Next
	}
	return state, first, nil
}

// forgetAll is what the end of an edge does.
func (q *expiryQueue) forgetAll() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.heap, q.byID = nil, make(map[keyID]*expiring)
}
