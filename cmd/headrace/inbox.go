package main

import (
	"github.com/headrace/headrace/edge"
	"github.com/headrace/headrace/internal/config"
	"github.com/headrace/headrace/persistence"
	"github.com/headrace/headrace/router"
)

// inboxNamespaces is the namespace of inboxes, if there are any.
func inboxNamespaces(cfg config.Config) []router.Namespace {
	in := &cfg.Inbox
	if !in.Enabled {
		return nil
	}
	return []router.Namespace{router.InboxNamespace(in.Namespace, in.HistorySize, in.Retention, in.Partitions, in.MemoryStorage)}
}

func cursorsConfig(cfg config.Config) persistence.CursorsConfig {
	return persistence.CursorsConfig{Enabled: cfg.Inbox.Enabled, TTL: cfg.Inbox.DeviceTTL, MemoryStorage: cfg.Inbox.MemoryStorage}
}

// routerInbox returns nil without inboxes.
func routerInbox(cfg config.Config, store *persistence.Store) *router.InboxConfig {
	in := &cfg.Inbox
	if !in.Enabled {
		return nil
	}
	return &router.InboxConfig{
		Namespace: in.Namespace, MaxMessageBytes: in.MaxMessageBytes, MaxDevices: in.MaxDevices, DeviceTTL: in.DeviceTTL, Cursors: store.Cursors(),
	}
}

func edgeInbox(cfg config.Config, node *router.Node) edge.InboxConfig {
	if !cfg.Inbox.Enabled {
		return edge.InboxConfig{}
	}
	return edge.InboxConfig{Service: node.Inbox(), Namespace: cfg.Inbox.Namespace, AllowSend: cfg.Inbox.AllowSend, AutoSubscribe: cfg.Inbox.AutoSubscribe}
}
