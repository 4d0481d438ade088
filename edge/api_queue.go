package edge

import (
	"context"
	"sync"

	"github.com/headrace/headrace/router"
)

// strictMethod is method for requests whose unknown fields are errors.
func strictMethod[Req, Res any](f func(context.Context, *Req) (Res, error)) apiMethod {
	return func(ctx context.Context, body []byte) (any, error) {
		var req Req
		if len(body) > 0 {
			if err := strictJSON(body, &req); err != nil {
				return nil, err
			}
		}
		return f(ctx, &req)
	}
}

// queueMethods are the methods of queues; those in once are answered from the
// results kept on this node when their idempotency key comes again. That of a push
// is the queue's, which every node knows.
func (s *Server) queueMethods() (methods, once map[string]apiMethod) {
	methods = map[string]apiMethod{
		"queue_push":  strictMethod(s.apiQueuePush),
		"queue_list":  strictMethod(s.apiQueueList),
		"queue_stats": strictMethod(s.apiQueueStats),
		"dlq_list":    strictMethod(s.apiDeadList),
		"dlq_show":    strictMethod(s.apiDeadShow),
	}
	once = map[string]apiMethod{
		"queue_pause":  strictMethod(s.apiQueuePause),
		"queue_resume": strictMethod(s.apiQueueResume),
		"queue_ack":    strictMethod(s.apiQueueAck),
		"queue_nack":   strictMethod(s.apiQueueNack),
		"queue_extend": strictMethod(s.apiQueueExtend),
		"dlq_redrive":  strictMethod(s.apiDeadRedrive),
		"dlq_purge":    strictMethod(s.apiDeadPurge),
	}
	return methods, once
}

// apiKeyed has the key that onlyOnce reads, for requests that are read strictly.
type apiKeyed struct {
	IdempotencyKey string `json:"idempotency_key"`
}

type apiQueueRequest struct {
	apiKeyed
	Queue string `json:"queue"`
}

type apiNothing struct{}

// apiQueues returns the queues, or why there are none to ask.
func (s *Server) apiQueues(name string) (router.Queues, error) {
	switch {
	case s.cfg.Queues == nil:
		return nil, router.Errorf(router.CodeNotAvailable, "there are no queues")
	case name == "":
		return nil, router.Errorf(router.CodeInvalid, "queue is missing")
	}
	return s.cfg.Queues, nil
}

func (s *Server) apiQueuePush(ctx context.Context, req *queuePushRequest) (queuePushed, error) {
	q, err := s.apiQueues(req.Queue)
	if err != nil {
		return queuePushed{}, err
	}
	j, err := req.job("")
	if err != nil {
		return queuePushed{}, err
	}
	p, err := q.Push(ctx, req.Queue, j)
	return queuePushed{ID: p.ID, Duplicate: p.Duplicate}, err
}

type apiQueueListResult struct {
	Queues []string `json:"queues"`
}

func (s *Server) apiQueueList(context.Context, *struct{}) (apiQueueListResult, error) {
	res := apiQueueListResult{Queues: []string{}}
	if s.cfg.Queues != nil {
		res.Queues = append(res.Queues, s.cfg.Queues.Names()...)
	}
	return res, nil
}

type apiQueueStatsRequest struct {
	Queue string `json:"queue"` // "" is all
}

type apiQueueStatsResult struct {
	Queues []queueStats `json:"queues"`
}

// maxStatsParallel bounds the queues asked for at the same time by one call: each
// costs a dozen requests to NATS.
const maxStatsParallel = 4

func (s *Server) apiQueueStats(ctx context.Context, req *apiQueueStatsRequest) (apiQueueStatsResult, error) {
	if req.Queue == "" && s.cfg.Queues == nil {
		return apiQueueStatsResult{Queues: []queueStats{}}, nil
	}
	names := []string{req.Queue}
	if req.Queue == "" {
		names = s.cfg.Queues.Names()
	}
	res := apiQueueStatsResult{Queues: make([]queueStats, len(names))}
	errs := make([]error, len(names))
	slots := make(chan struct{}, maxStatsParallel)
	var asking sync.WaitGroup
	for i, name := range names {
		slots <- struct{}{}
		asking.Go(func() {
			defer func() { <-slots }()
			q, err := s.apiQueues(name)
			if err != nil {
				errs[i] = err
				return
			}
			stats, err := q.Stats(ctx, name)
			res.Queues[i], errs[i] = toQueueStats(name, &stats), err
		})
	}
	asking.Wait()
	for _, err := range errs {
		if err != nil {
			return apiQueueStatsResult{}, err
		}
	}
	return res, nil
}

func (s *Server) apiQueuePause(ctx context.Context, req *apiQueueRequest) (apiNothing, error) {
	q, err := s.apiQueues(req.Queue)
	if err != nil {
		return apiNothing{}, err
	}
	return apiNothing{}, q.Pause(ctx, req.Queue)
}

func (s *Server) apiQueueResume(ctx context.Context, req *apiQueueRequest) (apiNothing, error) {
	q, err := s.apiQueues(req.Queue)
	if err != nil {
		return apiNothing{}, err
	}
	return apiNothing{}, q.Resume(ctx, req.Queue)
}

type apiQueueTokenRequest struct {
	apiKeyed
	queueTokenRequest
}

func (s *Server) apiQueueAck(ctx context.Context, req *apiQueueTokenRequest) (apiNothing, error) {
	q, err := s.apiQueues(req.Queue)
	if err != nil {
		return apiNothing{}, err
	}
	return apiNothing{}, q.Ack(ctx, req.Queue, req.Token)
}

func (s *Server) apiQueueExtend(ctx context.Context, req *apiQueueTokenRequest) (apiNothing, error) {
	q, err := s.apiQueues(req.Queue)
	if err != nil {
		return apiNothing{}, err
	}
	return apiNothing{}, q.Extend(ctx, req.Queue, req.Token)
}

type apiQueueNackRequest struct {
	apiKeyed
	queueNackRequest
}

func (s *Server) apiQueueNack(ctx context.Context, req *apiQueueNackRequest) (apiNothing, error) {
	q, err := s.apiQueues(req.Queue)
	if err != nil {
		return apiNothing{}, err
	}
	n, err := req.nack()
	if err != nil {
		return apiNothing{}, err
	}
	return apiNothing{}, q.Nack(ctx, req.Queue, req.Token, n)
}
