package config

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// validate adds everything that is wrong with cfg as a whole to d.problems. The
// rules of namespaces are package router's; the caller checks them.
func (d *decoder) validate(cfg *Config) {
	check := func(ok bool, path, format string, args ...any) {
		if !ok {
			d.problems = append(d.problems, Problem{Where: d.origin[path], Key: path, What: fmt.Sprintf(format, args...)})
		}
	}
	check(hostPort(cfg.Address), "address", "%q is not host:port, such as 127.0.0.1:8000", cfg.Address)
	remote := !loopback(cfg.Address) && !cfg.InsecureAllowRemote
	const remedy = "would let everyone who reaches %s do everything; listen on 127.0.0.1, or set insecure_allow_remote: true if that is what you want"
	check(!cfg.Insecure || !remote, "insecure", remedy, cfg.Address)
	check(!cfg.HTTPAPI.Insecure || !remote, "http_api.insecure", remedy, cfg.Address)
	validateNATS(&cfg.NATS, cfg.Data, check)
	validateClient(&cfg.Client, check)
	validateFrontDoor(cfg, check)
	validateTransports(cfg, check)
	validateInbox(cfg, check)
	validateTokens(&cfg.Client, check)
	check(cfg.HTTPAPI.MaxBytes > 0, "http_api.max_bytes", "%d must be positive", cfg.HTTPAPI.MaxBytes)
	check(cfg.HTTPAPI.MaxInflight > 0, "http_api.max_inflight", "%d must be positive", cfg.HTTPAPI.MaxInflight)
	check(within(cfg.RPC.Timeout, 10*time.Millisecond, 10*time.Second), "rpc.timeout", "%v is not within 10ms to 10s", cfg.RPC.Timeout)
	check(cfg.RPC.MaxInflight > 0, "rpc.max_inflight", "%d must be positive", cfg.RPC.MaxInflight)
	check(!slices.Contains(cfg.RPC.Allow, ""), "rpc.allow", `has an empty pattern; "*" is every method`)
	check(!slices.Contains(cfg.RPC.AllowAnonymous, ""), "rpc.allow_for_anonymous", `has an empty pattern; "*" is every method`)
	if ns := cfg.Client.PersonalNS; ns != "" {
		named := func(n Namespace) bool { return n.Name == ns }
		check(slices.ContainsFunc(cfg.Namespaces, named), "client.personal_namespace", "%q is not among the namespaces", ns)
	}
	check(cfg.Router.Linger >= 0, "router.linger", "%v is negative", cfg.Router.Linger)
	check(cfg.Router.SweepInterval >= time.Second, "router.sweep_interval", "%v is below 1s", cfg.Router.SweepInterval)
	check(within(cfg.Router.HeartbeatInterval, 100*time.Millisecond, time.Minute), "router.heartbeat_interval", "%v is not within 100ms to 1m", cfg.Router.HeartbeatInterval)
	check(cfg.Router.PresenceMembers > 0, "router.presence_members", "%d is not positive", cfg.Router.PresenceMembers)
	check(cfg.Router.PresenceNodeMembers > 0, "router.presence_node_members", "%d is not positive", cfg.Router.PresenceNodeMembers)
	check(within(cfg.Router.PublishTimeout, time.Second, 90*time.Second), "router.publish_timeout", "%v is not within 1s to 90s (the log remembers a publication's id for 2m)", cfg.Router.PublishTimeout)
	check(slices.Contains([]string{"debug", "info", "warn", "error"}, cfg.Log.Level), "log.level", "%q is not one of debug, info, warn, error", cfg.Log.Level)
	check(cfg.Log.Format == "text" || cfg.Log.Format == "json", "log.format", "%q is neither text nor json", cfg.Log.Format)
	seen := make(map[string]bool)
	for i, ns := range cfg.Namespaces {
		path := fmt.Sprintf("namespaces[%d].name", i)
		check(ns.Name != "", path, "is missing; use %q for channels without a namespace", "default")
		check(!seen[ns.Name] || ns.Name == "", path, "%q is declared twice", ns.Name)
		seen[ns.Name] = true
	}
	queues := make(map[string]bool)
	for i, q := range cfg.Queues {
		path := fmt.Sprintf("queues[%d].name", i)
		check(q.Name != "", path, "is missing")
		check(!queues[q.Name] || q.Name == "", path, "%q is declared twice", q.Name)
		check(!seen["queue"], path, "clients name queues queue:%s, which would be a channel of the namespace queue; rename that", q.Name)
		queues[q.Name] = true
	}
}

func validateNATS(n *NATS, data string, check func(bool, string, string, ...any)) {
	check(n.URL != "" || data != "", "data", "is empty; the embedded NATS server needs a directory (or set nats.url)")
	check(n.URL == "" || n.Listen == "", "nats.listen", "is for the embedded server, but nats.url is set; remove one")
	check(n.Listen == "" || hostPort(n.Listen), "nats.listen", "%q is not host:port, such as 127.0.0.1:4222", n.Listen)
	check(n.Listen == "" || loopback(n.Listen), "nats.listen", "%q can be reached by other machines, and the embedded server asks for no password; listen on 127.0.0.1, or run a NATS server with users and set nats.url", n.Listen)
	check(n.Replicas == 0 || n.Replicas == 1 || n.Replicas == 3 || n.Replicas == 5, "nats.replicas", "%d is not 0, 1, 3 or 5", n.Replicas)
	check(n.URL != "" || n.Replicas <= 1, "nats.replicas", "%d needs a cluster: set nats.url", n.Replicas)
	check(n.Prefix != "" && !strings.ContainsAny(n.Prefix, ".*> \t\r\n$/\\"), "nats.prefix", "%q is not one plain subject token, such as hr", n.Prefix)
	check(n.OpenTimeout > 0, "nats.open_timeout", "%v must be positive", n.OpenTimeout)
	check(n.SyncEvery >= 0, "nats.sync_interval", "%v is negative", n.SyncEvery)
	check((n.TLS.Cert == "") == (n.TLS.Key == ""), "nats.tls.cert", "and nats.tls.key go together; set both or none")
	logins := 0
	for _, s := range []string{n.Credentials, n.NKey, n.User} {
		if s != "" {
			logins++
		}
	}
	check(logins <= 1, "nats.credentials", "nats.nkey and nats.user are alternatives; keep one")
}

func validateClient(c *Client, check func(bool, string, string, ...any)) {
	check(c.PingInterval >= time.Second, "client.ping_interval", "%v is below 1s", c.PingInterval)
	check(c.PongTimeout >= time.Second && c.PongTimeout < c.PingInterval, "client.pong_timeout", "%v is not between 1s and ping_interval %v", c.PongTimeout, c.PingInterval)
	check(c.ConnectTimeout >= time.Second, "client.connect_timeout", "%v is below 1s", c.ConnectTimeout)
	check(c.WriteTimeout > 0, "client.write_timeout", "%v must be positive", c.WriteTimeout)
	check(c.UnreadyAfter >= 10*time.Second, "client.unready_after", "%v is below 10s: an election would send all clients away", c.UnreadyAfter)
	check(c.MaxMessageBytes >= 1024 && c.MaxMessageBytes <= 1<<20, "client.max_message_bytes", "%d is not within 1024 and 1048576 (NATS carries 1 MiB)", c.MaxMessageBytes)
	check(c.CompressionMin >= 64 && c.CompressionMin <= 1<<20, "client.compression_min_bytes", "%d is not within 64 and 1048576", c.CompressionMin)
	check(c.QueueBytes >= c.MaxMessageBytes, "client.queue_bytes", "%d is below max_message_bytes %d", c.QueueBytes, c.MaxMessageBytes)
	check(c.ChannelLimit > 0, "client.channel_limit", "%d must be positive", c.ChannelLimit)
	check(c.ChannelMaxLength > 0 && c.ChannelMaxLength <= 1024, "client.channel_max_length", "%d is not within 1 to 1024", c.ChannelMaxLength)
	check(c.MaxInflight > 0, "client.max_inflight", "%d must be positive", c.MaxInflight)
	check(c.HistoryLimit > 0, "client.history_limit", "%d must be positive", c.HistoryLimit)
	check(c.ExpireGrace >= 0, "client.expire_grace", "%v is negative", c.ExpireGrace)
	check(c.WorkerGrace >= 0, "client.worker_grace", "%v is negative", c.WorkerGrace)
	check(c.DrainWindow >= 0, "client.drain_window", "%v is negative", c.DrainWindow)
}

func within(d, low, high time.Duration) bool { return d >= low && d <= high }

func hostPort(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	n, err := strconv.Atoi(port)
	return err == nil && n >= 0 && n <= 65535
}

// loopback reports whether only this machine can reach addr.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
