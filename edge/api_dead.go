package edge

import (
	"context"
	"slices"

	"github.com/headrace/headrace/router"
)

// Bounds of the calls about dead letters.
const (
	deadListDefault = 100  // letters of a list whose request names no limit
	maxDeadList     = 1000 // letters of a list; see router.DeadLetters
	maxDeadCall     = 1000 // letters that one call redrives or purges
	// deadStep is how many of them are handled between two looks at the time.
	deadStep = 50
)

type apiDeadListRequest struct {
	Queue string `json:"queue"`
	From  uint64 `json:"from"`
	Limit int    `json:"limit"`
}

type apiDeadListResult struct {
	Dead []queueDead `json:"dead"`
	// Next is where to go on; 0 when there was nothing.
	Next uint64 `json:"next,omitempty"`
}

func (s *Server) apiDeadList(ctx context.Context, req *apiDeadListRequest) (apiDeadListResult, error) {
	q, err := s.apiQueues(req.Queue)
	if err != nil {
		return apiDeadListResult{}, err
	}
	limit, err := deadLimit(req.Limit, deadListDefault, maxDeadList)
	if err != nil {
		return apiDeadListResult{}, err
	}
	page, err := q.ListDead(ctx, req.Queue, req.From, limit)
	if err != nil {
		return apiDeadListResult{}, err
	}
	res := apiDeadListResult{Dead: make([]queueDead, len(page))}
	for i := range page {
		res.Dead[i] = toQueueDead(&page[i])
		res.Next = page[i].Seq + 1
	}
	return res, nil
}

func deadLimit(limit, otherwise, most int) (int, error) {
	switch {
	case limit < 0 || limit > most:
		return 0, router.Errorf(router.CodeInvalid, "limit is not within 1 to %d", most)
	case limit == 0:
		return otherwise, nil
	}
	return limit, nil
}

type apiDeadShowRequest struct {
	Queue string `json:"queue"`
	Seq   uint64 `json:"seq"`
}

func (s *Server) apiDeadShow(ctx context.Context, req *apiDeadShowRequest) (queueDead, error) {
	q, err := s.apiQueues(req.Queue)
	if err != nil {
		return queueDead{}, err
	}
	if req.Seq == 0 {
		return queueDead{}, router.Errorf(router.CodeInvalid, "seq is missing")
	}
	d, err := q.ShowDead(ctx, req.Queue, req.Seq)
	return toQueueDead(&d), err
}

// apiDeadRequest names dead letters: those with the numbers seqs, or all from the
// number from on, limit of them a call.
type apiDeadRequest struct {
	apiKeyed
	Queue string   `json:"queue"`
	Seqs  []uint64 `json:"seqs"`
	All   bool     `json:"all"`
	From  uint64   `json:"from"`
	Limit int      `json:"limit"`
}

func (r *apiDeadRequest) check() (err error) {
	switch {
	case r.All == (len(r.Seqs) > 0):
		return router.Errorf(router.CodeInvalid, "either seqs or all is needed")
	case !r.All && (r.From != 0 || r.Limit != 0):
		return router.Errorf(router.CodeInvalid, "from and limit belong to all")
	case len(r.Seqs) > maxDeadCall:
		return router.Errorf(router.CodeLimit, "more than %d seqs", maxDeadCall)
	}
	r.Limit, err = deadLimit(r.Limit, maxDeadCall, maxDeadCall)
	return err
}

type apiDeadRedriven struct {
	Redriven int    `json:"redriven"`
	Next     uint64 `json:"next,omitempty"`
}

func (s *Server) apiDeadRedrive(ctx context.Context, req *apiDeadRequest) (apiDeadRedriven, error) {
	q, err := s.apiQueues(req.Queue)
	if err != nil {
		return apiDeadRedriven{}, err
	}
	n, next, err := eachDead(ctx, q, req, q.Redrive)
	return apiDeadRedriven{n, next}, err
}

type apiDeadPurged struct {
	Purged int    `json:"purged"`
	Next   uint64 `json:"next,omitempty"`
}

func (s *Server) apiDeadPurge(ctx context.Context, req *apiDeadRequest) (apiDeadPurged, error) {
	q, err := s.apiQueues(req.Queue)
	if err != nil {
		return apiDeadPurged{}, err
	}
	n, next, err := eachDead(ctx, q, req, q.PurgeDead)
	return apiDeadPurged{n, next}, err
}

// eachDead calls f for the letters of req, some at a time, and returns for how many
// it succeeded. next is where a call for all has to go on, 0 when there were no
// more. What was done before a failure or before half of the time was over is told
// rather than the failure: who goes on meets it again.
func eachDead(ctx context.Context, q router.DeadLetters, req *apiDeadRequest, f func(context.Context, string, []uint64) (int, error)) (n int, next uint64, err error) {
	if err := req.check(); err != nil {
		return 0, 0, err
	}
	if !req.All {
		n, err = f(ctx, req.Queue, req.Seqs)
		return n, 0, err
	}
	brief, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	page, err := q.ListDead(ctx, req.Queue, req.From, req.Limit)
	if err != nil || len(page) == 0 {
		return 0, 0, err
	}
	for step := range slices.Chunk(page, deadStep) {
		if next = step[0].Seq; brief.Err() != nil {
			return n, next, nil
		}
		seqs := make([]uint64, len(step))
		for i := range step {
			seqs[i] = step[i].Seq
		}
		done, err := f(ctx, req.Queue, seqs)
		n += done
		switch {
		case err != nil && n == 0:
			return 0, 0, err
		case err != nil:
			return n, next, nil
		}
		next = step[len(step)-1].Seq + 1
	}
	return n, next, nil
}
