package queue

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// Store is all queues. It works while Run does.
type Store struct {
	cfg       Config // as given to Open, defaults filled in
	nc        *nats.Conn
	js        jetstream.JetStream
	req       *jet.Requester
	provision jet.Provisioner
	metrics   *metrics
	queues    map[string]*queue
	burials   chan struct{}  // bounds what background runs
	wg        sync.WaitGroup // of background

	// between is called between the two steps of a retry and of a dead letter.
	// Tests end things there.
	between func(step string) error
}

var _ router.Queues = (*Store)(nil)

// queue is one queue.
type queue struct {
	s       *Store
	cfg     router.Queue
	streams [2]stream // of jobs and of retries
	dead    stream
	key     []byte    // of tokens
	macs    sync.Pool // of hash.Hash with that key
	puller  *puller
}

// stream is a stream of a queue.
type stream struct {
	name        string
	incarnation string // random, made with the stream
	subjects    string // what its subjects begin with, with the dot
}

const (
	jobs    = 0 // indices of queue.streams
	retries = 1
)

// Open provisions the streams of cfg, waiting for a cluster that is still
// forming until ctx ends. nc must be made with persistence.ConnectOptions and
// stays the caller's. Run does the background work and releases the store.
func Open(ctx context.Context, nc *nats.Conn, cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	req, err := jet.NewRequester(nc)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	s := &Store{
		cfg: cfg, nc: nc, js: js, req: req, provision: jet.Provisioner{JS: js, Log: cfg.Log},
		metrics: newMetrics(cfg.Metrics, cfg.Queues), queues: make(map[string]*queue),
		burials: make(chan struct{}, maxBurials),
	}
	for _, qc := range cfg.Queues {
		q, err := s.open(ctx, qc)
		if err != nil {
			req.Close()
			return nil, fmt.Errorf("queue %s: %w", qc.Name, err)
		}
		s.queues[qc.Name] = q
	}
	return s, nil
}

// Provision makes the streams and consumers of cfg, so that nodes can run without
// the right to make any.
func Provision(ctx context.Context, nc *nats.Conn, cfg Config) error {
	s, err := Open(ctx, nc, cfg)
	if err != nil {
		return err
	}
	s.req.Close()
	return nil
}

// Run hands out jobs, watches for stranded ones and keeps the gauges, until ctx
// ends. Whoever wants jobs to go to others at once calls Drain before.
func (s *Store) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, q := range s.queues {
		wg.Go(func() { q.puller.run(ctx) })
		wg.Go(func() { q.guard(ctx) })
		wg.Go(func() { q.observe(ctx) })
	}
	<-ctx.Done()
	wg.Wait()
	s.wg.Wait()
	s.req.Close()
	return nil
}

// maxBurials bounds the dead letters written in the background at a time.
const maxBurials = 64

// background runs f, unless too much is under way. Called while Run runs.
func (s *Store) background(f func(context.Context)) bool {
	select {
	case s.burials <- struct{}{}:
	default:
		return false
	}
	s.wg.Go(func() {
		defer func() { <-s.burials }()
		ctx, cancel := s.bounded(context.Background())
		defer cancel()
		f(ctx)
	})
	return true
}

// Names returns the queues in order.
func (s *Store) Names() []string { return slices.Sorted(maps.Keys(s.queues)) }

func (s *Store) queue(name string) (*queue, error) {
	q, ok := s.queues[name]
	if !ok {
		return nil, router.Errorf(router.CodeNotAvailable, "no queue of that name")
	}
	return q, nil
}

// bounded gives a call the time it may take.
func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.cfg.Timeout)
}

func (s *Store) crash(step string) error {
	if s.between == nil {
		return nil
	}
	return s.between(step)
}

// streamOf returns which of the queue's two streams has that name.
func (q *queue) streamOf(name string) (int, bool) {
	i := slices.IndexFunc(q.streams[:], func(st stream) bool { return st.name == name })
	return i, i >= 0
}

// every calls f about each d until ctx ends.
func every(ctx context.Context, d time.Duration, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}
