package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/persistence/queue"
	"github.com/headrace/headrace/router"
	"github.com/headrace/headrace/test/rawclient"
)

// openQueues opens the harness's queues for an edge.
func (h *harness) openQueues(ctx context.Context, nc *nats.Conn) *queue.Store {
	h.t.Helper()
	s, err := queue.Open(ctx, nc, queue.Config{Queues: h.queues, Replicas: h.replicas(), Log: h.logger()})
	if err != nil {
		h.t.Fatalf("open queues: %v", err)
	}
	return s
}

// workerJob is a job as workers see it.
type workerJob struct {
	ID        string            `json:"id"`
	Priority  string            `json:"priority"`
	Attempt   int               `json:"attempt"`
	Token     string            `json:"token"`
	Data      json.RawMessage   `json:"data"`
	Headers   map[string]string `json:"headers"`
	LastError string            `json:"last_error"`
}

// qclient is a client of one edge that pushes and works, and sees every frame.
type qclient struct {
	*rawclient.Client
	t       *testing.T
	jobs    chan workerJob
	replies chan *rawclient.Reply
}

func (h *harness) client(t *testing.T, e *edgeProc) *qclient {
	t.Helper()
	c := &qclient{t: t, jobs: make(chan workerJob, 1000), replies: make(chan *rawclient.Reply, 1000)}
	var err error
	c.Client, err = rawclient.Dial(t.Context(), e.url, func(ev rawclient.Event) {
		switch {
		case ev.Reply != nil:
			c.replies <- ev.Reply
		case ev.Push != nil && ev.Push.Pub != nil:
			var j workerJob
			if err := json.Unmarshal(ev.Push.Pub.Data, &j); err != nil {
				t.Errorf("job %s: %v", ev.Raw, err)
			}
			c.jobs <- j
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// worker returns a client that works on a queue.
func (h *harness) worker(t *testing.T, e *edgeProc, queue string, credits int) *qclient {
	t.Helper()
	c := h.client(t, e)
	body := map[string]any{"channel": "queue:" + queue, "data": map[string]int{"credits": credits}}
	if _, err := c.command("subscribe", body); err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	return c
}

// command sends a command and waits for its reply.
func (c *qclient) command(name string, body any) (*rawclient.Reply, error) {
	c.t.Helper()
	id, err := c.Send(name, body)
	if err != nil {
		return nil, err
	}
	for deadline := time.After(natstest.Patience(20 * time.Second)); ; {
		select {
		case r := <-c.replies:
			if r.ID != id {
				continue
			}
			if r.Error != nil {
				return r, r.Error
			}
			return r, nil
		case <-c.Done():
			return nil, errors.New("connection lost")
		case <-deadline:
			c.t.Fatalf("no reply to %s", name)
		}
	}
}

func (c *qclient) rpc(method string, data map[string]any) error {
	c.t.Helper()
	_, err := c.command("rpc", map[string]any{"method": "queue." + method, "data": data})
	return err
}

// must is rpc that has to succeed.
func (c *qclient) must(method string, data map[string]any) {
	c.t.Helper()
	if err := c.rpc(method, data); err != nil {
		c.t.Fatalf("%s: %v", method, err)
	}
}

func (c *qclient) push(queue string, data any, more ...map[string]any) {
	c.t.Helper()
	body := map[string]any{"queue": queue, "data": data}
	for _, m := range more {
		for k, v := range m {
			body[k] = v
		}
	}
	c.must("push", body)
}

func (c *qclient) ack(queue string, j workerJob) {
	c.t.Helper()
	c.must("ack", map[string]any{"queue": queue, "token": j.Token})
}

func (c *qclient) next() workerJob {
	c.t.Helper()
	return within(c.t, c.jobs, "job")
}

// none fails if a job comes within d.
func (c *qclient) none(d time.Duration) {
	c.t.Helper()
	select {
	case j := <-c.jobs:
		c.t.Fatalf("unexpected job %+v", j)
	case <-time.After(d):
	}
}

// empty waits until nothing is stored in a queue.
func (h *harness) empty(t *testing.T, queue string) {
	t.Helper()
	natstest.Eventually(t, 20*time.Second, "empty queue "+queue, func() bool {
		st, err := h.any().queues.Stats(t.Context(), queue)
		return err == nil && st.Scheduled+st.Depth[router.PriorityHigh]+st.Depth[router.PriorityMedium]+st.Depth[router.PriorityLow] == 0
	})
}

// testQueues are n queues, q0 and on, that retry fast.
func testQueues(n int) []router.Queue {
	var out []router.Queue
	for i := range n {
		out = append(out, router.Queue{
			Name: fmt.Sprint("q", i), MaxAttempts: 4, AckWait: 2 * time.Second, MemoryStorage: true, MaxJobs: 500,
			Backoff: router.Backoff{Base: 200 * time.Millisecond, Cap: time.Second, Factor: 2, Jitter: 0.2},
		}.WithDefaults())
	}
	return out
}
