package config

import "time"

// Transports is what is served beside WebSocket, for clients that cannot have one
// and for people without an SDK.
type Transports struct {
	HTTPStream   bool `yaml:"http_stream" doc:"serves /connection/http_stream, and /emulation"`
	SSE          bool `yaml:"sse" doc:"serves /connection/sse, and /emulation"`
	UniWebSocket bool `yaml:"uni_websocket" doc:"serves /connection/uni_websocket, which clients only listen to"`
	UniSSE       bool `yaml:"uni_sse" doc:"serves /connection/uni_sse for a plain EventSource"`
	Poll         bool `yaml:"poll" doc:"serves /poll"`

	EmulationMaxInflight int           `yaml:"emulation_max_inflight" doc:"requests to /emulation on their way to other nodes; more get HTTP status 503"`
	EmulationOrderWait   time.Duration `yaml:"emulation_order_wait" doc:"how long posted commands wait for an earlier one that is on its way; a lost TCP handshake is tried again after 1s (RFC 6298)"`
	UniChannelLimit      int           `yaml:"uni_channel_limit" doc:"channels of one EventSource or poll; every event carries the positions of all of them"`
	PollMaxWaiting       int           `yaml:"poll_max_waiting" doc:"polls of a node that wait; more get HTTP status 503"`
	PollMaxTimeout       time.Duration `yaml:"poll_max_timeout" doc:"longest time a poll waits, and how long it does without timeout; below the idle timeout of proxies"`
}

func defaultTransports() Transports {
	return Transports{
		HTTPStream: true, SSE: true, UniWebSocket: true, UniSSE: true, Poll: true,
		EmulationMaxInflight: 1024, EmulationOrderWait: 2 * time.Second, UniChannelLimit: 16, PollMaxWaiting: 1024, PollMaxTimeout: 25 * time.Second,
	}
}

func validateTransports(cfg *Config, check checkFunc) {
	t := &cfg.Transports
	check(t.EmulationMaxInflight > 0, "transports.emulation_max_inflight", "%d must be positive", t.EmulationMaxInflight)
	// SDKs give a command up after 5 s, and those behind a lost one shall not be.
	check(t.EmulationOrderWait > 0 && t.EmulationOrderWait <= 4*time.Second, "transports.emulation_order_wait", "%v is not within 0 to 4s", t.EmulationOrderWait)
	// Last-Event-ID is a header, and headers have 16 KiB.
	check(t.UniChannelLimit > 0 && t.UniChannelLimit <= 32, "transports.uni_channel_limit", "%d is not within 1 to 32", t.UniChannelLimit)
	check(t.PollMaxWaiting > 0, "transports.poll_max_waiting", "%d must be positive", t.PollMaxWaiting)
	check(t.PollMaxTimeout >= time.Second && t.PollMaxTimeout <= 5*time.Minute, "transports.poll_max_timeout", "%v is not within 1s to 5m", t.PollMaxTimeout)
}
