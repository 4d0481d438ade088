package queue

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// bury makes a dead letter of an attempt and then takes the job from the queue
// (rule Q3). A dead letter has a subject of its own, named after the job, that
// must be empty: it is stored once, whatever happens in between and for ever.
func (q *queue) bury(ctx context.Context, a *attempt, reason router.DeadReason) error {
	if planted.Bug(planted.TwoDeadLetters) || planted.Bug(planted.DeadAfterTerm) {
		return q.buryWrong(ctx, a, reason)
	}
	stored, err := q.storeDead(ctx, a, reason)
	if err != nil {
		return err
	}
	if err := q.s.crash("dead"); err != nil {
		return err
	}
	if err := q.s.settle(ctx, a.ack, ackTerm+" "+string(reason)); err != nil {
		return err
	}
	if stored {
		q.s.metrics.died(q.cfg.Name, reason)
	}
	return nil
}

// storeDead stores a dead letter; false when it was stored before.
func (q *queue) storeDead(ctx context.Context, a *attempt, reason router.DeadReason) (bool, error) {
	m := q.deadLetter(a, reason)
	_, err := q.s.publish(ctx, m)
	if errors.Is(err, nats.ErrMaxPayload) {
		// A plain publisher left no room for headers: what fits is better than nothing.
		most := max(int(q.s.nc.MaxPayload())-headerReserve, 0)
		m = q.deadLetter(&attempt{
			delivery: a.delivery, env: a.env, priority: a.priority, number: a.number,
			payload: a.payload[:min(len(a.payload), most)],
		}, router.DeadOversize)
		for name := range a.env.plain {
			delete(m.Header, name)
		}
		_, err = q.s.publish(ctx, m)
	}
	if errors.Is(err, errExists) {
		return false, nil
	}
	return err == nil, err
}

func (q *queue) deadLetter(a *attempt, reason router.DeadReason) *nats.Msg {
	e := a.env
	e.attempt = min(a.number, max(a.max, a.env.attempt)) // those that workers saw
	m := &nats.Msg{Subject: q.dead.subjects + e.run(), Data: a.payload, Header: e.encode()}
	m.Header[headerReason] = []string{string(reason)}
	m.Header[headerPriority] = []string{string(a.priority)}
	m.Header[headerExpectEmpty] = []string{"0"}
	return m
}

// decodeDead reads a stored dead letter.
func decodeDead(m *stored) router.DeadLetter {
	e := decodeEnvelope(m.header, true)
	return router.DeadLetter{
		Seq: m.seq, ID: e.id, Priority: deadPriority(m.header), Time: m.time,
		Reason: router.DeadReason(jet.Last(m.header, headerReason)), Error: e.lastError,
		Attempts: e.attempt, Payload: m.data, Headers: e.jobHeaders(), Origin: e.origin, Redriven: e.redriven,
	}
}

func deadPriority(h nats.Header) router.Priority {
	switch p := router.Priority(jet.Last(h, headerPriority)); p {
	case router.PriorityHigh, router.PriorityLow:
		return p
	default:
		return router.PriorityMedium
	}
}
