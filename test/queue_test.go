package test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/edge"
	"github.com/headrace/headrace/router"
	"github.com/headrace/headrace/test/rawclient"
)

// TestQ2Workers has clients at several edges push and work.
func TestQ2Workers(t *testing.T) {
	scenarios := []struct {
		name string
		f    func(t *testing.T, h *harness, queue string)
	}{
		{"jobs pushed at one edge are done at others, within the credits", pushHereWorkThere},
		{"a worker settles through another edge after a reconnect", ackElsewhere},
		{"the job of a lost worker goes to another", lostWorker},
		{"a worker that never settles holds nobody up", silentWorker},
		{"an extended job stays with its worker", extended},
		{"a failed job is retried, and a final failure is a dead letter", failures},
		{"low priority waits for high, and does not starve", priorities},
		{"a full queue is an error that says so", fullQueue},
		{"credits change while the worker works", changingCredits},
		{"the jobs of a stopping edge go to others", drainedEdge},
		{"the jobs of a killed edge go to others", killedEdge},
	}
	h := newQueueHarness(t, 1, 3, testQueues(len(scenarios)), func(c *edge.Config) { c.WorkerGrace = 3 * time.Second })
	for i, s := range scenarios {
		t.Run(s.name, func(t *testing.T) { s.f(t, h, fmt.Sprint("q", i)) })
	}
}

func pushHereWorkThere(t *testing.T, h *harness, queue string) {
	const total, credits = 300, 5
	var done sync.Map
	var count atomic.Int64
	var workers sync.WaitGroup
	finished := make(chan struct{})
	for i := range 4 {
		w := h.worker(t, h.list()[1+i%2], queue, credits)
		workers.Go(func() {
			for {
				select {
				case j := <-w.jobs:
					if held := 1 + len(w.jobs); held > credits {
						t.Errorf("%d jobs at once, with %d credits", held, credits)
					}
					if err := w.rpc("ack", map[string]any{"queue": queue, "token": j.Token}); err != nil {
						t.Errorf("ack: %v", err)
					}
					if _, again := done.LoadOrStore(string(j.Data), true); again {
						t.Errorf("job %s twice", j.Data)
					}
					if count.Add(1) == total {
						close(finished)
					}
				case <-finished:
					return
				}
			}
		})
	}
	p := h.client(t, h.list()[0])
	for n := range total {
		p.push(queue, n)
	}
	within(t, finished, "end of all jobs")
	workers.Wait()
	h.empty(t, queue)
}

func ackElsewhere(t *testing.T, h *harness, queue string) {
	edges := h.list()
	w := h.worker(t, edges[0], queue, 1)
	w.push(queue, "once")
	j := w.next()
	other := h.worker(t, edges[2], queue, 1)
	w.Close()
	other.none(1500 * time.Millisecond) // nodes look for what came back each second
	back := h.client(t, edges[1])
	back.ack(queue, j)
	back.ack(queue, j) // a repetition is no error
	other.none(3 * time.Second)
	h.empty(t, queue)
	var e *rawclient.ReplyError
	if err := back.rpc("nack", map[string]any{"queue": queue, "token": j.Token}); !errors.As(err, &e) || e.Message != "the job was ended before" {
		t.Errorf("nack after ack: %v", err)
	}
	if err := back.rpc("ack", map[string]any{"queue": "q0", "token": j.Token}); !errors.As(err, &e) || e.Code != 107 {
		t.Errorf("ack in another queue: %v", err)
	}
}

func lostWorker(t *testing.T, h *harness, queue string) {
	edges := h.list()
	w := h.worker(t, edges[0], queue, 1)
	w.push(queue, "again")
	j := w.next()
	other := h.worker(t, edges[1], queue, 1)
	start := time.Now()
	w.Close()
	again := other.next()
	if d := time.Since(start); again.ID != j.ID || again.Attempt != 2 || d < 2900*time.Millisecond {
		t.Errorf("%+v after %v, first %+v", again, d, j)
	}
	other.ack(queue, again)
	h.empty(t, queue)
}

func silentWorker(t *testing.T, h *harness, queue string) {
	edges := h.list()
	silent, busy := h.worker(t, edges[0], queue, 1), h.worker(t, edges[1], queue, 1)
	p := h.client(t, edges[2])
	for n := range 20 {
		p.push(queue, n)
	}
	silent.next()
	for range 20 { // the silent one's is the last, after its ack wait
		busy.ack(queue, busy.next())
		select {
		case j := <-silent.jobs: // its credit is back with the end of the ack wait
			silent.ack(queue, j)
		default:
		}
		if st, err := edges[0].queues.Stats(t.Context(), queue); err == nil && st.Depth[router.PriorityMedium] == 0 {
			break
		}
	}
	h.empty(t, queue)
}

func extended(t *testing.T, h *harness, queue string) {
	edges := h.list()
	w := h.worker(t, edges[0], queue, 1)
	w.push(queue, "long")
	j := w.next()
	other := h.worker(t, edges[1], queue, 1)
	for range 4 { // 4 s with an ack wait of 2 s
		other.none(time.Second)
		w.must("extend", map[string]any{"queue": queue, "token": j.Token})
	}
	w.ack(queue, j)
	h.empty(t, queue)
}

func failures(t *testing.T, h *harness, queue string) {
	w := h.worker(t, h.list()[0], queue, 1)
	h.client(t, h.list()[1]).push(queue, "poison", map[string]any{"headers": map[string]string{"Träce": "7"}})
	for attempt, wait := range []time.Duration{0, 200 * time.Millisecond, 400 * time.Millisecond} {
		start := time.Now()
		j := w.next()
		// Jitter takes off up to a fifth.
		if d := time.Since(start); j.Attempt != attempt+1 || j.Headers["Träce"] != "7" || d < wait*4/5-20*time.Millisecond || d > wait+2*time.Second {
			t.Errorf("attempt %+v after %v, want about %v", j, d, wait)
		}
		if attempt > 0 && j.LastError != "try later" {
			t.Errorf("last error %q", j.LastError)
		}
		w.must("nack", map[string]any{"queue": queue, "token": j.Token, "error": map[bool]string{false: "try later", true: "hopeless"}[attempt == 2], "final": attempt == 2})
	}
	dead, err := h.any().queues.ListDead(t.Context(), queue, 0, 10)
	if err != nil || len(dead) != 1 || dead[0].Reason != router.DeadFinal || dead[0].Error != "hopeless" || dead[0].Attempts != 3 {
		t.Fatalf("dead letters %+v: %v", dead, err)
	}
	r, err := w.command("rpc", map[string]any{"method": "queue.dead", "data": map[string]any{"queue": queue}})
	if err != nil || r.RPC == nil {
		t.Fatalf("queue.dead: %v", err)
	}
	w.must("redrive", map[string]any{"queue": queue, "seqs": []uint64{dead[0].Seq}})
	j := w.next()
	if j.Attempt != 1 || j.Headers["Träce"] != "7" || string(j.Data) != `"poison"` {
		t.Errorf("redriven as %+v", j)
	}
	w.ack(queue, j)
	h.empty(t, queue)
}

func priorities(t *testing.T, h *harness, queue string) {
	p := h.client(t, h.list()[0])
	for _, priority := range []string{"low", "high"} {
		for n := range 40 {
			p.push(queue, n, map[string]any{"priority": priority})
		}
	}
	w := h.worker(t, h.list()[1], queue, 1)
	got := map[string]int{}
	for range 80 {
		j := w.next()
		if got["high"] < 30 { // while both wait
			got[j.Priority]++
		}
		w.ack(queue, j)
	}
	if got["low"] < 3 || got["low"] > 10 {
		t.Errorf("%v: of seven jobs about one is low", got)
	}
	h.empty(t, queue)
}

func fullQueue(t *testing.T, h *harness, queue string) {
	p := h.client(t, h.list()[0])
	for n := range 500 {
		p.push(queue, n)
	}
	var e *rawclient.ReplyError
	if err := p.rpc("push", map[string]any{"queue": queue, "data": 1}); !errors.As(err, &e) || e.Code != 106 || e.Message != "the queue is full" {
		t.Errorf("push into a full queue: %v", err)
	}
	w := h.worker(t, h.list()[1], queue, 50)
	for range 500 {
		w.ack(queue, w.next())
	}
	h.empty(t, queue)
}

func changingCredits(t *testing.T, h *harness, queue string) {
	w := h.worker(t, h.list()[0], queue, 0)
	for n := range 10 {
		w.push(queue, n)
	}
	w.none(300 * time.Millisecond)
	w.must("credits", map[string]any{"queue": queue, "credits": 3})
	held := []workerJob{w.next(), w.next(), w.next()}
	w.none(300 * time.Millisecond)
	w.must("credits", map[string]any{"queue": queue, "credits": 10})
	for range 7 {
		held = append(held, w.next())
	}
	for _, j := range held {
		w.ack(queue, j)
	}
	h.empty(t, queue)
}

func drainedEdge(t *testing.T, h *harness, queue string) {
	w := h.worker(t, h.list()[0], queue, 2)
	p := h.client(t, h.list()[1])
	p.push(queue, "a")
	p.push(queue, "b")
	a, b := w.next(), w.next()
	other := h.worker(t, h.list()[1], queue, 5)
	stopped := make(chan struct{})
	go func() { defer close(stopped); h.restart(0) }()
	within(t, w.Done(), "end of the connection")
	if w.CloseCode() != 3001 {
		t.Errorf("closed with %d", w.CloseCode())
	}
	h.client(t, h.list()[2]).ack(queue, a) // the worker is back elsewhere with one of them
	p.push(queue, "c")
	got := map[string]int{}
	for range 2 {
		j := other.next()
		got[string(j.Data)] = j.Attempt
		other.ack(queue, j)
	}
	if got[`"c"`] != 1 || got[string(b.Data)] != 2 {
		t.Errorf("the other worker got %v", got)
	}
	within(t, stopped, "stop")
	h.empty(t, queue)
}

func killedEdge(t *testing.T, h *harness, queue string) {
	w := h.worker(t, h.list()[0], queue, 1)
	p := h.client(t, h.list()[1])
	p.push(queue, "survives")
	j := w.next()
	other := h.worker(t, h.list()[2], queue, 1)
	start := time.Now()
	h.replace(0)
	again := other.next()
	if again.ID != j.ID || again.Attempt != 2 {
		t.Errorf("%+v, first %+v", again, j)
	}
	t.Logf("another worker has it after %v, with an ack wait of 2 s", time.Since(start))
	other.ack(queue, again)
	h.empty(t, queue)
}
