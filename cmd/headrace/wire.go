package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/headrace/headrace/edge"
	"github.com/headrace/headrace/internal/config"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/router"
)

// namespaces translates the configuration's namespaces into the router's.
func namespaces(cfg config.Config) []router.Namespace {
	out := make([]router.Namespace, len(cfg.Namespaces))
	for i, ns := range cfg.Namespaces {
		out[i] = router.Namespace{
			Name:                    ns.Name,
			HistorySize:             ns.HistorySize,
			HistoryTTL:              ns.HistoryTTL,
			Retention:               ns.Retention,
			Partitions:              ns.Partitions,
			MemoryStorage:           ns.MemoryStorage,
			Payload:                 router.Payload(ns.Payload),
			Recover:                 ns.ForceRecovery,
			Positioned:              ns.ForcePositioning,
			CacheMode:               ns.CacheMode,
			Presence:                ns.Presence,
			JoinLeave:               ns.JoinLeave,
			ForceJoinLeave:          ns.ForceJoinLeave,
			AllowSubscribe:          ns.AllowSubscribe,
			AllowPublish:            ns.AllowPublish,
			AllowPublishSubscriber:  ns.AllowPublishSubscriber,
			AllowHistory:            ns.AllowHistory,
			AllowHistorySubscriber:  ns.AllowHistorySubscriber,
			AllowPresence:           ns.AllowPresence,
			AllowPresenceSubscriber: ns.AllowPresenceSubscriber,
			AllowSubscribeAnonymous: ns.AllowSubscribeAnonymous,
			AllowPublishAnonymous:   ns.AllowPublishAnonymous,
			AllowHistoryAnonymous:   ns.AllowHistoryAnonymous,
			AllowPresenceAnonymous:  ns.AllowPresenceAnonymous,
			UserLimited:             ns.UserLimited,
			ChannelRegex:            ns.ChannelRegex,
			Map:                     mapOptions(&ns.Map),
			TagsFilter:              ns.TagsFilter,
			Members:                 router.Members(ns.Members),
			DeltaTypes:              ns.DeltaTypes,
		}
	}
	return append(out, inboxNamespaces(cfg)...)
}

// replicas is the number of copies of every stream: as configured, else three in
// a cluster and one elsewhere.
func replicas(cfg config.Config, clustered bool) int {
	switch {
	case cfg.NATS.Replicas > 0:
		return cfg.NATS.Replicas
	case clustered:
		return 3
	default:
		return 1
	}
}

// isClustered waits until nc is connected and tells whether the server there
// belongs to a cluster.
func isClustered(ctx context.Context, nc *nats.Conn) (bool, error) {
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for !nc.IsConnected() {
		select {
		case <-poll.C:
		case <-ctx.Done():
			if err := nc.LastError(); err != nil {
				return false, fmt.Errorf("connect to NATS: %w", err)
			}
			return false, fmt.Errorf("connect to NATS: %w", context.Cause(ctx))
		}
	}
	return nc.ConnectedClusterName() != "", nil
}

func storeConfig(cfg config.Config, clustered bool, log *slog.Logger, reg prometheus.Registerer) persistence.Config {
	return persistence.Config{
		Prefix:         cfg.NATS.Prefix,
		Namespaces:     namespaces(cfg),
		Replicas:       replicas(cfg, clustered),
		PublishTimeout: cfg.Router.PublishTimeout,
		Cursors:        cursorsConfig(cfg),
		Log:            log.With("part", "persistence"),
		Metrics:        reg,
	}
}

func edgeConfig(cfg config.Config, nodeID string, log *slog.Logger, reg prometheus.Registerer) edge.Config {
	e := edge.DefaultConfig()
	e.NodeID, e.Version = nodeID, versionString()
	e.Insecure = cfg.Insecure
	e.Tokens, e.SubscriptionTokens = tokenOptions(cfg), subTokenOptions(cfg)
	e.TokenCookie, e.TokenQuery = cfg.Client.Token.Cookie, cfg.Client.Token.Query
	e.AllowAnonymous = cfg.Client.AllowAnonymous
	e.PingInterval, e.PongTimeout = cfg.Client.PingInterval, cfg.Client.PongTimeout
	e.ConnectTimeout, e.WriteTimeout = cfg.Client.ConnectTimeout, cfg.Client.WriteTimeout
	e.UnreadyAfter = cfg.Client.UnreadyAfter
	e.ExpireGrace, e.DrainWindow = cfg.Client.ExpireGrace, cfg.Client.DrainWindow
	e.WorkerGrace = cfg.Client.WorkerGrace
	e.Compression, e.CompressionMinBytes = cfg.Client.Compression, cfg.Client.CompressionMin
	e.MaxMessageBytes, e.QueueBytes = cfg.Client.MaxMessageBytes, cfg.Client.QueueBytes
	e.ChannelLimit, e.MaxChannelLength = cfg.Client.ChannelLimit, cfg.Client.ChannelMaxLength
	e.MaxInflight, e.MaxHistoryLimit = cfg.Client.MaxInflight, cfg.Client.HistoryLimit
	e.APIKey, e.APIInsecure = cfg.HTTPAPI.Key, cfg.HTTPAPI.Insecure || cfg.Insecure
	e.APIMaxInflight, e.APIOnNATS = cfg.HTTPAPI.MaxInflight, cfg.NATS.API
	e.RPCTimeout, e.RPCMaxInflight = cfg.RPC.Timeout, cfg.RPC.MaxInflight
	e.PersonalNamespace = cfg.Client.PersonalNS
	e.MaxAPIBytes = int64(cfg.HTTPAPI.MaxBytes)
	e.AllowedOrigins = cfg.Client.AllowedOrigins
	e.Transports = edge.Transports(cfg.Transports)
	e.APIKeys, e.Limits = cfg.HTTPAPI.Keys, edgeLimits(&cfg.Limits)
	e.Registry, e.Log = reg, log.With("part", "edge")
	return e
}

func edgeLimits(l *config.Limits) edge.Limits {
	burst := func(n, rate int) int {
		if n == 0 {
			return rate
		}
		return n
	}
	return edge.Limits{
		Connections: l.Connections, ConnectionsPerIP: l.ConnectionsPerIP, ConnectionsPerUser: l.ConnectionsPerUser,
		ConnectRate: float64(l.ConnectRate), ConnectBurst: burst(l.ConnectBurst, l.ConnectRate),
		CommandRate: float64(l.CommandRate), CommandBurst: burst(l.CommandBurst, l.CommandRate),
		TrustedProxies: l.Networks(),
	}
}
