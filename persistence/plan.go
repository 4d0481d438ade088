package persistence

import (
	"context"
	"slices"
	"time"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// prepare lets q's plan make the entry that is to follow h.
func (w *writer) prepare(q *pending, h head) error {
	ctx, cancel := context.WithDeadline(context.Background(), q.deadline)
	defer cancel()
	e, err := q.plan.prepare(ctx, h)
	if err != nil {
		return err
	}
	e.ID = q.entry.ID
	q.entry = e
	return nil
}

// finish answers q, whose entry e is stored.
func (w *writer) finish(q *pending, e router.Entry) {
	if q.plan != nil {
		deadline := q.deadline
		if least := time.Now().Add(imageTime); least.After(deadline) {
			deadline = least
		}
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		if err := q.plan.stored(ctx, &e); err != nil {
			w.answer(q, router.Entry{}, false, jet.Unavailable("state", err))
			return
		}
	}
	w.answer(q, e, false, nil)
}

// noneLands reports whether no attempt of q with unknown outcome can be stored any
// more, nor was between the last look back and the reading of h: then q may be
// refused. It is asked again after another look back.
func (w *writer) noneLands(q *pending, h head) bool {
	if len(q.tried) == 0 || q.refused {
		return true
	}
	// All have lost once the head is at or above their numbers: they compared with
	// what lay below.
	q.refused = h.number >= slices.Max(q.tried)
	return false
}

// forgetHead is what follows a failed attempt on h: the head is not known any more,
// unless q's plan knows better.
func (w *writer) forgetHead(q *pending, h head, err error) {
	if q.plan != nil && conflicted(err) {
		if newer, ok := q.plan.lost(h); ok {
			w.p.heads.Add(w.key, newer)
			return
		}
	}
	w.p.heads.Remove(w.key)
}
