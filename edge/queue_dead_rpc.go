package edge

import (
	"context"

	"github.com/headrace/headrace/router"
)

// maxDeadPage bounds the dead letters of one answer to a client.
const maxDeadPage = 100

// queueDeadRequest asks for dead letters from a number on.
type queueDeadRequest struct {
	Queue string `json:"queue"`
	From  uint64 `json:"from"`
	Limit int    `json:"limit"` // 0: maxDeadPage
}

// queueDeadPage is the answer: fewer letters than asked for do not mean the end,
// none does.
type queueDeadPage struct {
	Dead []queueDeadEntry `json:"dead"`
}

// queueDeadEntry is a dead letter. Omitted says that its payload and headers were
// left out, because the page would not fit into the client's connection.
type queueDeadEntry struct {
	queueDead
	Omitted bool `json:"omitted,omitempty"`
}

func rpcQueueDead(ctx context.Context, s *session, r *queueDeadRequest) (page queueDeadPage, err error) {
	queues, err := s.queueFor(router.OpDeadLetters, r.Queue)
	if err != nil {
		return page, err
	}
	if r.Limit < 0 || r.Limit > maxDeadPage {
		return page, router.Errorf(router.CodeInvalid, "limit is not within 0 to %d", maxDeadPage)
	}
	if r.Limit == 0 {
		r.Limit = maxDeadPage
	}
	letters, err := queues.ListDead(ctx, r.Queue, r.From, r.Limit)
	if err != nil {
		return page, err
	}
	page.Dead = make([]queueDeadEntry, 0, len(letters))
	room := s.srv.cfg.QueueBytes / 2
	for i := range letters {
		d := &letters[i]
		e := queueDeadEntry{queueDead: toQueueDead(d)}
		size := 2 * len(d.Payload) // base64 is shorter
		for name, value := range d.Headers {
			size += 2 * (len(name) + len(value))
		}
		if size > room {
			e.queuePayload, e.Omitted, size = queuePayload{}, true, 0
		}
		room -= size
		page.Dead = append(page.Dead, e)
	}
	return page, nil
}

// queueRedriveRequest names dead letters by number, or all there are.
type queueRedriveRequest struct {
	Queue string   `json:"queue"`
	Seqs  []uint64 `json:"seqs"`
	All   bool     `json:"all"`
}

// queueRedriven is the answer: what was brought back by this call.
type queueRedriven struct {
	Redriven int `json:"redriven"`
}

func rpcQueueRedrive(ctx context.Context, s *session, r *queueRedriveRequest) (queueRedriven, error) {
	queues, err := s.queueFor(router.OpDeadLetters, r.Queue)
	if err != nil {
		return queueRedriven{}, err
	}
	if (len(r.Seqs) > 0) == r.All {
		return queueRedriven{}, router.Errorf(router.CodeInvalid, "give either seqs or all")
	}
	seqs := r.Seqs
	if r.All {
		seqs = nil
	}
	n, err := queues.Redrive(ctx, r.Queue, seqs)
	return queueRedriven{Redriven: n}, err
}
