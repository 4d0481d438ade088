package router

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
)

// Config is what a Node is made of.
type Config struct {
	// NodeID names this node in the cluster; unique per process start.
	NodeID string
	// NodeName is shown to people; the host name by default.
	NodeName string
	Version  string
	// Prefix is the first token of every subject; "hr" by default.
	Prefix     string
	Namespaces []Namespace

	// Core is the connection for live copies, ephemeral channels and control.
	// Its reconnect buffer must be off, so that a publish fails rather than
	// arrive after it was reported as failed.
	Core     *nats.Conn
	Store    Store
	Sessions Sessions
	Metrics  *Metrics
	Log      *slog.Logger

	// Linger is how long interest in a channel outlives its last subscriber, so
	// that a mass reconnect finds its ring. 30 s by default.
	Linger time.Duration
	// SweepInterval is the bound within which a lost last message is found: every
	// channel's head is compared with the leader's this often. 30 s by default.
	SweepInterval time.Duration
	// HeartbeatInterval is how often nodes tell of themselves; a node silent for
	// three of them is gone. 1 s by default.
	HeartbeatInterval time.Duration
	// MaxJoinBuffer bounds live entries held per channel while its history is
	// read; above it the join starts over. 4,096 by default.
	MaxJoinBuffer int
	// RPC says which methods of back ends clients may call.
	RPC RPCRules

	// Inbox gives users inboxes; nil does not.
	Inbox *InboxConfig

	// RingCacheBytes bounds the memory of all rings (recent publications of
	// channels held for recovery). 64 MiB by default.
	RingCacheBytes int64

	// PresenceMembers bounds the members of a channel, at other nodes, that this node
	// follows for joins and leaves; 10,000 by default. PresenceNodeMembers bounds them
	// for all channels together; 500,000 by default. Above either, joins and leaves are
	// told at most once and not for members of a node that was killed.
	PresenceMembers     int
	PresenceNodeMembers int
}

// Push is one thing that happens in a channel: exactly one of Pub, Join and Leave is
// set.
type Push struct {
	Pub   *Publication
	Join  *ClientInfo
	Leave *ClientInfo
	// Before is the value that Pub replaces, in maps of namespaces with deltas, if it
	// is known here.
	Before *StateEntry

	// Of joins and leaves.
	Hidden bool // presence does not show the client
	// User: it is the first client of its user, or the last one. Only told where a
	// subscriber asked for it, see SubscribeRequest.Users.
	User bool
}

// MaxFrameKinds bounds the kinds of frame a Batch caches.
const MaxFrameKinds = 10

// Batch is what a channel delivers in one pass, at least one push. It is encoded
// at most once per frame kind, whatever the number of subscribers. It belongs to
// the channel's shard: Frame may be called from within Deliver only.
type Batch struct {
	Channel string
	Pushes  []Push
	frames  [MaxFrameKinds][]byte
	parts   map[any]*Batch // made by Part; nil for most
}

// Part returns the cached batch for key, made of b by build on first use: what all
// subscribers get that want the same of b. It may be nil, which is nothing.
func (b *Batch) Part(key any, build func(*Batch) *Batch) *Batch {
	part, ok := b.parts[key]
	if !ok {
		part = build(b)
		if b.parts == nil {
			b.parts = make(map[any]*Batch, 1)
		}
		b.parts[key] = part
	}
	return part
}

// Frame returns the cached encoding of b for kind, in [0, MaxFrameKinds), made
// by encode on first use. The result is shared: nobody may change it.
func (b *Batch) Frame(kind int, encode func(*Batch) []byte) []byte {
	if b.frames[kind] == nil {
		b.frames[kind] = encode(b)
	}
	return b.frames[kind]
}

// Subscriber receives what the channels of one session deliver. Its methods are
// called on shard goroutines (one at a time per channel) and must not block.
type Subscriber interface {
	Deliver(s *Subscription, b *Batch)
	// Dropped tells that the router ended s; nothing is delivered after it.
	Dropped(s *Subscription, reason UnsubscribeReason)
}

// UnsubscribeReason says why the router ended a subscription. The numbers are
// the client protocol's.
type UnsubscribeReason uint32

// The reasons.
const (
	// UnsubscribedInsufficientState: entries between the last delivered and the
	// next are gone, so going on would skip them silently.
	UnsubscribedInsufficientState UnsubscribeReason = 2500
	// UnsubscribedStateInvalidated: the history was rewound or replaced.
	UnsubscribedStateInvalidated UnsubscribeReason = 2502
)

// Subscription is one session in one channel. The caller fills the exported
// fields, hands it to Subscribe once, and may not change it afterwards.
type Subscription struct {
	Channel    string
	Subscriber Subscriber
	// Info is what presence and join/leave tell of the subscriber.
	Info *ClientInfo

	// Owned by the channel's shard.
	ch        *liveChannel
	index     int    // in ch.subs
	floor     uint64 // publications up to this offset are never delivered again
	joinLeave bool
	exact     bool // see SubscribeRequest.Exact
	ended     bool

	// Set by the caller too (here, where they cost no memory): the subscriber is
	// left out of presence, its coming and going is not told.
	NoPresence  bool
	NoJoinLeave bool
}

// SubscribeRequest says how to subscribe.
type SubscribeRequest struct {
	// Recover asks for what was published after Position.
	Recover  bool
	Position Position
	// Recoverable and Positioned ask for a position in the reply; channels
	// without history refuse by not setting them in the result.
	Recoverable bool
	Positioned  bool
	JoinLeave   bool
	// Exact, with JoinLeave, is for subscribers to whom a join or leave that is missing
	// means a wrong picture. Where a channel has more members than nodes follow, they are
	// refused with CodeLimit, or ended with UnsubscribedInsufficientState when it comes to
	// that. Users asks for Push.User.
	Exact bool
	Users bool
	// RejectUnrecovered refuses with CodeUnrecoverable instead of subscribing
	// without what was missed.
	RejectUnrecovered bool
	// Data is what the client sent beside; channels do not look at it.
	Data []byte
	// State is the state of a map, read at Position, that the subscriber is told: it
	// is remembered for Push.Before.
	State []StateEntry
	// Fit, when set, says how many of the publications that were missed fit into the
	// answer. With fewer than all nothing is subscribed: see SubscribeResult.More. It
	// is called on the channel's shard and must not block.
	Fit func([]*Publication) int
}

// SubscribeResult is what a subscriber is told before any push.
type SubscribeResult struct {
	Recoverable   bool
	Positioned    bool
	WasRecovering bool
	// Recovered is true when Publications are exactly what followed the asked
	// position (in cache mode: the last publication, if newer).
	Recovered    bool
	Position     Position // of the last entry the subscriber now knows of
	Publications []*Publication
	// More is true when only the first of the missed publications are in
	// Publications. The subscription was then not made, and its Subscription may be
	// used again.
	More bool
}

// PublishRequest is one publication to make.
type PublishRequest struct {
	Channel string
	Data    []byte
	Info    *ClientInfo
	Tags    map[string]string
	// IdempotencyKey makes repeats within the duplicate window (2 min) have no
	// effect; it is scoped to Channel and Info.User.
	IdempotencyKey string
}

// HistoryRequest selects publications.
type HistoryRequest struct {
	Limit   int // 0: only the position; negative: all
	Since   *Position
	Reverse bool
}

// HistoryResult is part of a channel's history and its newest position.
type HistoryResult struct {
	Position     Position
	Publications []*Publication
}

// Op is what a client wants to do with a channel.
type Op uint8

// The operations.
const (
	OpSubscribe Op = iota
	OpPublish
	OpHistory
	OpPresence
	OpRemove      // of a key in a map
	OpDeadLetters // of a queue: look at them and redrive them
)

// Access is what is known of a client that wants to do something.
type Access struct {
	User       string // "" is anonymous
	Insecure   bool   // everything is allowed
	Subscribed bool   // to the channel in question
	Granted    Ops    // by patterns that match the channel: capabilities
	Invited    Ops    // by something that names the channel: a subscription token
}

// Target addresses sessions. Exactly one field is set.
type Target struct {
	All    bool   `json:"all,omitempty"`
	User   string `json:"user,omitempty"`
	Client string `json:"client,omitempty"`
}

// Sessions are the sessions of this node; edge implements it.
type Sessions interface {
	// Message pushes data to the matching sessions and returns how many.
	Message(t Target, data []byte) int
	// Control does c to the matching sessions and waits until it took effect.
	Control(ctx context.Context, c Control) Controlled
	// Post hands commands to the session of that name, a secret, or returns an
	// *Error. It does not block.
	Post(session string, data []byte) error
	// Count returns the number of sessions.
	Count() int
}

// NodeInfo describes one node of the cluster.
type NodeInfo struct {
	ID       string `json:"uid"`
	Name     string `json:"name"`
	Version  string `json:"version"`
	Clients  int    `json:"num_clients"`
	Channels int    `json:"num_channels"`
	Subs     int    `json:"num_subs"`
	Uptime   int64  `json:"uptime"` // seconds
}

// PresenceStats counts the members of a channel.
type PresenceStats struct {
	Clients int
	Users   int
}
