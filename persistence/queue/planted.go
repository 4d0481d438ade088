package queue

import (
	"context"
	"encoding/base64"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/router"
)

// What the planted bugs need (see package planted). Nothing here is reachable in
// other builds.

// plantedGap is the time between two steps that were swapped: faults fall into it.
const plantedGap = 400 * time.Millisecond

// retryAfterAck is retry with its two steps swapped.
func (q *queue) retryAfterAck(ctx context.Context, a *attempt, m *nats.Msg) error {
	if err := q.s.settle(ctx, a.ack, ackDone); err != nil {
		return err
	}
	time.Sleep(plantedGap) // a crash may come
	_, err := q.s.publish(ctx, m)
	return err
}

// buryWrong is bury with its steps swapped, or without its expectation.
func (q *queue) buryWrong(ctx context.Context, a *attempt, reason router.DeadReason) error {
	m := q.deadLetter(a, reason)
	delete(m.Header, headerExpectEmpty)
	steps := []func() error{
		func() error { _, err := q.s.publish(ctx, m); return err },
		func() error { return q.s.settle(ctx, a.ack, ackTerm) },
	}
	if planted.Bug(planted.DeadAfterTerm) {
		steps[0], steps[1] = steps[1], steps[0]
	}
	if err := steps[0](); err != nil {
		return err
	}
	time.Sleep(plantedGap) // a crash may come
	return steps[1]()
}

// anyToken opens a token that may not be ours.
func anyToken(token string) (delivery, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) <= macBytes {
		return delivery{}, errToken
	}
	return parseAck(string(b[macBytes:]))
}

// highest picks the first source that has something.
func highest(weight func(i int) int) int {
	for i := range 6 {
		if weight(i) > 0 {
			return i
		}
	}
	return -1
}
