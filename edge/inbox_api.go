package edge

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/router"
)

type apiInboxSendRequest struct {
	inboxSendRequest
	// From is the user that the message is from; "" is the server.
	From string `json:"from"`
}

type apiInboxUser struct {
	User string `json:"user"`
}

type apiInboxDevice struct {
	apiInboxUser
	inboxDeviceRequest
}

type apiInboxAckRequest struct {
	apiInboxUser
	inboxAckRequest
}

type apiInboxListRequest struct {
	apiInboxUser
	inboxListRequest
}

// apiInboxSend sees to the idempotency key itself: the inbox has it in its log,
// for what is not stored this node remembers. Without inboxes a message goes to
// the sessions that are there.
func (s *Server) apiInboxSend(ctx context.Context, req *apiInboxSendRequest) (any, error) {
	if err := checkIdempotencyKey(req.IdempotencyKey); err != nil {
		return nil, err
	}
	var info *router.ClientInfo
	if req.From != "" {
		info = &router.ClientInfo{User: req.From}
	}
	m := req.message(info)
	if req.stored() && s.cfg.Inbox.Service != nil {
		sent, err := s.cfg.Inbox.Service.Send(m)(ctx)
		return toInboxSent(sent), err
	}
	direct := func() (any, error) { return inboxDirect(s.node.SendDirect(ctx, m)) }
	if m.IdempotencyKey == "" {
		return direct()
	}
	return s.once.do(ctx, fmt.Sprintf("inbox_send %d:%s %s", len(m.To), m.To, m.IdempotencyKey), direct)
}

func (s *Server) apiInboxUnread(ctx context.Context, req *apiInboxDevice) (inboxState, error) {
	if s.cfg.Inbox.Service == nil {
		return inboxState{}, errNoInbox
	}
	st, err := s.cfg.Inbox.Service.Unread(ctx, req.User, req.Device)
	return toInboxState(st), err
}

func (s *Server) apiInboxAck(ctx context.Context, req *apiInboxAckRequest) (inboxAcked, error) {
	if s.cfg.Inbox.Service == nil {
		return inboxAcked{}, errNoInbox
	}
	return s.inboxAck(ctx, req.User, &req.inboxAckRequest)
}

func (s *Server) apiInboxList(ctx context.Context, req *apiInboxListRequest) (inboxPage, error) {
	if s.cfg.Inbox.Service == nil {
		return inboxPage{}, errNoInbox
	}
	return s.inboxList(ctx, req.User, &req.inboxListRequest)
}

func (s *Server) apiInboxClear(ctx context.Context, req *apiInboxUser) (struct{}, error) {
	if s.cfg.Inbox.Service == nil {
		return struct{}{}, errNoInbox
	}
	return struct{}{}, s.cfg.Inbox.Service.Clear(ctx, req.User)
}
