package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/headrace/headrace/edge"
	"github.com/headrace/headrace/edge/webhook"
	"github.com/headrace/headrace/internal/config"
	"github.com/headrace/headrace/internal/lifecycle"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/persistence/queue"
	"github.com/headrace/headrace/router"
)

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node",
		Long:  "Run a node: with NATS embedded, or on the NATS cluster that --nats names.\nWithout a configuration file there is a demo chat at the address served.",
		Args:  exactArgs(0),
	}
	load := a.configFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		return a.serve(cmd.Context(), cfg)
	}
	return cmd
}

// serve runs a node until ctx ends or a part of it fails.
func (a *app) serve(ctx context.Context, cfg config.Config) error {
	log := newLogger(cfg.Log, a.stderr)
	if cfg.NodeName == "" {
		cfg.NodeName, _ = os.Hostname() // "" is allowed, if unhelpful
	}
	// A demo without a secret makes one that lives as long as the process.
	if cfg.Demo && cfg.Client.Token.HMACSecretKey == "" {
		cfg.Client.Token.HMACSecretKey = rand.Text()
	}
	// First of all, so that a taken address is known before NATS has started.
	clients, internal, err := openListeners(cfg, log)
	if err != nil {
		return err
	}
	defer clients.close()
	defer internal.close()
	nodeID := rand.Text()
	b, err := openBroker(ctx, cfg, nodeID, log)
	if err != nil {
		return err
	}
	n, err := newNode(ctx, cfg, nodeID, b, log)
	if err != nil {
		b.close()
		return err
	}
	parts := []lifecycle.Part{
		{Name: "nats", Run: b.run},
		{Name: "persistence", Run: n.store.Run},
		{Name: "queues", Run: n.queues.Run},
		{Name: "router", Run: n.router.Run},
		{Name: "edge", Run: n.edge.Run},
	}
	if internal != nil {
		internal.server.Handler = n.internalHandler(cfg)
		// Stopped after the clients' listener, so that a drain can be watched.
		parts = append(parts, lifecycle.Part{Name: "internal http", Run: func(ctx context.Context) error {
			return internal.run(ctx, stopTimeout(cfg), func(context.Context) error { return nil })
		}})
	}
	clients.server.Handler = n.clientHandler(cfg)
	parts = append(parts, lifecycle.Part{Name: "http", Run: func(ctx context.Context) error {
		// Who reads that it listens may use what it offers on NATS at once.
		select {
		case <-n.router.Serving():
			fmt.Fprintf(a.stdout, "Headrace %s listens on %s\n", versionString(), clients.url())
			if internal != nil {
				fmt.Fprintf(a.stdout, "Metrics and the API are on %s\n", internal.url())
			}
		case <-ctx.Done():
		}
		return clients.run(ctx, stopTimeout(cfg), n.edge.Shutdown)
	}})
	// Last, and so stopped first: their jobs are done or back before the queues are
	// drained.
	parts = append(parts, lifecycle.Part{Name: "webhooks", Run: n.webhooks.Run})
	err = lifecycle.Run(ctx, log, parts...)
	log.Info("stopped", "err", err)
	return err
}

// node is the three packages wired together.
type node struct {
	registry *prometheus.Registry
	store    *persistence.Store
	queues   *queue.Store
	router   *router.Node
	edge     *edge.Server
	webhooks *webhook.Workers
}

func newNode(ctx context.Context, cfg config.Config, nodeID string, b *broker, log *slog.Logger) (*node, error) {
	n := &node{registry: prometheus.NewRegistry()}
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	buildInfo := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "headrace_build_info", Help: "1, labelled with the version."}, []string{"version"})
	buildInfo.WithLabelValues(versionString()).Set(1)
	n.registry.MustRegister(buildInfo, &natsMetrics{b})

	opening, cancel := context.WithTimeout(ctx, cfg.NATS.OpenTimeout)
	defer cancel()
	clustered, err := isClustered(opening, b.store)
	if err != nil {
		return nil, &hintError{err: err, hint: openHint(cfg, clustered, b)}
	}
	n.store, err = persistence.Open(opening, b.store, storeConfig(cfg, clustered, log, n.registry))
	if err != nil {
		return nil, &hintError{err: fmt.Errorf("open the store: %w", err), hint: openHint(cfg, clustered, b)}
	}
	if n.queues, err = openQueues(opening, cfg, clustered, b, log, n.registry); err != nil {
		return nil, err
	}
	hooks := webhook.Config{Endpoints: endpoints(cfg), Log: log.With("part", "webhook"), Metrics: n.registry}
	if n.webhooks, err = webhook.New(hooks, n.queues); err != nil {
		return nil, err
	}
	sessions := edge.NewSessions()
	n.router, err = router.New(router.Config{
		NodeID: nodeID, NodeName: cfg.NodeName, Version: versionString(), Prefix: cfg.NATS.Prefix, Namespaces: namespaces(cfg),
		Core: b.core, Store: n.store, Sessions: sessions, Metrics: router.NewMetrics(n.registry), Log: log.With("part", "router"),
		RPC:    router.RPCRules{Allow: cfg.RPC.Allow, AllowAnonymous: cfg.RPC.AllowAnonymous},
		Linger: cfg.Router.Linger, SweepInterval: cfg.Router.SweepInterval, HeartbeatInterval: cfg.Router.HeartbeatInterval,
		PresenceMembers: cfg.Router.PresenceMembers, PresenceNodeMembers: cfg.Router.PresenceNodeMembers,
		Inbox: routerInbox(cfg, n.store),
	})
	if err != nil {
		return nil, err
	}
	ec := edgeConfig(cfg, nodeID, log, n.registry)
	if u := userLimit(cfg); u != nil {
		ec.UserLimit, err = n.store.UserLimit(opening, *u)
		if err != nil {
			return nil, &hintError{err: err, hint: openHint(cfg, clustered, b)}
		}
	}
	ec.Queues, ec.QueueRules = n.queues, queues(cfg)
	ec.Inbox = edgeInbox(cfg, n.router)
	n.edge, err = edge.New(ec, n.router, sessions)
	return n, err
}

// newLogger writes to w as cfg says. cfg is validated.
func newLogger(cfg config.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		level = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
