// Package webhook works on jobs of durable queues by calling HTTP endpoints: one
// signed POST an attempt (Standard Webhooks 1.0.0). docs/queue.md tells receivers
// what they get and what their answers do.
package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headrace/headrace/router"
)

// Config is what New needs.
type Config struct {
	Endpoints []Endpoint // at most one a queue
	Log       *slog.Logger
	Metrics   prometheus.Registerer // nil: count, but show nobody

	// StopTimeout bounds how long a stop waits for requests under way; what is not
	// answered then is cut and goes to other nodes. 5s by default.
	StopTimeout time.Duration

	dial dialer // of tests; nil is TCP
}

// Workers are this node's workers that call endpoints.
type Workers struct {
	all  []*worker
	log  *slog.Logger
	stop time.Duration
}

// New checks cfg and makes the workers of it. Run has them work.
func New(cfg Config, queues router.Queues) (*Workers, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = 5 * time.Second
	}
	if cfg.dial == nil {
		cfg.dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	ws := &Workers{log: cfg.Log, stop: cfg.StopTimeout}
	m := newMetrics(cfg.Metrics, cfg.Endpoints)
	for i := range cfg.Endpoints {
		e := &cfg.Endpoints[i]
		if err := e.Validate(); err != nil {
			return nil, fmt.Errorf("queue %q: %w", e.Queue, err)
		}
		w, err := newWorker(e, queues, m, &cfg)
		if err != nil {
			return nil, fmt.Errorf("queue %q: %w", e.Queue, err)
		}
		if clearText(w.caller.url) {
			cfg.Log.Warn("webhook without TLS: payloads travel in the clear", "queue", e.Queue, "host", hostOf(w.caller.url))
		}
		ws.all = append(ws.all, w)
	}
	return ws, nil
}

// Run works until ctx ends. Then no more jobs are taken, requests under way have
// Config.StopTimeout to end, and what is not done goes to other nodes.
func (ws *Workers) Run(ctx context.Context) error {
	for i, w := range ws.all {
		if err := w.start(); err != nil {
			for _, started := range ws.all[:i] {
				started.end(0)
			}
			return fmt.Errorf("webhook of queue %q: %w", w.queue, err)
		}
	}
	<-ctx.Done()
	var wg sync.WaitGroup
	for _, w := range ws.all {
		wg.Go(func() { w.end(ws.stop) })
	}
	wg.Wait()
	return nil
}
