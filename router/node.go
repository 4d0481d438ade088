package router

import (
	"context"
)

// Node is the router of one edge.
type Node struct {
	cfg Config
}

// liveChannel is a channel of local interest.
type liveChannel struct{}

// Metrics counts what the router does.
type Metrics struct{}

// New returns a Node; Run makes it work.
func New(cfg Config) (*Node, error) { return &Node{cfg: cfg}, nil }

// Run serves until ctx ends and has released everything when it returns.
func (n *Node) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Ready returns nil while the node can do its work, else the reason.
func (n *Node) Ready() error { return n.cfg.Store.Healthy() }

// Allow returns nil when who may do op in channel by the namespace's rules, else
// an *Error.
func (n *Node) Allow(op Op, channel string, who Access) error { return nil }

// Namespace returns the rules of channel, or an *Error for a bad or unknown one.
func (n *Node) Namespace(channel string) (*Namespace, error) { return nil, nil }

// Subscribe adds s to its channel. done is called exactly once, on the channel's
// shard, before anything is delivered to s; it must not block. On error s was
// not added. It does not check access.
func (n *Node) Subscribe(s *Subscription, req SubscribeRequest, done func(SubscribeResult, error)) {}

// Unsubscribe ends s; nothing is delivered to it once done is called (on the
// shard). done may be nil. Ending a subscription twice is allowed.
func (n *Node) Unsubscribe(s *Subscription, done func()) {}

// Publish makes a publication. done is called exactly once, from any goroutine,
// possibly before Publish returns; it must not block. Publications to one channel take
// effect in the order of the calls. The position is zero without history.
func (n *Node) Publish(req PublishRequest, done func(Position, error)) {}

// History reads a channel's history. It fails with CodeUnrecoverable when
// req.Since is given and its epoch is not the current one.
func (n *Node) History(ctx context.Context, channel string, req HistoryRequest) (HistoryResult, error) {
	return HistoryResult{}, nil
}

// HistoryRemove removes a channel's history; offsets go on.
func (n *Node) HistoryRemove(ctx context.Context, channel string) error { return nil }

// Presence returns the members of channel across the cluster by client id.
func (n *Node) Presence(ctx context.Context, channel string) (map[string]*ClientInfo, error) {
	return nil, nil
}

// PresenceStats counts the members of channel across the cluster.
func (n *Node) PresenceStats(ctx context.Context, channel string) (PresenceStats, error) {
	return PresenceStats{}, nil
}

// Channels returns the channels with subscribers anywhere whose name matches the
// glob pattern ("" is all; * matches any run of characters), with the number of
// their subscribers.
func (n *Node) Channels(ctx context.Context, pattern string) (map[string]int, error) { return nil, nil }

// Info returns all nodes of the cluster, this one included.
func (n *Node) Info(ctx context.Context) ([]NodeInfo, error) { return nil, nil }

// Send pushes data as a message to the sessions of t across the cluster and returns
// how many there were; with none it fails with CodeNotOnline.
func (n *Node) Send(ctx context.Context, t Target, data []byte) (int, error) { return 0, nil }
