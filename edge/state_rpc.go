package edge

import (
	"context"

	"github.com/headrace/headrace/router"
)

// stateBuiltins are the rpc methods of versioned state. Reading a channel's keys
// is allowed to who may subscribe to it, setting them is publishing, removing them
// is an operation of its own.
func (s *Server) stateBuiltins() map[string]builtin {
	return map[string]builtin{
		"state.get":     typed(rpcStateGet),
		"state.set":     typed(rpcStateSet),
		"state.delete":  typed(rpcStateDelete),
		"state.history": typed(rpcStateHistory),
		"state.sync":    typed(rpcStateSync),
	}
}

// allowRead returns nil when the client may know what is in channel: it is
// subscribed, or may subscribe without further ado.
func (s *session) allowRead(channel string) error {
	if err := s.checkName(channel); err != nil {
		return err
	}
	who := s.access(channel)
	if who.Subscribed {
		return nil
	}
	return s.srv.node.Allow(router.OpSubscribe, channel, who)
}

func rpcStateGet(ctx context.Context, s *session, req *stateGetRequest) (stateGot, error) {
	if err := s.allowRead(req.Channel); err != nil {
		return stateGot{}, err
	}
	return s.srv.apiStateGet(ctx, req)
}

func rpcStateHistory(ctx context.Context, s *session, req *stateHistoryRequest) (stateVersions, error) {
	if err := s.allowRead(req.Channel); err != nil {
		return stateVersions{}, err
	}
	return s.srv.apiStateHistory(ctx, req)
}

func rpcStateSet(ctx context.Context, s *session, req *stateSetRequest) (*stateChanged, error) {
	c, err := req.change()
	if err != nil {
		return nil, err
	}
	return s.changeState(ctx, req.Channel, c)
}

func rpcStateDelete(ctx context.Context, s *session, req *stateDeleteRequest) (*stateChanged, error) {
	c, err := req.change()
	if err != nil {
		return nil, err
	}
	return s.changeState(ctx, req.Channel, c)
}

func (s *session) changeState(ctx context.Context, channel string, c router.Change) (*stateChanged, error) {
	w, err := s.stateWriter(channel)
	if err != nil {
		return nil, err
	}
	if err := w.prepare(ctx, &c); err != nil {
		return nil, err
	}
	return s.srv.changeState(ctx, channel, c)
}

func rpcStateSync(ctx context.Context, s *session, req *stateSyncRequest) (stateSynced, error) {
	w, err := s.stateWriter(req.Channel)
	if err != nil {
		return stateSynced{}, err
	}
	return s.srv.syncState(ctx, req, func(c *router.Change) error { return w.prepare(ctx, c) })
}

// stateWriter is a client that changes keys of a channel. What it may do is found
// out once per call.
type stateWriter struct {
	s       *session
	channel string
	options *router.MapOptions
	ownKey  string // the only key it may change; "" is any
	info    *router.ClientInfo
	refused error // the user has no message left: the changes that follow have none either
}

func (s *session) stateWriter(channel string) (*stateWriter, error) {
	if err := s.checkName(channel); err != nil {
		return nil, err
	}
	if err := s.srv.checkIsMap(channel); err != nil {
		return nil, err
	}
	ns, err := s.srv.node.Namespace(channel)
	if err != nil {
		return nil, err
	}
	w := &stateWriter{s: s, channel: channel, options: ns.Map, info: s.clientInfo(channel)}
	switch ns.Map.ClientKey {
	case router.ClientKeyClient:
		w.ownKey = w.info.Client
	case router.ClientKeyUser:
		if w.ownKey = w.info.User; w.ownKey == "" {
			return nil, router.Errorf(router.CodeDenied, "the key is the user's id, and the client has none")
		}
	}
	return w, nil
}

// prepare makes c the client's, or returns why the client may not make it.
func (w *stateWriter) prepare(ctx context.Context, c *router.Change) error {
	op := router.OpPublish
	if c.Remove {
		op = router.OpRemove
	}
	if err := w.s.allow(op, w.channel); err != nil {
		return err
	}
	switch {
	case w.ownKey == "":
	case c.Key == "" || c.Key == w.ownKey:
		c.Key = w.ownKey
	default:
		return router.Errorf(router.CodeDenied, "clients may change the key %q only: it is their %s", w.ownKey, w.options.ClientKey)
	}
	if w.options.RemoveOnUnsubscribe && !c.Remove {
		// An rpc may be overtaken by the end of the subscription, and the key would stay.
		return router.Errorf(router.CodeNotAvailable, "keys of this namespace last as long as the client's subscription: publish them there")
	}
	if w.options.Conflict == router.StrategyCustom && c.Strategy != "" && c.Strategy != router.StrategyCustom && !w.s.srv.cfg.Insecure {
		return router.Errorf(router.CodeDenied, "a back end decides about changes in this namespace; strategy %q would pass it by", c.Strategy)
	}
	c.User, c.Info = w.info.User, w.info
	if c.IdempotencyKey != "" && c.User == "" {
		// Anonymous clients are not told apart: the key of one would swallow the change
		// of another (rule W3).
		return router.Errorf(router.CodeInvalid, "an idempotency_key needs a client with a user id")
	}
	if w.refused == nil {
		w.refused = w.s.takeMessage(ctx, c.User)
	}
	return w.refused
}
