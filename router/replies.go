package router

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// replies shares one subscription among questions that are asked often. A
// subscription for each, as ask has it, costs half a megabyte (nats.go nats.go,
// SubscribeSync: a channel of 65,536 messages), and a word to every server.
type replies struct {
	prefix string // of reply subjects, with the dot; set before the subscription is made

	mu   sync.Mutex // guards the fields below
	next uint64
	open map[string]chan *nats.Msg // by the last token of the reply subject
}

// maxSmallReplies bounds the answers to one question that wait to be read. What is
// above it is dropped, and the asker waits in vain.
const maxSmallReplies = 256

func (r *replies) receive(m *nats.Msg) {
	r.mu.Lock()
	ch := r.open[m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]]
	r.mu.Unlock()
	select {
	case ch <- m: // never for a nil channel: the asker gave up
	default:
	}
}

// expect returns a reply subject and what comes there, until done is called. What is
// above size and waits to be read is dropped.
func (r *replies) expect(size int) (subject string, came <-chan *nats.Msg, done func()) {
	ch := make(chan *nats.Msg, size)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	token := strconv.FormatUint(r.next, 36)
	if r.open == nil {
		r.open = make(map[string]chan *nats.Msg)
	}
	r.open[token] = ch
	return r.prefix + token, ch, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.open, token)
	}
}

// askSmall is ask for questions that each node answers in one short part.
func (n *Node) askSmall(ctx context.Context, q question, take func(answerPart)) error {
	if err := n.members.settled(ctx); err != nil {
		return Unavailable("the cluster", err)
	}
	waitFor := n.members.alive()
	return n.askIn(ctx, q, min(2*len(waitFor)+2, maxSmallReplies), waitFor, take)
}

// askIn is ask for questions to the nodes of waitFor whose answers have no more than
// that many parts waiting to be read. Nodes that have answered, or are gone, are
// removed from waitFor.
func (n *Node) askIn(ctx context.Context, q question, parts int, waitFor map[string]bool, take func(answerPart)) error {
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	subject, came, done := n.replies.expect(parts)
	defer done()
	if err := n.cfg.Core.PublishRequest(n.cfg.Prefix+ctlAsk, subject, body); err != nil {
		return Unavailable("the cluster", err)
	}
	next := func(ctx context.Context) (*nats.Msg, error) {
		select {
		case m := <-came:
			return m, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := n.gather(ctx, next, waitFor, take); err != nil {
		return Unavailable("the cluster", err)
	}
	return nil
}
