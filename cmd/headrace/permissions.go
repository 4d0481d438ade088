package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/headrace/headrace/internal/config"
	"github.com/headrace/headrace/internal/natsperm"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/persistence/queue"
	"github.com/headrace/headrace/router"
)

// Who permissions are for.
const (
	forEdge      = "edge"
	forProvision = "provision"
	forBackEnd   = "backend"
	forPusher    = "pusher" // plain NATS clients of queues
	forWorker    = "worker"
)

// permissionsFor returns what a NATS user must be allowed with cfg.
func permissionsFor(cfg config.Config, who string, provision bool) natsperm.Set {
	rc := router.Config{Prefix: cfg.NATS.Prefix, Namespaces: namespaces(cfg)}
	pc := persistence.Config{Prefix: cfg.NATS.Prefix, Namespaces: namespaces(cfg), Cursors: cursorsConfig(cfg)}
	// Back ends are called for clients (rpc.allow) and by the HTTP API.
	parts := router.PermissionOptions{API: cfg.NATS.API, RPC: true}
	qc := queue.Config{Prefix: cfg.NATS.Prefix, Queues: queues(cfg)}
	limit := cfg.Limits.UserMessages.Enabled
	switch who {
	case forProvision:
		s := persistence.ProvisionPermissions(pc, limit)
		s.Rules = append(s.Rules, queue.ProvisionPermissions(qc)...)
		s.Title = "Headrace: who makes and changes the streams"
		return s
	case forBackEnd:
		s := router.BackEndPermissions(rc, parts)
		s.Title = "Headrace: a back end"
		return s
	case forPusher:
		return natsperm.Set{Title: "Headrace: who pushes to queues with plain NATS", Rules: queue.PlainPermissions(qc, true, false)}
	case forWorker:
		return natsperm.Set{Title: "Headrace: who works on queues with plain NATS", Rules: queue.PlainPermissions(qc, false, true)}
	}
	s := router.Permissions(rc, parts)
	s.Title = "Headrace: an edge; its streams are there already"
	s.Rules = append(s.Rules, persistence.Permissions(pc, limit)...)
	s.Rules = append(s.Rules, queue.Permissions(qc)...)
	if provision {
		s.Title = "Headrace: an edge that makes its streams"
		s.Rules = append(s.Rules, persistence.ProvisionPermissions(pc, limit).Rules...)
		s.Rules = append(s.Rules, queue.ProvisionPermissions(qc)...)
	}
	return s
}

func (a *app) permissionsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nats-permissions",
		Short: "Print what NATS has to allow, and nothing more",
		Long: "Print what a NATS user has to be allowed with this configuration, and nothing more.\n" +
			"A node that may not make streams needs them to be there: `headrace provision` makes them.",
		Example: "  headrace nats-permissions --config headrace.yaml\n  headrace nats-permissions --config headrace.yaml --format nats-conf --provision\n  headrace nats-permissions --config headrace.yaml --for backend --format json",
		Args:    exactArgs(0),
	}
	load := a.configFlags(cmd)
	who := cmd.Flags().String("for", forEdge, "`who`: edge, provision (who makes the streams), backend, or pusher or worker (of queues, with plain NATS)")
	format := cmd.Flags().String("format", "text", "text, json or nats-conf")
	provision := cmd.Flags().Bool("provision", false, "let the edge make its streams, too")
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		if !slices.Contains([]string{forEdge, forProvision, forBackEnd, forPusher, forWorker}, *who) {
			return &usageError{err: fmt.Errorf("--for %q is unknown", *who), hint: "write edge, provision, backend, pusher or worker"}
		}
		set := permissionsFor(cfg, *who, *provision)
		switch *format {
		case "text":
			return set.Text(a.stdout)
		case "json":
			return set.JSON(a.stdout)
		case "nats-conf":
			return set.Conf(a.stdout)
		}
		return &usageError{err: fmt.Errorf("--format %q is unknown", *format), hint: "write text, json or nats-conf"}
	}
	return cmd
}

func (a *app) provisionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "provision",
		Short: "Make the streams that nodes need, or let them grow",
		Long:  "Make the streams of a configuration in the NATS cluster of nats.url, so that nodes can run without the right to make any. Running it again is harmless.",
		Args:  exactArgs(0),
	}
	load := a.configFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		if cfg.NATS.URL == "" {
			return &usageError{err: errors.New("nats.url is not set: the embedded server makes its own streams"), hint: "name the NATS servers with --nats"}
		}
		return a.provision(cmd.Context(), cfg)
	}
	return cmd
}

func (a *app) provision(ctx context.Context, cfg config.Config) error {
	log := newLogger(cfg.Log, a.stderr)
	b, err := openBroker(ctx, cfg, "provision", log)
	if err != nil {
		return err
	}
	defer b.close()
	opening, cancel := context.WithTimeout(ctx, cfg.NATS.OpenTimeout)
	defer cancel()
	clustered, err := isClustered(opening, b.store)
	if err != nil {
		return &hintError{err: err, hint: openHint(cfg, clustered, b)}
	}
	err = persistence.Provision(opening, b.store, storeConfig(cfg, clustered, log, prometheus.NewRegistry()), userLimit(cfg))
	if err != nil {
		return &hintError{err: fmt.Errorf("make the streams: %w", err), hint: openHint(cfg, clustered, b)}
	}
	if err := queue.Provision(opening, b.store, queueConfig(cfg, clustered, log, prometheus.NewRegistry())); err != nil {
		return &hintError{err: fmt.Errorf("make the streams: %w", err), hint: openHint(cfg, clustered, b)}
	}
	_, err = fmt.Fprintf(a.stdout, "ok: the streams of %d namespaces and %d queues are there\n", len(cfg.Namespaces), len(cfg.Queues))
	return err
}

// userLimit returns the limit of publications per user, nil when it is off.
func userLimit(cfg config.Config) *persistence.UserLimitConfig {
	u := cfg.Limits.UserMessages
	if !u.Enabled {
		return nil
	}
	return &persistence.UserLimitConfig{Messages: u.Messages, Window: u.Window}
}

// openHint says what to do when NATS or the streams cannot be had.
func openHint(cfg config.Config, clustered bool, b *broker) string {
	switch {
	case cfg.NATS.URL == "":
		return ""
	case b.denied.Load() > 0:
		return "NATS refused this user something, see the log; `headrace nats-permissions` prints what a node needs, and a node that may not make streams needs `headrace provision` first"
	}
	return fmt.Sprintf("the NATS servers must run JetStream, and streams with %d replicas need as many of them; nats.replicas sets the number", replicas(cfg, clustered))
}
