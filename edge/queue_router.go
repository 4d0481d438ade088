package edge

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/headrace/headrace/router"
)

// queueRouter puts the channels queue:<name> in front of a Router: to subscribe
// one is to become a worker of that queue, and its publications are jobs. Sessions
// need not know; tokens, their ends, server-side subscriptions and the server API
// work as with any channel.
type queueRouter struct {
	Router
	// Set by newQueueRouter, read-only afterwards.
	srv   *Server
	rules map[string]*router.Queue

	mu      sync.Mutex // guards workers
	workers map[*router.Subscription]*queueWorker
}

func newQueueRouter(node Router, srv *Server) *queueRouter {
	r := &queueRouter{Router: node, srv: srv, rules: make(map[string]*router.Queue), workers: make(map[*router.Subscription]*queueWorker)}
	for i := range srv.cfg.QueueRules {
		q := &srv.cfg.QueueRules[i]
		r.rules[q.Name] = q
	}
	return r
}

// queue returns the rules of a queue.
func (r *queueRouter) queue(name string) (*router.Queue, error) {
	q := r.rules[name]
	if q == nil || r.srv.cfg.Queues == nil {
		return nil, router.Errorf(router.CodeNotAvailable, "no queue of that name")
	}
	return q, nil
}

// noChannel is the answer to what channels can and queues cannot.
func noChannel(remedy string) error {
	return router.Errorf(router.CodeNotAvailable, "this channel is a queue: %s", remedy)
}

// queueNamespace is what the session has to know of the channels: every kind of
// client can read jobs.
var queueNamespace = router.Namespace{Name: "queue", Payload: router.PayloadAny}

func (r *queueRouter) Namespace(channel string) (*router.Namespace, error) {
	name, ok := router.QueueOf(channel)
	if !ok {
		return r.Router.Namespace(channel)
	}
	if _, err := r.queue(name); err != nil {
		return nil, err
	}
	ns := queueNamespace
	return &ns, nil
}

func (r *queueRouter) Allow(op router.Op, channel string, who router.Access) error {
	name, ok := router.QueueOf(channel)
	if !ok {
		return r.Router.Allow(op, channel, who)
	}
	q, err := r.queue(name)
	if err != nil {
		return err
	}
	switch op {
	case router.OpPublish:
		return noChannel("push jobs with the rpc method queue.push")
	case router.OpSubscribe:
		return q.Allow(op, who)
	default:
		return noChannel("it has neither history nor presence")
	}
}

func (r *queueRouter) Publish(req router.PublishRequest, done func(router.Position, error)) {
	if _, ok := router.QueueOf(req.Channel); ok {
		done(router.Position{}, noChannel("push jobs with queue.push or queue_push"))
		return
	}
	r.Router.Publish(req, done)
}

func (r *queueRouter) History(ctx context.Context, channel string, req router.HistoryRequest) (router.HistoryResult, error) {
	if _, ok := router.QueueOf(channel); ok {
		return router.HistoryResult{}, noChannel("it has no history")
	}
	return r.Router.History(ctx, channel, req)
}

func (r *queueRouter) HistoryRemove(ctx context.Context, channel string) error {
	if _, ok := router.QueueOf(channel); ok {
		return noChannel("it has no history")
	}
	return r.Router.HistoryRemove(ctx, channel)
}

func (r *queueRouter) Presence(ctx context.Context, channel string) (map[string]*router.ClientInfo, error) {
	if _, ok := router.QueueOf(channel); ok {
		return nil, noChannel("it has no presence")
	}
	return r.Router.Presence(ctx, channel)
}

func (r *queueRouter) PresenceInOrder(ctx context.Context, channel string, tell func(map[string]*router.ClientInfo)) error {
	if _, ok := router.QueueOf(channel); ok {
		return noChannel("it has no presence")
	}
	return r.Router.PresenceInOrder(ctx, channel, tell)
}

func (r *queueRouter) PresenceStats(ctx context.Context, channel string) (router.PresenceStats, error) {
	if _, ok := router.QueueOf(channel); ok {
		return router.PresenceStats{}, noChannel("it has no presence")
	}
	return r.Router.PresenceStats(ctx, channel)
}

// maxWorkerCredits bounds the jobs that one connection holds of one queue.
const maxWorkerCredits = 1000

// checkCredits refuses credits out of bounds. Zero makes a worker pause.
func checkCredits(n int) error {
	if n < 0 || n > maxWorkerCredits {
		return router.Errorf(router.CodeInvalid, "credits are not within 0 to %d", maxWorkerCredits)
	}
	return nil
}

// workerData is what a subscription to a queue may bring.
type workerData struct {
	Credits *int `json:"credits"`
}

// decodeCredits reads the data of a subscription; the default is 1.
func decodeCredits(data []byte) (int, error) {
	var d workerData
	if len(data) > 0 {
		if err := strictJSON(data, &d); err != nil {
			return 0, router.Errorf(router.CodeInvalid, "data of the subscription: %v", err)
		}
	}
	if d.Credits == nil {
		return 1, nil
	}
	return *d.Credits, checkCredits(*d.Credits)
}

// Subscribe makes the subscriber of a queue's channel a worker. It does not wait.
func (r *queueRouter) Subscribe(sub *router.Subscription, req router.SubscribeRequest, done func(router.SubscribeResult, error)) {
	name, ok := router.QueueOf(sub.Channel)
	if !ok {
		r.Router.Subscribe(sub, req, done)
		return
	}
	w, err := r.hire(name, sub, req.Data)
	if err != nil {
		done(router.SubscribeResult{}, err)
		return
	}
	done(router.SubscribeResult{WasRecovering: req.Recover}, nil)
	w.resize() // only now: the reply precedes the first job
}

func (r *queueRouter) hire(name string, sub *router.Subscription, data []byte) (*queueWorker, error) {
	if _, err := r.queue(name); err != nil {
		return nil, err
	}
	credits, err := decodeCredits(data)
	if err != nil {
		return nil, err
	}
	w := &queueWorker{r: r, sub: sub, credits: credits}
	if w.hands, err = r.srv.cfg.Queues.Pull(name, w.take); err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.workers[sub] = w
	r.mu.Unlock()
	r.srv.metrics.workers.Inc()
	return w, nil
}

// Unsubscribe ends the work: jobs that the worker holds and does not settle within
// the grace go to others.
func (r *queueRouter) Unsubscribe(sub *router.Subscription, done func()) {
	if _, ok := router.QueueOf(sub.Channel); !ok {
		r.Router.Unsubscribe(sub, done)
		return
	}
	r.mu.Lock()
	w := r.workers[sub]
	delete(r.workers, sub)
	r.mu.Unlock()
	if w != nil {
		w.close(r.srv.cfg.WorkerGrace)
		r.srv.metrics.workers.Dec()
	}
	if done != nil {
		done()
	}
}

// worker returns the worker behind a subscription, nil when it is none.
func (r *queueRouter) worker(sub *router.Subscription) *queueWorker {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.workers[sub]
}

// drainQueues ends the handing out of jobs on this node. Those that clients hold go
// to others unless they are settled, by then or through the node that the client
// comes back to.
func (s *Server) drainQueues(ctx context.Context) {
	if s.cfg.Queues == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, drainQueuesTimeout)
	defer cancel()
	s.cfg.Queues.Drain(ctx, s.cfg.DrainWindow+s.cfg.WorkerGrace)
}

// drainQueuesTimeout bounds the wait for questions to NATS that are under way.
const drainQueuesTimeout = 2 * time.Second

// jobData is a job as the data of a publication.
func jobData(j *router.Job) (json.RawMessage, error) { return encodeLine(toQueueJob(j)) }
