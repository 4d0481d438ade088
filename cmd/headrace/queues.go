package main

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headrace/headrace/internal/config"
	"github.com/headrace/headrace/persistence/queue"
	"github.com/headrace/headrace/router"
)

// queues translates the configuration's queues into the router's.
func queues(cfg config.Config) []router.Queue {
	out := make([]router.Queue, len(cfg.Queues))
	for i, q := range cfg.Queues {
		out[i] = router.Queue{
			Name:        q.Name,
			MaxAttempts: q.MaxAttempts,
			Backoff:     router.Backoff{Base: q.Backoff.Base, Cap: q.Backoff.Cap, Factor: q.Backoff.Factor, Jitter: q.Backoff.Jitter},
			AckWait:     q.AckWait,
			MaxJobs:     q.MaxJobs, MaxBytes: q.MaxBytes, MaxInFlight: q.MaxInFlight,
			DeadRetention: q.DeadRetention,
			MemoryStorage: q.MemoryStorage,
			AllowPush:     q.AllowPush, AllowPushAnonymous: q.AllowPushAnonymous,
			AllowWork: q.AllowWork, AllowWorkAnonymous: q.AllowWorkAnonymous,
		}
	}
	return out
}

func queueConfig(cfg config.Config, clustered bool, log *slog.Logger, reg prometheus.Registerer) queue.Config {
	return queue.Config{
		Prefix: cfg.NATS.Prefix, Queues: queues(cfg), Replicas: replicas(cfg, clustered), Timeout: cfg.Router.PublishTimeout,
		Log: log.With("part", "queue"), Metrics: reg,
	}
}

// openQueues opens the queues of cfg.
func openQueues(ctx context.Context, cfg config.Config, clustered bool, b *broker, log *slog.Logger, reg prometheus.Registerer) (*queue.Store, error) {
	store, err := queue.Open(ctx, b.store, queueConfig(cfg, clustered, log, reg))
	if err != nil {
		return nil, &hintError{err: err, hint: openHint(cfg, clustered, b)}
	}
	return store, nil
}
