package router

import (
	"context"
	"encoding/json"

	"github.com/nats-io/nats.go"
)

// Control subjects, under <prefix>.ctl. They carry JSON between nodes and are
// closed to everyone else by NATS permissions.
const (
	ctlHeartbeat = ".ctl.hb"    // NodeInfo, at most once per interval and node
	ctlHello     = ".ctl.hello" // a new node asks for heartbeats
	ctlAsk       = ".ctl.ask"   // a question to all nodes; each answers in parts
)

// question is what ctlAsk carries. Kind says which fields matter.
type question struct {
	Kind    string          `json:"kind"`
	Channel string          `json:"channel,omitempty"`
	Pattern string          `json:"pattern,omitempty"`
	Target  *Target         `json:"target,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`
	Raw     []byte          `json:"raw,omitempty"` // Data that is not JSON
	Control *Control        `json:"control,omitempty"`
	User    string          `json:"user,omitempty"`
	Number  uint64          `json:"number,omitempty"`
	Views   []viewQuestion  `json:"views,omitempty"`
	Limit   int             `json:"limit,omitempty"` // of members per channel; 0 is none
	Node    string          `json:"node,omitempty"`  // whom it is for; "" is all
	From    string          `json:"from,omitempty"`  // who need not answer itself
}

const (
	askViews    = "members"
	askPresence = "presence" // likewise, and understood by older nodes
	askStats    = "presence_stats"
	askChannels = "channels"
	askMessage  = "message"
	askControl  = "control"
	askInbox    = "inbox"
)

// answerPart is one part of a node's answer; a large answer has many, since a
// NATS message is bounded (1 MiB by default).
type answerPart struct {
	Node string `json:"node"`
	Part int    `json:"part,omitempty"` // 0, 1, 2 …: a hole is noticed
	More bool   `json:"more,omitempty"`

	Upto     uint64            `json:"upto,omitempty"` // the node's version when it looked for Views
	Views    []viewPart        `json:"views,omitempty"`
	Members  []json.RawMessage `json:"members,omitempty"` // between older nodes and newer ones: Meta of each member
	Users    []string          `json:"users,omitempty"`   // distinct on the node
	Clients  int               `json:"clients,omitempty"`
	Channels map[string]int    `json:"channels,omitempty"`
	Count    int               `json:"count,omitempty"`
	Refused  int               `json:"refused,omitempty"`
}

// maxAnswerItems bounds the items of one part: at about 0.5 KB each that is
// half of what a NATS message may carry. A variable for tests only.
var maxAnswerItems = 500

// startControl subscribes to the control subjects. The returned function ends
// the subscriptions.
func (n *Node) startControl() (stop func(), err error) {
	nc, p := n.cfg.Core, n.cfg.Prefix
	n.replies.prefix = nc.NewInbox() + "."
	var subs []*nats.Subscription
	stop = func() {
		for _, s := range subs {
			s.Unsubscribe() //nolint:errcheck // fails only when the connection is closed
		}
	}
	for subject, handle := range map[string]nats.MsgHandler{
		n.postSubject(n.cfg.NodeID): n.receivePost,
		p + ctlHeartbeat:            n.members.receive,
		p + ctlHello:                func(*nats.Msg) { n.members.hello() },
		p + ctlAsk:                  n.receiveQuestion,
		n.replies.prefix + "*":      n.replies.receive,
	} {
		s, err := nc.Subscribe(subject, handle)
		if err != nil {
			stop()
			return nil, err
		}
		subs = append(subs, s)
	}
	return stop, nil
}

// receiveQuestion answers on a goroutine per question, so that gathering on the
// shards delays nobody else.
func (n *Node) receiveQuestion(m *nats.Msg) {
	var q question
	if err := json.Unmarshal(m.Data, &q); err != nil || m.Reply == "" {
		n.cfg.Metrics.dropped[dropMalformed].Inc()
		return
	}
	if q.Node != "" && q.Node != n.cfg.NodeID || q.From == n.cfg.NodeID {
		return
	}
	if q.Kind == askInbox {
		n.answerInbox(m, q)
		return
	}
	// Through a shard: after the node has stopped no goroutine may start.
	slots := n.io
	if q.Kind == askControl {
		slots = n.controls
	}
	n.shards[0].post(func() { n.asyncIn(slots, func(ctx context.Context) { n.answer(ctx, m, q) }) })
}

func (n *Node) answer(ctx context.Context, m *nats.Msg, q question) {
	parts := n.answerTo(ctx, q)
	for i := range parts {
		parts[i].Node, parts[i].Part = n.cfg.NodeID, i
		parts[i].More = i < len(parts)-1
		b, err := json.Marshal(parts[i])
		if err == nil {
			err = m.Respond(b)
		}
		if err != nil {
			n.log.Warn("control answer not sent", "kind", q.Kind, "err", err)
			return
		}
	}
}

// answerTo returns this node's answer to q; no part is no answer.
func (n *Node) answerTo(ctx context.Context, q question) []answerPart {
	switch q.Kind {
	case askPresence, askViews:
		if len(q.Views) == 0 {
			return olderAnswer(n.localMembers(ctx, q.Channel))
		}
		return n.viewsAnswer(ctx, q)
	case askStats:
		return statsAnswer(n.localMembers(ctx, q.Channel))
	case askChannels:
		return channelsAnswer(n.localChannels(ctx, q.Pattern))
	case askMessage:
		data := []byte(q.Data)
		if q.Raw != nil {
			data = q.Raw
		}
		count := 0
		if q.Target != nil {
			count = n.cfg.Sessions.Message(*q.Target, data)
		}
		return []answerPart{{Count: count}}
	case askControl:
		return n.controlAnswer(ctx, q.Control)
	default:
		return []answerPart{{}} // a newer node's question: nothing to say
	}
}

// onShard runs f on sh and waits for it, or for ctx.
func onShard(ctx context.Context, sh *shard, f func()) {
	done := make(chan struct{})
	if !sh.post(func() { f(); close(done) }) {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}
