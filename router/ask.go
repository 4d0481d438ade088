package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/planted"
)

// maxAskTime bounds how long all nodes are waited for. It is longer than the
// time after which a silent node is gone, so that an answer after a crash is
// late but whole.
const maxAskTime = 8 * time.Second

// maxAnswerBytes bounds the parts of answers that wait to be read. NATS drops what
// is above it, which gather notices.
const maxAnswerBytes = 256 << 20

// ask puts q to all nodes and calls take for each part of their answers. It
// fails with CodeUnavailable when a node that is alive did not answer, or a part
// of its answer is missing: unknown rather than wrong.
func (n *Node) ask(ctx context.Context, q question, take func(answerPart)) error {
	ctx, cancel := context.WithTimeout(ctx, maxAskTime)
	defer cancel()
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	if limit := n.cfg.Core.MaxPayload(); limit > 0 && int64(len(body)) > limit {
		return Errorf(CodeLimit, "the request is larger than the %d bytes that NATS carries", limit)
	}
	if err := n.members.settled(ctx); err != nil {
		return Unavailable("the cluster", err)
	}
	nc := n.cfg.Core
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return Unavailable("the cluster", err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // fails only when the connection is closed
	if err := sub.SetPendingLimits(-1, maxAnswerBytes); err != nil {
		return Unavailable("the cluster", err)
	}
	waitFor := n.members.alive()
	if err := nc.PublishRequest(n.cfg.Prefix+ctlAsk, inbox, body); err != nil {
		return Unavailable("the cluster", err)
	}
	if err := n.gather(ctx, sub.NextMsgWithContext, waitFor, take); err != nil {
		return Unavailable("the cluster", err)
	}
	return nil
}

// recheckInterval is how often a wait for answers looks whether those waited for
// are still alive.
const recheckInterval = 100 * time.Millisecond

// gather takes the answers that next returns until all nodes of waitFor have
// answered in full or are gone.
func (n *Node) gather(ctx context.Context, next func(context.Context) (*nats.Msg, error), waitFor map[string]bool, take func(answerPart)) error {
	seen := make(map[string]int) // parts, by node
	for len(waitFor) > 0 {
		step, cancel := context.WithTimeout(ctx, recheckInterval)
		m, err := next(step)
		cancel()
		switch {
		case err == nil:
			var part answerPart
			if err := json.Unmarshal(m.Data, &part); err != nil {
				return err
			}
			if part.Part != seen[part.Node] {
				return fmt.Errorf("part %d of the answer of node %s is missing", seen[part.Node], part.Node)
			}
			seen[part.Node]++
			take(part)
			if planted.Bug(planted.PartialPresence) && !part.More {
				return nil
			}
			if !part.More {
				delete(waitFor, part.Node)
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			for id := range waitFor {
				if !n.members.isAlive(id) {
					delete(waitFor, id)
				}
			}
		default: // slow consumer: something was dropped; or the connection is gone
			return err
		}
	}
	return nil
}
