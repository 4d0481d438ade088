package persistence

import (
	"context"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// clear removes all entries of key. The marker comes first, as the next entry,
// and only then is purged what lies below it: in the other order an append
// between the two would find no head and be born into a new life (rule W5).
func (p *stream) clear(ctx context.Context, key string) (router.Entry, error) {
	var h router.Entry
	err := p.retrying(ctx, func(ctx context.Context) (err error) {
		h, err = p.head(ctx, key)
		return err
	})
	if err != nil || h.Number == 0 {
		return router.Entry{}, err
	}
	if planted.Bug(planted.RestartNumbers) {
		return h, p.api(ctx, "PURGE", map[string]any{"filter": p.filter(key)}, nil)
	}
	type result struct {
		e   router.Entry
		err error
	}
	stored := make(chan result, 1)
	p.append(key, router.Entry{Cleared: true}, func(e router.Entry, _ bool, err error) { stored <- result{e, err} })
	var r result
	select {
	case r = <-stored:
	case <-ctx.Done():
		return router.Entry{}, router.Unavailable("history", context.Cause(ctx))
	}
	if r.err != nil {
		return router.Entry{}, r.err
	}
	// Should the purge fail, reads still stop at the marker, and retention takes
	// the rest. The caller hears of it, because he may have reasons to remove.
	err = p.retrying(ctx, func(ctx context.Context) error {
		return p.api(ctx, "PURGE", map[string]any{"filter": p.filter(key), "seq": r.e.Seq}, nil)
	})
	return r.e, jet.Unavailable("history", err)
}
