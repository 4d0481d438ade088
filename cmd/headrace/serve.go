package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/headrace/headrace/edge"
	"github.com/headrace/headrace/internal/config"
	"github.com/headrace/headrace/internal/lifecycle"
	"github.com/headrace/headrace/persistence"
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
	listener, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		return fmt.Errorf("serve clients: %w", err)
	}
	defer listener.Close()
	if cfg.Demo && !listener.Addr().(*net.TCPAddr).IP.IsLoopback() {
		log.Warn("the demo lets in everyone who can reach this address", "addr", listener.Addr().String())
	}
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
	web := &http.Server{
		Handler:           n.handler(cfg),
		ReadHeaderTimeout: cfg.Client.ConnectTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.With("part", "http").Handler(), slog.LevelDebug),
	}
	fmt.Fprintf(a.stdout, "Headrace %s listens on http://%s/\n", versionString(), listener.Addr())
	err = lifecycle.Run(ctx, log,
		lifecycle.Part{Name: "nats", Run: b.run},
		lifecycle.Part{Name: "persistence", Run: n.store.Run},
		lifecycle.Part{Name: "router", Run: n.router.Run},
		lifecycle.Part{Name: "edge", Run: n.edge.Run},
		lifecycle.Part{Name: "http", Run: func(ctx context.Context) error { return serveHTTP(ctx, web, listener, n.edge) }},
	)
	log.Info("stopped", "err", err)
	return err
}

// node is the three packages wired together.
type node struct {
	registry *prometheus.Registry
	store    *persistence.Store
	router   *router.Node
	edge     *edge.Server
}

func newNode(ctx context.Context, cfg config.Config, nodeID string, b *broker, log *slog.Logger) (*node, error) {
	n := &node{registry: prometheus.NewRegistry()}
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	buildInfo := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "headrace_build_info", Help: "1, labelled with the version."}, []string{"version"})
	buildInfo.WithLabelValues(versionString()).Set(1)
	n.registry.MustRegister(buildInfo)

	opening, cancel := context.WithTimeout(ctx, cfg.NATS.OpenTimeout)
	defer cancel()
	clustered, err := isClustered(opening, b.store)
	if err != nil {
		return nil, &hintError{err: err, hint: openHint(cfg, clustered)}
	}
	n.store, err = persistence.Open(opening, b.store, storeConfig(cfg, clustered, log, n.registry))
	if err != nil {
		return nil, &hintError{err: fmt.Errorf("open the store: %w", err), hint: openHint(cfg, clustered)}
	}
	sessions := edge.NewSessions()
	n.router, err = router.New(router.Config{
		NodeID: nodeID, NodeName: cfg.NodeName, Version: versionString(), Prefix: cfg.NATS.Prefix, Namespaces: namespaces(cfg),
		Core: b.core, Store: n.store, Sessions: sessions, Metrics: router.NewMetrics(n.registry), Log: log.With("part", "router"),
		RPC:    router.RPCRules{Allow: cfg.RPC.Allow, AllowAnonymous: cfg.RPC.AllowAnonymous},
		Linger: cfg.Router.Linger, SweepInterval: cfg.Router.SweepInterval, HeartbeatInterval: cfg.Router.HeartbeatInterval,
	})
	if err != nil {
		return nil, err
	}
	n.edge, err = edge.New(edgeConfig(cfg, nodeID, log, n.registry), n.router, sessions)
	return n, err
}

func openHint(cfg config.Config, clustered bool) string {
	if cfg.NATS.URL == "" {
		return ""
	}
	return fmt.Sprintf("the NATS servers must run JetStream, and streams with %d replicas need as many of them; nats.replicas sets the number", replicas(cfg, clustered))
}

// serveHTTP serves until ctx ends, then lets no one in any more, disconnects the
// sessions and waits for requests under way.
func serveHTTP(ctx context.Context, web *http.Server, l net.Listener, e *edge.Server) error {
	served := make(chan error, 1)
	go func() { served <- web.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	drained := e.Shutdown(stopping)
	err := web.Shutdown(stopping)
	if errors.Is(err, context.DeadlineExceeded) {
		err = web.Close() // requests that take longer are cut
	}
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return errors.Join(drained, err)
}

// stopTimeout bounds the wait for sessions and requests when the process stops.
const stopTimeout = 25 * time.Second

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
