package edge

import (
	"context"

	"github.com/headrace/headrace/router"
)

// queueBuiltins are the rpc methods of durable queues. A job token is the right to
// settle its attempt; everything else is allowed by the queue's rules or by what
// tokens grant in its channel.
func (s *Server) queueBuiltins() map[string]builtin {
	return map[string]builtin{
		"queue.push":    typed(rpcQueuePush),
		"queue.ack":     typed(rpcQueueAck),
		"queue.nack":    typed(rpcQueueNack),
		"queue.extend":  typed(rpcQueueExtend),
		"queue.credits": typed(rpcQueueCredits),
		"queue.dead":    typed(rpcQueueDead),
		"queue.redrive": typed(rpcQueueRedrive),
	}
}

// nothing is the result {}.
type nothing struct{}

// queueFor returns the queues when the client may do op with one of them.
func (s *session) queueFor(op router.Op, name string) (router.Queues, error) {
	q, err := s.srv.queues.queue(name)
	if err != nil {
		return nil, err
	}
	return s.srv.cfg.Queues, q.Allow(op, s.access(router.QueueChannel(name)))
}

// settling returns the queues for a call that a job token allows.
func (s *session) settling(r *queueTokenRequest) (router.Queues, error) {
	if _, err := s.srv.queues.queue(r.Queue); err != nil {
		return nil, err
	}
	return s.srv.cfg.Queues, nil
}

func rpcQueuePush(ctx context.Context, s *session, r *queuePushRequest) (queuePushed, error) {
	queues, err := s.queueFor(router.OpPublish, r.Queue)
	if err != nil {
		return queuePushed{}, err
	}
	user := s.user()
	if r.IdempotencyKey != "" && user == "" {
		// Anonymous clients are not told apart: the key of one would swallow the job of
		// another (rule W3).
		return queuePushed{}, router.Errorf(router.CodeInvalid, "an idempotency_key needs a client with a user id")
	}
	j, err := r.job(user)
	if err != nil {
		return queuePushed{}, err
	}
	if err := s.takeMessage(ctx, user); err != nil {
		return queuePushed{}, err
	}
	p, err := queues.Push(ctx, r.Queue, j)
	return queuePushed{ID: p.ID, Duplicate: p.Duplicate}, err
}

// takeMessage counts one message against the user's limit over all edges.
func (s *session) takeMessage(ctx context.Context, user string) error {
	if s.srv.cfg.UserLimit == nil || user == "" {
		return nil
	}
	err := s.srv.cfg.UserLimit.Take(ctx, user)
	if router.CodeOf(err) == router.CodeTooMany && err != nil {
		s.srv.metrics.refuse(refusedUserMessages)
	}
	return err
}

func rpcQueueAck(ctx context.Context, s *session, r *queueTokenRequest) (none nothing, err error) {
	queues, err := s.settling(r)
	if err != nil {
		return none, err
	}
	return none, queues.Ack(ctx, r.Queue, r.Token)
}

func rpcQueueNack(ctx context.Context, s *session, r *queueNackRequest) (none nothing, err error) {
	queues, err := s.settling(&r.queueTokenRequest)
	if err != nil {
		return none, err
	}
	n, err := r.nack()
	if err != nil {
		return none, err
	}
	return none, queues.Nack(ctx, r.Queue, r.Token, n)
}

func rpcQueueExtend(ctx context.Context, s *session, r *queueTokenRequest) (none nothing, err error) {
	queues, err := s.settling(r)
	if err != nil {
		return none, err
	}
	return none, queues.Extend(ctx, r.Queue, r.Token)
}

// queueCreditsRequest changes how many jobs the worker may hold.
type queueCreditsRequest struct {
	Queue   string `json:"queue"`
	Credits *int   `json:"credits"`
}

func rpcQueueCredits(_ context.Context, s *session, r *queueCreditsRequest) (none nothing, err error) {
	if r.Credits == nil {
		return none, router.Errorf(router.CodeInvalid, "credits are missing")
	}
	if err := checkCredits(*r.Credits); err != nil {
		return none, err
	}
	s.mu.Lock()
	var sub *router.Subscription
	if c := s.find(router.QueueChannel(r.Queue)); c != nil {
		sub = c.sub
	}
	s.mu.Unlock()
	w := s.srv.queues.worker(sub)
	if w == nil {
		return none, router.Errorf(router.CodeDenied, "not subscribed")
	}
	w.setCredits(*r.Credits)
	return none, nil
}
