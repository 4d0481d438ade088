package queue

import (
	"context"
	"crypto/rand"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/router"
)

// Push stores a job and returns when the store has it.
func (s *Store) Push(ctx context.Context, name string, j router.NewJob) (router.Pushed, error) {
	q, err := s.queue(name)
	if err != nil {
		return router.Pushed{}, err
	}
	if err := j.Validate(); err != nil {
		return router.Pushed{}, err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	p, err := q.push(ctx, &j)
	q.s.metrics.pushed(name, p, err)
	return p, err
}

func (q *queue) push(ctx context.Context, j *router.NewJob) (p router.Pushed, err error) {
	e := envelope{attempt: 1, maxAttempts: j.MaxAttempts, backoff: j.Backoff}
	headers, err := router.EncodeJobHeaders(j.Headers)
	if err != nil {
		return p, err // checked by Validate
	}
	e.headers = string(headers)
	if most := q.s.nc.MaxPayload(); most > 0 && int64(len(j.Payload)+len(headers)+headerReserve) > most {
		return p, router.Errorf(router.CodeLimit, "the job is too large")
	}
	priority := j.Priority
	if priority == "" {
		priority = router.PriorityMedium
	}
	id := j.DedupID(q.cfg.Name)
	if id == "" {
		id = rand.Text() // so that an attempt without an answer can be repeated
	}
	due := j.At
	if j.Delay > 0 {
		due = time.Now().Add(j.Delay)
	}
	if due.After(time.Now()) {
		return q.pushLater(ctx, j.Payload, e, priority, id, due)
	}
	m := &nats.Msg{Subject: q.streams[jobs].subjects + string(priority), Data: j.Payload, Header: e.options()}
	m.Header[nats.MsgIdHdr] = []string{id}
	if planted.Bug(planted.PushBeforeStore) {
		return router.Pushed{ID: "?"}, q.s.req.Send(m)
	}
	a, err := q.s.publish(ctx, m)
	if err != nil {
		return p, err
	}
	if a.Duplicate {
		return router.Pushed{Duplicate: true}, nil
	}
	return router.Pushed{ID: q.jobID(jobs, a.Seq)}, nil
}

// pushLater stores a job as a schedule. Its name is random: a name derived from
// the idempotency key would let a later push replace a job that still waits.
func (q *queue) pushLater(ctx context.Context, payload []byte, e envelope, p router.Priority, id string, due time.Time) (router.Pushed, error) {
	if err := q.roomForDelayed(ctx); err != nil {
		return router.Pushed{}, err
	}
	e.id = "d-" + rand.Text()
	a, err := q.s.publish(ctx, q.scheduled(&e, payload, p, id, due))
	if err != nil {
		return router.Pushed{}, err
	}
	if a.Duplicate {
		return router.Pushed{Duplicate: true}, nil
	}
	return router.Pushed{ID: e.id}, nil
}

// roomForDelayed refuses a delayed push while as many jobs as the queue may hold
// wait for their time. Pushes at the same time may go over that by their number.
func (q *queue) roomForDelayed(ctx context.Context) error {
	var info streamInfo
	if err := q.s.api(ctx, "STREAM.INFO."+q.streams[retries].name, struct{}{}, &info); err != nil {
		return err
	}
	if info.State.Messages >= uint64(q.cfg.MaxJobs) || info.State.Bytes >= uint64(q.cfg.MaxBytes) {
		return router.Errorf(router.CodeLimit, "the queue is full")
	}
	return nil
}

// jobID names a job by the place where it was stored first.
func (q *queue) jobID(stream int, seq uint64) string {
	return q.streams[stream].incarnation + "-" + strconv.FormatUint(seq, 10)
}

// scheduled returns the message that makes a job available at due (rule Q1).
func (q *queue) scheduled(e *envelope, payload []byte, p router.Priority, msgID string, due time.Time) *nats.Msg {
	m := q.due(e, payload, p, msgID)
	if planted.Bug(planted.EarlySchedule) {
		due = due.Truncate(time.Second)
	}
	m.Header[headerSchedule] = []string{"@at " + due.UTC().Format(time.RFC3339Nano)}
	m.Header[headerScheduleTarget] = []string{m.Subject}
	m.Subject = q.streams[retries].subjects + e.run() + "-" + strconv.Itoa(e.attempt)
	return m
}

// due returns the message that makes a job available now.
func (q *queue) due(e *envelope, payload []byte, p router.Priority, msgID string) *nats.Msg {
	m := &nats.Msg{Subject: q.streams[retries].subjects + "due." + string(p), Data: payload, Header: e.encode()}
	m.Header[nats.MsgIdHdr] = []string{msgID}
	return m
}
