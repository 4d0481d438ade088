package edge

import (
	"context"

	"github.com/headrace/headrace/router"
)

const methodInboxSend = "inbox.send"

// inboxBuiltins are the rpc methods of inboxes. A client reads its own inbox and
// no other: the user is the session's, whatever the request says.
func (s *Server) inboxBuiltins() map[string]builtin {
	return map[string]builtin{
		methodInboxSend: s.inboxUnordered,
		"inbox.open": typed(func(ctx context.Context, c *session, req *inboxDeviceRequest) (inboxState, error) {
			user, err := c.inboxOwner()
			if err != nil {
				return inboxState{}, err
			}
			st, err := s.cfg.Inbox.Service.Open(ctx, user, req.Device)
			return toInboxState(st), err
		}),
		"inbox.unread": typed(func(ctx context.Context, c *session, req *inboxDeviceRequest) (inboxState, error) {
			user, err := c.inboxOwner()
			if err != nil {
				return inboxState{}, err
			}
			st, err := s.cfg.Inbox.Service.Unread(ctx, user, req.Device)
			return toInboxState(st), err
		}),
		"inbox.ack": typed(func(ctx context.Context, c *session, req *inboxAckRequest) (inboxAcked, error) {
			user, err := c.inboxOwner()
			if err != nil {
				return inboxAcked{}, err
			}
			return s.inboxAck(ctx, user, req)
		}),
		"inbox.list": typed(func(ctx context.Context, c *session, req *inboxListRequest) (inboxPage, error) {
			user, err := c.inboxOwner()
			if err != nil {
				return inboxPage{}, err
			}
			return s.inboxList(ctx, user, req)
		}),
	}
}

func (s *Server) inboxAck(ctx context.Context, user string, req *inboxAckRequest) (inboxAcked, error) {
	a, err := s.cfg.Inbox.Service.Ack(ctx, user, req.Device, router.Position{Offset: req.Number, Epoch: req.Epoch})
	return inboxAcked{Cursor: a.Cursor, Head: a.Head, Epoch: a.Epoch, Moved: a.Moved}, err
}

// inboxUnordered stands for inbox.send in the table of methods; callBuiltin takes
// what startInboxSend returns instead.
func (s *Server) inboxUnordered(ctx context.Context, c *session, data []byte) (any, error) {
	return c.startInboxSend(data)(ctx, c, data)
}

// startInboxSend does of inbox.send what must happen in the order of a session's
// commands, on the reading goroutine: messages to one user are stored in that
// order. The result does the rest.
func (s *session) startInboxSend(data []byte) builtin {
	failed := func(err error) builtin {
		return func(context.Context, *session, []byte) (any, error) { return nil, err }
	}
	var req inboxSendRequest
	user, err := s.inboxOwner()
	if err == nil && !s.srv.cfg.Inbox.AllowSend && !s.srv.cfg.Insecure {
		err = router.Errorf(router.CodeDenied, "permission denied")
	}
	if err == nil {
		err = strictJSON(data, &req)
	}
	if err == nil {
		err = checkIdempotencyKey(req.IdempotencyKey)
	}
	if err != nil {
		return failed(err)
	}
	info, _ := s.caller()
	m := req.message(&info)
	if !req.stored() {
		return func(ctx context.Context, _ *session, _ []byte) (any, error) {
			if err := s.takeMessage(ctx, user); err != nil {
				return nil, err
			}
			return inboxDirect(s.srv.node.SendDirect(ctx, m))
		}
	}
	started := s.storeInOrder(user, m)
	return func(ctx context.Context, _ *session, _ []byte) (any, error) {
		select {
		case answer := <-started:
			sent, err := answer(ctx)
			return toInboxSent(sent), err
		case <-ctx.Done():
			return nil, router.Unavailable("the inbox", ctx.Err())
		}
	}
}

// sendAnswer waits for what became of a message.
type sendAnswer = func(context.Context) (router.Sent, error)

// storeInOrder hands m to the store: at once, or, where publications of users are
// limited, when the limit allows it. Then other messages to the same user wait
// meanwhile.
func (s *session) storeInOrder(user string, m router.Message) <-chan sendAnswer {
	started := make(chan sendAnswer, 1)
	inboxes := s.srv.cfg.Inbox.Service
	channel, err := inboxes.Channel(m.To)
	if s.srv.cfg.UserLimit == nil || err != nil {
		started <- inboxes.Send(m)
		return started
	}
	refuse := func(err error) {
		started <- func(context.Context) (router.Sent, error) { return router.Sent{}, err }
	}
	s.exclusive(channel, func(state *channelState) {
		s.begin()
		s.srv.calls.Go(func() {
			ctx, cancel := context.WithTimeout(s.srv.ctx, callTimeout)
			defer cancel()
			if err := s.takeMessage(ctx, user); err != nil {
				refuse(err)
			} else {
				started <- inboxes.Send(m)
			}
			s.release(state)
			s.end()
		})
	}, func() { refuse(router.Errorf(router.CodeUnavailable, "closed")) })
	return started
}
