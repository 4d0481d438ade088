// Package edge terminates client connections: sockets, frames, sessions and the
// HTTP API. It speaks the Centrifuge client protocol and leaves everything about
// channels to the router.
package edge

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/router"
)

// Config is everything an operator can change about an edge. The zero value is
// not usable; start from DefaultConfig.
type Config struct {
	// NodeID and Version are told to clients and in metrics.
	NodeID  string
	Version string

	// Insecure lets every client do everything, with or without a token. For
	// development and tests only.
	Insecure bool
	// Tokens says which connection tokens are accepted; without a key, none.
	Tokens token.Options
	// SubscriptionTokens does so for subscription tokens; without a key it is as
	// Tokens says.
	SubscriptionTokens token.Options
	// TokenCookie and TokenQuery name a cookie and a query parameter that the
	// connection token may be in; "" means neither. See Server.requestToken.
	TokenCookie string
	TokenQuery  string
	// AllowAnonymous lets clients connect without a token, as user "".
	AllowAnonymous bool

	// PingInterval is the time between server pings, at least 1 s. Proxies
	// commonly cut idle connections after 60 s, so stay below that.
	PingInterval time.Duration
	// PongTimeout is how long a client may take to answer a ping, below
	// PingInterval. Pings are sent from a wheel with steps of a second.
	PongTimeout time.Duration
	// ConnectTimeout closes connections that have not sent a successful connect
	// command by then (disconnect 3502).
	ConnectTimeout time.Duration
	// ExpireGrace is how long a session or subscription outlives its token, so
	// that the client can bring a new one.
	ExpireGrace time.Duration
	// WriteTimeout bounds one write to a socket that is full. A peer that takes
	// nothing for so long is cut.
	WriteTimeout time.Duration
	// DrainWindow is the time over which Shutdown spreads the disconnects. It must be
	// shorter than the time the process is given to stop.
	DrainWindow time.Duration

	// UnreadyAfter is how long the router may be unable to work (no NATS, no
	// leader) before this edge refuses connections and sends its clients
	// elsewhere, over DrainWindow. Elections take up to 9 s, and all edges see
	// them alike, so stay above that.
	UnreadyAfter time.Duration

	// MaxMessageBytes bounds one client message (WebSocket close 1009 above it).
	MaxMessageBytes int
	// Compression offers permessage-deflate to WebSocket clients that ask for it; then
	// frames with a payload of at least CompressionMinBytes are compressed.
	Compression         bool
	CompressionMinBytes int
	// QueueBytes bounds what waits for one slow connection; above it the client
	// is disconnected (3008) and what waited is dropped and counted.
	QueueBytes int
	// ChannelLimit is the number of channels one connection may subscribe to.
	ChannelLimit int
	// MaxChannelLength bounds the length of a channel in bytes.
	MaxChannelLength int
	// MaxInflight bounds the commands of one connection that wait for the
	// cluster; at the bound the connection is not read from.
	MaxInflight int
	// MaxHistoryLimit bounds the publications of one history reply to a client.
	MaxHistoryLimit int

	// APIKey and APIKeys protect the HTTP API; each one is valid. Without any the
	// API refuses every request unless APIInsecure is set.
	APIKey      string
	APIKeys     []string
	APIInsecure bool
	// MaxAPIBytes bounds one HTTP API request.
	MaxAPIBytes int64

	// APIMaxInflight bounds the API calls under way, of HTTP and of NATS each;
	// above it they are answered with error 111.
	APIMaxInflight int
	// APIOnNATS answers the API on <prefix>.api.<method> too.
	APIOnNATS bool

	// RPCTimeout bounds the wait for a back end.
	RPCTimeout time.Duration
	// RPCMaxInflight bounds the calls of back ends under way on this edge; above it
	// clients get error 111.
	RPCMaxInflight int
	// PersonalNamespace, when set, subscribes every client with a user id to the
	// channel #<user> of that namespace.
	PersonalNamespace string
	// Inbox says what clients may do with inboxes.
	Inbox InboxConfig

	// AllowedOrigins lists values of the Origin header that may connect, "*"
	// for all. Empty allows the own host only. Requests without Origin (not a
	// browser) are always allowed.
	AllowedOrigins []string

	// Transports are those beside WebSocket.
	Transports Transports
	// Limits bound connections and commands of this edge.
	Limits Limits
	// UserLimit bounds the publications of a user over all edges; nil: it does not.
	UserLimit UserLimit

	// Queues are the durable queues; nil is none. QueueRules says what clients may
	// do with each.
	Queues     router.Queues
	QueueRules []router.Queue
	// WorkerGrace is how long the jobs of a worker that left wait for it to settle
	// them through another node, before others get them.
	WorkerGrace time.Duration

	// Registry takes the metrics; nil registers them nowhere.
	Registry prometheus.Registerer
	// Log receives what an operator should know; nil discards it.
	Log *slog.Logger
}

// DefaultConfig returns the documented defaults: nothing is allowed until a
// secret, AllowAnonymous or Insecure is set.
func DefaultConfig() Config {
	return Config{
		PingInterval:    25 * time.Second,
		PongTimeout:     8 * time.Second,
		ConnectTimeout:  10 * time.Second,
		ExpireGrace:     25 * time.Second,
		WriteTimeout:    10 * time.Second,
		DrainWindow:     5 * time.Second,
		WorkerGrace:     5 * time.Second,
		UnreadyAfter:    20 * time.Second,
		MaxMessageBytes: 64 << 10,
		QueueBytes:      1 << 20,

		CompressionMinBytes: 1024,

		ChannelLimit:     128,
		MaxChannelLength: 255,
		MaxInflight:      64,
		MaxHistoryLimit:  1000,
		MaxAPIBytes:      4 << 20,
		APIMaxInflight:   512,
		APIOnNATS:        true,
		RPCTimeout:       5 * time.Second,
		RPCMaxInflight:   1024,
		Transports:       defaultTransports(),
	}
}

// Validate reports every problem at once.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("edge: "+format, args...))
		}
	}
	check(c.PingInterval >= time.Second, "ping_interval %v is below 1s", c.PingInterval)
	check(c.PongTimeout >= time.Second && c.PongTimeout < c.PingInterval,
		"pong_timeout %v must be at least 1s and below ping_interval %v", c.PongTimeout, c.PingInterval)
	check(c.ConnectTimeout >= time.Second, "connect_timeout %v is below 1s", c.ConnectTimeout)
	check(c.ExpireGrace >= 0, "expire_grace %v is negative", c.ExpireGrace)
	check(c.WriteTimeout > 0, "write_timeout %v must be positive", c.WriteTimeout)
	check(c.DrainWindow >= 0, "drain_window %v is negative", c.DrainWindow)
	check(c.WorkerGrace >= 0, "worker_grace %v is negative", c.WorkerGrace)
	check(c.UnreadyAfter >= 10*time.Second, "unready_after %v is below 10s: an election would send all clients away", c.UnreadyAfter)
	check(c.MaxMessageBytes > 0, "max_message_bytes %d must be positive", c.MaxMessageBytes)
	check(c.CompressionMinBytes >= 64, "compression_min_bytes %d is below 64: such a frame only grows", c.CompressionMinBytes)
	check(c.QueueBytes > 0, "queue_bytes %d must be positive", c.QueueBytes)
	check(c.ChannelLimit > 0, "channel_limit %d must be positive", c.ChannelLimit)
	check(c.MaxChannelLength > 0, "max_channel_length %d must be positive", c.MaxChannelLength)
	check(c.MaxInflight > 0, "max_inflight %d must be positive", c.MaxInflight)
	check(c.MaxHistoryLimit > 0, "max_history_limit %d must be positive", c.MaxHistoryLimit)
	check(c.MaxAPIBytes > 0, "max_api_bytes %d must be positive", c.MaxAPIBytes)
	check(c.APIMaxInflight > 0, "api_max_inflight %d must be positive", c.APIMaxInflight)
	check(c.RPCTimeout > 0 && c.RPCTimeout < callTimeout, "rpc_timeout %v must be positive and below %v", c.RPCTimeout, callTimeout)
	check(c.RPCMaxInflight > 0, "rpc_max_inflight %d must be positive", c.RPCMaxInflight)
	l := &c.Limits
	check(min(l.Connections, l.ConnectionsPerIP, l.ConnectionsPerUser, l.ConnectBurst, l.CommandBurst) >= 0 && min(l.ConnectRate, l.CommandRate) >= 0, "a limit is negative")
	return errors.Join(append(errs, c.Transports.validate())...)
}
