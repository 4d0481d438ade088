package edge

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/headrace/headrace/router"
)

// InboxConfig says what clients may do with inboxes. Without a Service there are
// none.
type InboxConfig struct {
	Service Inboxes
	// Namespace is that of the inboxes' channels.
	Namespace string
	// AllowSend lets every client with a user id send to every user.
	AllowSend bool
	// AutoSubscribe subscribes every client with a user id to its inbox when it
	// connects.
	AutoSubscribe bool
}

// Inboxes is what edge needs of router.Inbox; see there for the contracts.
type Inboxes interface {
	Channel(user string) (string, error)
	Send(m router.Message) (answer func(context.Context) (router.Sent, error))
	Open(ctx context.Context, user, device string) (router.InboxState, error)
	Resume(ctx context.Context, user, device string) (router.Resumed, error)
	Oldest(ctx context.Context, user string, since router.Position) (router.Position, error)
	Unread(ctx context.Context, user, device string) (router.InboxState, error)
	Ack(ctx context.Context, user, device string, at router.Position) (router.Acked, error)
	List(ctx context.Context, user string, req router.ListRequest) (router.InboxPage, error)
	Clear(ctx context.Context, user string) error
}

var _ Inboxes = (*router.Inbox)(nil)

var errNoInbox = router.Errorf(router.CodeNotAvailable, "inboxes are not configured")

// isInbox reports whether channel is in the namespace of inboxes.
func (c *InboxConfig) isInbox(channel string) bool {
	return c.Service != nil && strings.HasPrefix(channel, c.Namespace+":")
}

// inboxOwner returns who the client is, or why it has no inbox: nobody is anonymous
// here, in no mode.
func (s *session) inboxOwner() (string, error) {
	if s.srv.cfg.Inbox.Service == nil {
		return "", errNoInbox
	}
	user := s.user()
	if user == "" {
		return "", router.Errorf(router.CodeDenied, "a client without a user id has no inbox")
	}
	return user, nil
}

// The JSON of inboxes, the same for rpc and the server API.

type inboxSendRequest struct {
	User           string          `json:"user"`
	Data           json.RawMessage `json:"data"`
	Type           string          `json:"type"`
	IdempotencyKey string          `json:"idempotency_key"`
	// Store false: the message goes to the sessions that are there, or fails.
	Store *bool `json:"store"`
}

func (r *inboxSendRequest) message(info *router.ClientInfo) router.Message {
	return router.Message{To: r.User, Data: r.Data, Type: r.Type, Info: info, IdempotencyKey: r.IdempotencyKey}
}

func (r *inboxSendRequest) stored() bool { return r.Store == nil || *r.Store }

type inboxSent struct {
	Status router.SendStatus `json:"status"`
	Number uint64            `json:"number,omitempty"`
	Epoch  string            `json:"epoch,omitempty"`
	// Devices counts sessions of the user that were there.
	Devices int  `json:"devices"`
	Unknown bool `json:"unknown,omitempty"`
}

func toInboxSent(s router.Sent) inboxSent {
	return inboxSent{Status: s.Status, Number: s.Number, Epoch: s.Epoch, Devices: s.Sessions, Unknown: s.Unknown}
}

// inboxDirect is the answer to a message that is not stored.
func inboxDirect(sessions int, err error) (inboxSent, error) {
	return inboxSent{Status: router.SendDelivered, Devices: sessions}, err
}

type inboxDeviceRequest struct {
	Device string `json:"device"`
}

type inboxAckRequest struct {
	Device string `json:"device"`
	Number uint64 `json:"number"`
	Epoch  string `json:"epoch"`
}

type inboxAcked struct {
	Cursor uint64 `json:"cursor"`
	Head   uint64 `json:"head"`
	Epoch  string `json:"epoch"`
	Moved  bool   `json:"moved"`
}

type inboxState struct {
	Channel string `json:"channel"`
	Cursor  uint64 `json:"cursor"`
	Head    uint64 `json:"head"`
	Epoch   string `json:"epoch"`
	Unread  int    `json:"unread"`
	New     bool   `json:"new,omitempty"`
	Gone    bool   `json:"gone,omitempty"`
}

func toInboxState(s router.InboxState) inboxState {
	return inboxState{Channel: s.Channel, Cursor: s.Cursor, Head: s.Head.Offset, Epoch: s.Head.Epoch, Unread: s.Unread, New: s.New, Gone: s.Gone}
}

type inboxListRequest struct {
	Device string  `json:"device"`
	After  *uint64 `json:"after"`
	Epoch  string  `json:"epoch"` // of After
	Limit  int     `json:"limit"`
}

type inboxMessage struct {
	Number uint64          `json:"number"`
	Time   int64           `json:"time"` // Unix milliseconds
	Type   string          `json:"type,omitempty"`
	From   *apiInfo        `json:"from,omitempty"` // nil: the server
	Data   json.RawMessage `json:"data"`
}

type inboxPage struct {
	Messages []inboxMessage `json:"messages"`
	After    uint64         `json:"after"`
	Head     uint64         `json:"head"`
	Epoch    string         `json:"epoch"`
	More     bool           `json:"more,omitempty"`
	Gone     bool           `json:"gone,omitempty"`
}

// Bounds of one list.
const (
	defaultInboxLimit = 100
	// maxInboxBytes is half of what a NATS message carries, and of what may wait for
	// a slow client, by default.
	maxInboxBytes = 512 << 10
)

func (s *Server) inboxList(ctx context.Context, user string, req *inboxListRequest) (inboxPage, error) {
	r := router.ListRequest{Device: req.Device, Limit: req.Limit, MaxBytes: min(maxInboxBytes, s.cfg.QueueBytes/2)}
	switch {
	case req.Limit < 0 || req.After == nil && req.Epoch != "":
		return inboxPage{}, router.Errorf(router.CodeInvalid, "limit is negative, or epoch is given without after")
	case req.Limit == 0:
		r.Limit = defaultInboxLimit
	}
	r.Limit = min(r.Limit, s.cfg.MaxHistoryLimit)
	if req.After != nil {
		r.After = &router.Position{Offset: *req.After, Epoch: req.Epoch}
	}
	p, err := s.cfg.Inbox.Service.List(ctx, user, r)
	if err != nil {
		return inboxPage{}, err
	}
	out := inboxPage{Messages: []inboxMessage{}, After: p.After, Head: p.Head.Offset, Epoch: p.Head.Epoch, More: p.More, Gone: p.Gone}
	for _, m := range p.Messages {
		out.Messages = append(out.Messages, inboxMessage{Number: m.Offset, Time: m.Time, Type: m.Tags[router.TagType], From: toAPIInfo(m.Info), Data: m.Data})
	}
	return out, nil
}
