package persistence

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/headrace/headrace/router"
)

// One key as it should be: a version, and a value unless it is removed.
type keyModel struct {
	version uint64
	value   string // "" is removed or never there
}

type keyInput struct {
	op     string // get, set, cas, remove
	value  string
	expect uint64 // of a cas
}

type keyOutput struct {
	unknown bool // no answer: it may have been applied
	applied bool
	version uint64 // stored, or current
	value   string
}

// step returns what the model may be after an operation with that answer.
func step(state, input, output any) []any {
	s, in, out := state.(keyModel), input.(keyInput), output.(keyOutput)
	next := s
	switch {
	case in.op == "get":
	case in.op == "remove" && s.value == "", in.op == "cas" && (s.value == "" || s.version != in.expect):
		in.op = "get" // refused, with what is current
	default:
		next = keyModel{s.version + 1, in.value}
	}
	if out.unknown {
		return []any{s, next}
	}
	if out.applied != (next != s) || out.version != next.version || out.value != next.value {
		return nil
	}
	return []any{next}
}

var keyLinear = porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := make(map[string][]porcupine.Operation)
		for _, op := range history {
			k := op.Metadata.(string)
			byKey[k] = append(byKey[k], op)
		}
		var parts [][]porcupine.Operation
		for _, p := range byKey {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() []any { return []any{keyModel{}} },
	Step: step,
}

// history records what clients did and were answered.
type history struct {
	mu  sync.Mutex // guards ops
	ops []porcupine.Operation
}

func (h *history) add(op porcupine.Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, op)
}

func (h *history) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

// client does random operations on keys of m:c until ctx ends.
func (h *history) client(ctx context.Context, id int, e *edge, keys int, begun time.Time) {
	var seen uint64
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprint("k", rand.N(keys))
		in := keyInput{op: []string{"get", "set", "cas", "cas", "remove"}[rand.N(5)]}
		if in.op == "set" || in.op == "cas" {
			in.value = fmt.Sprint(id, "-", i)
		}
		in.expect = max(seen, 1)
		call := time.Since(begun)
		out, version := e.do(key, in)
		ret := time.Since(begun)
		if out.unknown {
			ret = 1 << 50 // it may take effect at any time
			id += 1000    // porcupine's clients do one thing at a time
		} else {
			seen = version
		}
		h.add(porcupine.Operation{ClientId: id, Input: in, Output: out, Call: int64(call), Return: int64(ret), Metadata: key})
	}
}

func (e *edge) do(key string, in keyInput) (keyOutput, uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out := keyOutput{}
	var s router.StateEntry
	var err error
	if in.op == "get" {
		s, err = e.GetState(ctx, "m:c", key, router.GetOptions{Fresh: true})
	} else {
		c := router.Change{Key: key, Remove: in.op == "remove"}
		if in.value != "" {
			c.Data = value(in.value)
		}
		if in.op == "cas" {
			c.Expect = &router.Expect{Version: in.expect}
		}
		var res router.Changed
		res, err = e.ChangeState(ctx, "m:c", c)
		s, out.applied = res.Entry, res.Applied
	}
	if err != nil {
		return keyOutput{unknown: true}, 0
	}
	out.version = s.Version
	fmt.Sscanf(string(s.Data), "%q", &out.value) //nolint:errcheck // removed
	return out, s.Version
}

// Whatever clients on three edges were answered can be explained by one order of all
// operations on a key, each taking effect between its call and its answer.
func TestStateIsLinearizable(t *testing.T) {
	t.Run("R1 file", func(t *testing.T) { linearizable(t, single(t), nil) })
	t.Run("R3", func(t *testing.T) { linearizable(t, replicated(t), nil) })
	t.Run("R3, leaders are killed", func(t *testing.T) {
		env := replicated(t)
		linearizable(t, env, func(ctx context.Context, e *edge) {
			for _, s := range []*stream{e.part().feed, e.part().keys} {
				wait(ctx, time.Second)
				n := env.cluster.StreamLeader(s.name)
				env.cluster.Kill(n)
				wait(ctx, 4*time.Second)
				env.cluster.Start(n)
				wait(ctx, 6*time.Second)
			}
		})
	})
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func linearizable(t *testing.T, env *environment, disturb func(context.Context, *edge)) {
	e := env.edges(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h := &history{}
	begun := time.Now()
	var wg sync.WaitGroup
	for i := range 18 { // so that on each edge some wait and are stored together
		wg.Go(func() { h.client(ctx, i, e[i%3], 3, begun) })
	}
	if disturb != nil {
		disturb(ctx, e[0])
	}
	for h.len() < 800 && ctx.Err() == nil {
		wait(ctx, 10*time.Millisecond)
	}
	cancel()
	wg.Wait()
	unknown, applied, grouped := 0, 0, 0
	for _, op := range h.ops {
		if out := op.Output.(keyOutput); out.unknown {
			unknown++
		} else if out.applied {
			applied++
		}
	}
	p := e[0].part()
	end, err := p.feedHead(t.Context(), "c")
	run, err2 := p.feed.read(t.Context(), "c", 0, end)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	for _, e := range run {
		if e.Mark.Group > 0 {
			grouped++
		}
	}
	t.Logf("%d operations, %d applied, %d without answer; of the last %d changes %d were stored with others", len(h.ops), applied, unknown, len(run), grouped)
	if grouped == 0 && p.feed.batches {
		t.Error("no changes were stored together")
	}
	if applied < 50 {
		t.Error("too little happened")
	}
	switch res := porcupine.CheckOperationsTimeout(keyLinear.ToModel(), h.ops, 60*time.Second); res {
	case porcupine.Ok:
	default:
		t.Errorf("the history is not linearizable: %v", res)
	}
}
