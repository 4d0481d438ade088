package edge

import (
	"context"

	"github.com/headrace/headrace/router"
)

// Router is what edge needs of router.Node; see there for the contracts.
type Router interface {
	StateRouter
	Ready() error
	Allow(op router.Op, channel string, who router.Access) error
	Namespace(channel string) (*router.Namespace, error)
	Subscribe(s *router.Subscription, req router.SubscribeRequest, done func(router.SubscribeResult, error))
	Unsubscribe(s *router.Subscription, done func())
	Publish(req router.PublishRequest, done func(router.Position, error))
	History(ctx context.Context, channel string, req router.HistoryRequest) (router.HistoryResult, error)
	HistoryRemove(ctx context.Context, channel string) error
	Presence(ctx context.Context, channel string) (map[string]*router.ClientInfo, error)
	PresenceInOrder(ctx context.Context, channel string, tell func(map[string]*router.ClientInfo)) error
	Members(s *router.Subscription, tell func([]*router.ClientInfo, error))
	PresenceStats(ctx context.Context, channel string) (router.PresenceStats, error)
	Channels(ctx context.Context, pattern string) (map[string]int, error)
	Info(ctx context.Context) ([]router.NodeInfo, error)
	Send(ctx context.Context, t router.Target, data []byte) (int, error)
	SendDirect(ctx context.Context, m router.Message) (int, error)
	Control(ctx context.Context, c router.Control) (router.Controlled, error)
	AllowRPC(method string, who router.Access) error
	RPC(ctx context.Context, req router.RPCRequest) ([]byte, error)
	Tell(req router.RPCRequest) error
	Post(ctx context.Context, node, session string, data []byte) error
	ServeAPI(a router.API)
}

var _ Router = (*router.Node)(nil)
