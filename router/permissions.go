package router

import (
	"time"

	"github.com/headrace/headrace/internal/natsperm"
)

// PermissionOptions says which parts of the package are used.
type PermissionOptions struct {
	API bool // the server API is answered on NATS
	RPC bool // clients may call back ends
}

// Permissions returns what a NATS user must be allowed for a Node with cfg, of
// which only Prefix and Namespaces matter. What a store needs is not in it.
func Permissions(cfg Config, opt PermissionOptions) natsperm.Set {
	setDefault(&cfg.Prefix, "hr")
	var s natsperm.Set
	add := func(d natsperm.Direction, subject, need string) {
		s.Rules = append(s.Rules, natsperm.Rule{Direction: d, Subject: subject, Need: need})
	}
	both := func(subject, need string) {
		add(natsperm.Publish, subject, need)
		add(natsperm.Subscribe, subject, need)
	}
	add(natsperm.Subscribe, natsperm.InboxPrefix(cfg.Prefix)+".>", "answers to this node")
	add(natsperm.Publish, natsperm.InboxPrefix(cfg.Prefix)+".>", "answers to other nodes")
	both(cfg.Prefix+ctlHeartbeat, "nodes tell of themselves")
	both(cfg.Prefix+ctlHello, "a new node asks for the others")
	both(cfg.Prefix+ctlAsk, "questions to all nodes: presence, channels, messages")
	both(cfg.Prefix+".node.*.post", "commands that clients of HTTP streaming and SSE post to any node")
	for _, ns := range cfg.Namespaces {
		if ns.Members != "" {
			continue // its channels are views of others
		}
		if ns.HistorySize > 0 {
			add(natsperm.Subscribe, cfg.Prefix+".live."+ns.Name+".>", "live copies of "+ns.Name)
		} else {
			both(cfg.Prefix+".eph."+ns.Name+".>", "publications of "+ns.Name+", which has no history")
		}
		if ns.JoinLeave || ns.ForceJoinLeave {
			both(cfg.Prefix+".ctl.jl."+ns.Name+".>", "joins and leaves of "+ns.Name)
		}
	}
	if opt.API {
		add(natsperm.Subscribe, cfg.Prefix+".api.>", "calls of the server API")
		add(natsperm.Subscribe, "$SRV.>", "discovery of the server API, nats micro ls")
		s.Responses = &natsperm.Responses{Max: 1, TTL: 30 * time.Second} // an API call takes less
	}
	if opt.RPC {
		add(natsperm.Publish, cfg.Prefix+".rpc.>", "calls of back ends for clients")
	}
	return s
}

// BackEndPermissions returns what a NATS user must be allowed that publishes,
// calls the server API and answers clients' calls.
func BackEndPermissions(cfg Config, opt PermissionOptions) natsperm.Set {
	setDefault(&cfg.Prefix, "hr")
	var s natsperm.Set
	add := func(d natsperm.Direction, subject, need string) {
		s.Rules = append(s.Rules, natsperm.Rule{Direction: d, Subject: subject, Need: need})
	}
	add(natsperm.Subscribe, "_INBOX.>", "answers to this back end")
	for _, ns := range cfg.Namespaces {
		if ns.Members != "" {
			continue // its channels are views of others
		}
		if ns.HistorySize > 0 {
			add(natsperm.Publish, cfg.Prefix+".in."+ns.Name+".>", "publish to channels of "+ns.Name)
		} else {
			add(natsperm.Publish, cfg.Prefix+".eph."+ns.Name+".>", "publish to channels of "+ns.Name+", which has no history")
		}
	}
	if opt.API {
		add(natsperm.Publish, cfg.Prefix+".api.>", "call the server API")
		add(natsperm.Publish, "$SRV.>", "find the server API, nats micro ls")
	}
	if opt.RPC {
		add(natsperm.Subscribe, cfg.Prefix+".rpc.>", "calls of clients")
		s.Responses = &natsperm.Responses{Max: 1, TTL: 15 * time.Second}
	}
	return s
}
