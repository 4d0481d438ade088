package router

import (
	"context"
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"
)

// Message is one to send to a user.
type Message struct {
	To   string // user id
	Data []byte // JSON
	Type string // of the application, told as tag "type"; may be empty
	// Info says who sends; nil is the server.
	Info *ClientInfo
	// IdempotencyKey makes repeats within the duplicate window (2 min) have no
	// effect; it is scoped to To and Info.User.
	IdempotencyKey string
}

// SendStatus says what became of a message.
type SendStatus string

// The statuses.
const (
	// SendDelivered: stored, and at least one session of the user was subscribed to
	// the inbox before the message was stored, so it gets it without asking. That
	// the session's connection still works, or that anybody read it, is not said.
	SendDelivered SendStatus = "delivered"
	// SendStored: stored; no session of the user was subscribed.
	SendStored SendStatus = "stored"
	// SendDuplicate: a message with this idempotency key was stored before.
	SendDuplicate SendStatus = "duplicate"
)

// Sent is the answer to a message.
type Sent struct {
	Status SendStatus
	Number uint64 // 0 for a duplicate of a message that is no longer stored
	Epoch  string
	// Sessions of the user that were subscribed; not told for a duplicate.
	Sessions int
	// Unknown: a node did not say in time whether it has such sessions.
	Unknown bool
}

// askInboxTime bounds the wait for the nodes' answers: a node that died is waited
// for no longer, because the message is stored anyhow.
const askInboxTime = 500 * time.Millisecond

// Send hands m to the log of its inbox. Messages to one user are stored in the
// order of the calls. It does not wait: answer does, until the message is stored
// and the nodes have told who was there.
func (b *Inbox) Send(m Message) (answer func(ctx context.Context) (Sent, error)) {
	type result struct {
		a   Appended
		err error
	}
	t, e, err := b.prepare(m)
	if err != nil {
		b.n.cfg.Metrics.inbox.sent[sentFailed].Inc()
		return func(context.Context) (Sent, error) { return Sent{}, err }
	}
	stored := make(chan result, 1)
	t.log.Append(t.key, e, func(a Appended, err error) { stored <- result{a, err} })
	return func(ctx context.Context) (Sent, error) {
		var r result
		select {
		case r = <-stored:
		case <-ctx.Done():
			r.err = Unavailable("the inbox", ctx.Err())
		}
		if r.err != nil {
			b.n.cfg.Metrics.inbox.sent[sentFailed].Inc()
			return Sent{}, r.err
		}
		s := b.told(ctx, &t, r.a)
		b.n.cfg.Metrics.inbox.sent[string(s.Status)].Inc()
		return s, nil
	}
}

// prepare checks m and returns where and what to store.
func (b *Inbox) prepare(m Message) (target, NewEntry, error) {
	t, err := b.target(m.To)
	if err != nil {
		return t, NewEntry{}, err
	}
	if len(m.Data) == 0 {
		return t, NewEntry{}, Errorf(CodeInvalid, "data is missing")
	}
	if len(m.Data) > b.cfg.MaxMessageBytes {
		return t, NewEntry{}, Errorf(CodeLimit, "data has %d bytes, more than the %d of a message", len(m.Data), b.cfg.MaxMessageBytes)
	}
	if len(m.Type) > MaxMessageType {
		return t, NewEntry{}, Errorf(CodeInvalid, "type is longer than %d bytes", MaxMessageType)
	}
	data, err := checkPayload(t.ns.Payload, m.Data)
	if err != nil {
		return t, NewEntry{}, err
	}
	meta := Meta{Info: m.Info}
	if m.Type != "" {
		meta.Tags = map[string]string{TagType: m.Type}
	}
	from := ""
	if m.Info != nil {
		from = m.Info.User
	}
	return t, NewEntry{ID: dedupID(from, t.key, m.IdempotencyKey), Meta: meta.Encode(), Data: data}, nil
}

// told asks the nodes who was there for an entry that is stored.
func (b *Inbox) told(ctx context.Context, t *target, a Appended) Sent {
	s := Sent{Status: SendStored, Number: a.Number, Epoch: a.Epoch}
	if a.Duplicate {
		s.Status = SendDuplicate
		return s
	}
	ctx, cancel := context.WithTimeout(ctx, askInboxTime)
	defer cancel()
	err := b.n.askSmall(ctx, question{Kind: askInbox, Channel: t.channel, User: t.user, Number: a.Number}, func(p answerPart) { s.Sessions += p.Count })
	s.Unknown = err != nil
	if s.Sessions > 0 {
		s.Status = SendDelivered
	}
	return s
}

// answerInbox counts this node's subscriptions to an inbox that message q.Number
// goes to by itself: those that were there before it was. The channel's shard
// answers: such questions come with every message, and a goroutine costs more.
func (n *Node) answerInbox(m *nats.Msg, q question) {
	sh := n.shardOf(q.Channel)
	sh.post(func() {
		part := answerPart{Node: n.cfg.NodeID}
		if c := sh.channels[q.Channel]; c != nil {
			for _, s := range c.subs {
				// Others than the user may have been let in by a token.
				if s.Info != nil && s.Info.User == q.User && s.floor < q.Number {
					part.Count++
				}
			}
		}
		b, err := json.Marshal(part)
		if err == nil {
			err = m.Respond(b)
		}
		if err != nil {
			n.log.Warn("control answer not sent", "kind", q.Kind, "err", err)
		}
	})
}

// SendDirect pushes m to the sessions of its user and stores nothing. It returns
// how many sessions there were, and fails with CodeNotOnline when there was none.
func (n *Node) SendDirect(ctx context.Context, m Message) (int, error) {
	data, err := directMessage(m)
	if err != nil {
		return 0, err
	}
	count, err := n.Send(ctx, Target{User: m.To}, data)
	switch {
	case err == nil:
		n.cfg.Metrics.inbox.sent[sentDirect].Inc()
	case CodeOf(err) == CodeNotOnline:
		n.cfg.Metrics.inbox.sent[sentNotOnline].Inc()
	default:
		n.cfg.Metrics.inbox.sent[sentFailed].Inc()
	}
	return count, err
}
