package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/router"
)

// settling opens a token for a call that may take until the returned context
// ends.
func (s *Store) settling(ctx context.Context, name, token string) (*queue, delivery, context.Context, context.CancelFunc, error) {
	q, err := s.queue(name)
	if err != nil {
		return nil, delivery{}, nil, nil, err
	}
	d, err := q.open(token)
	if err != nil {
		return nil, delivery{}, nil, nil, router.Errorf(router.CodeInvalid, "the job token is not valid")
	}
	ctx, cancel := s.bounded(ctx)
	return q, d, ctx, cancel, nil
}

// Ack ends the job of a token: it was done.
func (s *Store) Ack(ctx context.Context, name, token string) error {
	q, d, ctx, cancel, err := s.settling(ctx, name, token)
	if err != nil {
		return err
	}
	defer cancel()
	if planted.Bug(planted.AckWithoutAnswer) {
		q.puller.forget(d)
		return s.req.Send(&nats.Msg{Subject: d.ack, Data: []byte(ackDone)})
	}
	if err := s.settle(ctx, d.ack, ackDone); err != nil {
		return err
	}
	q.puller.forget(d)
	s.metrics.settled(name, settledDone)
	return nil
}

// Extend restarts the ack wait of a token. NATS does not tell whether there was
// anything to extend.
func (s *Store) Extend(ctx context.Context, name, token string) error {
	q, d, ctx, cancel, err := s.settling(ctx, name, token)
	if err != nil {
		return err
	}
	defer cancel()
	if err := s.settle(ctx, d.ack, ackProgress); err != nil {
		return err
	}
	if _, err := s.get(ctx, d.stream, map[string]any{"seq": d.seq}); err != nil {
		if errors.Is(err, errNotStored) {
			q.puller.forget(d)
		}
		return err
	}
	q.puller.prolong(d)
	return nil
}

// Nack ends the attempt of a token.
func (s *Store) Nack(ctx context.Context, name, token string, n router.Nack) error {
	q, d, ctx, cancel, err := s.settling(ctx, name, token)
	if err != nil {
		return err
	}
	defer cancel()
	if n.Delay < 0 || n.Delay > router.MaxBackoff {
		return router.Errorf(router.CodeInvalid, "a job can be delayed by at most %v", router.MaxBackoff)
	}
	m, err := s.get(ctx, d.stream, map[string]any{"seq": d.seq})
	if errors.Is(err, errNotStored) {
		q.puller.forget(d) // ended elsewhere
	}
	if err != nil {
		return err
	}
	a := q.attempt(&m, d)
	a.env.lastError = n.Error
	if n.Final || a.number >= a.max {
		reason := router.DeadAttempts
		if n.Final {
			reason = router.DeadFinal
		}
		err = q.bury(ctx, &a, reason)
	} else {
		err = q.retry(ctx, &a, n.Delay)
	}
	if err == nil {
		q.puller.forget(d)
	}
	return err
}

// attempt is a delivery with what was delivered.
type attempt struct {
	delivery
	env      envelope // with id and origin filled in
	priority router.Priority
	payload  []byte
	number   int // rule Q2
	max      int
	header   nats.Header
}

// attempt makes one of a stored message and its delivery.
func (q *queue) attempt(m *stored, d delivery) attempt {
	st, _ := q.streamOf(d.stream)
	a := attempt{delivery: d, env: decodeEnvelope(m.header, st == retries), payload: m.data, header: m.header}
	a.priority = router.Priority(m.subject[strings.LastIndexByte(m.subject, '.')+1:])
	if a.env.id == "" {
		a.env.id = q.jobID(st, m.seq)
	}
	if a.env.origin.Seq == 0 {
		a.env.origin = router.Origin{Subject: m.subject, Seq: m.seq, Time: m.time}
	}
	a.number = a.env.attempt + d.delivered - 1
	if planted.Bug(planted.AttemptFromHeader) {
		a.number = a.env.attempt
	}
	if a.max = a.env.maxAttempts; a.max == 0 {
		a.max = q.cfg.MaxAttempts
	}
	return a
}

// retry stores the next attempt as a schedule and then ends this one (rule Q1).
// The id of the schedule is the same whoever writes it: if a crash left the
// attempt alive, the two go on as one from their next failure.
func (q *queue) retry(ctx context.Context, a *attempt, delay time.Duration) error {
	next := a.env
	next.attempt = a.number + 1
	if delay == 0 {
		b := q.cfg.Backoff
		if next.backoff != nil {
			b = *next.backoff
		}
		delay = b.Delay(a.number, rand.Float64)
	}
	id := fmt.Sprintf("retry:%s:%d", next.run(), next.attempt)
	m := q.scheduled(&next, a.payload, a.priority, id, time.Now().Add(delay))
	if planted.Bug(planted.HeadersLost) {
		delete(m.Header, headerHeaders)
	}
	if planted.Bug(planted.RetryAfterAck) {
		return q.retryAfterAck(ctx, a, m)
	}
	_, err := q.s.publish(ctx, m)
	if router.CodeOf(err) == router.CodeLimit && errors.Is(err, nats.ErrMaxPayload) {
		// A plain publisher left no room for headers. The message stays where it is,
		// and NATS counts its attempts.
		q.s.nak(a.ack, delay)
		err = nil
	} else if err == nil {
		if err = q.s.crash("retry"); err == nil {
			err = q.s.settle(ctx, a.ack, ackDone)
		}
	}
	if err == nil {
		q.s.metrics.settled(q.cfg.Name, settledRetried)
	}
	return err
}
