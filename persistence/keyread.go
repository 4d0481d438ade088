package persistence

import (
	"context"
	"errors"
	"sync"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// Get reads the newest entry of the channel first and the key second: what is not in
// the image yet can only be that entry, and what was stored together with it.
func (ks *keyStore) Get(ctx context.Context, channel, key string) (router.StateEntry, router.Position, error) {
	p := ks.of(channel)
	e, h, err := p.read(ctx, channel, key, false)
	return e.State(), p.position(&h), err
}

// read returns the newest entry of key and of its channel, from the leaders. versions
// says that the places of the key's older versions are of interest.
func (p *keyPart) read(ctx context.Context, channel, key string, versions bool) (e, h router.Entry, err error) {
	if h, err = p.feedHead(ctx, channel); err != nil || h.Number == 0 {
		return e, h, err
	}
	together := h.Mark != nil && h.Mark.Group > 0
	if h.Mark != nil && h.Mark.Key == key && !(together && versions) {
		return h, h, nil
	}
	if together { // the key may be among those that were stored with the newest entry
		if _, err = p.settle(ctx, channel, &h); err != nil {
			return e, h, err
		}
	}
	err = p.keys.retrying(ctx, func(ctx context.Context) (err error) {
		if e, _, err = p.image(ctx, channel, key); err == nil && p.keys.replicated && p.keys.silence() > p.keys.cfg.ContactBound {
			err = errNoQuorum
		}
		return err
	})
	if err != nil {
		return e, h, jet.Unavailable("state", err)
	}
	if e.Life != h.Life {
		e = router.Entry{} // cleared
	}
	return e, h, nil
}

// feedHead reads the newest entry of channel at the leader. For an empty channel it
// is an Entry with a Seq only, one that the stream had reached before.
func (p *keyPart) feedHead(ctx context.Context, channel string) (h router.Entry, err error) {
	seen := p.feed.lastSeq.Load()
	err = p.feed.retrying(ctx, func(ctx context.Context) (err error) {
		h, err = p.feed.head(ctx, channel)
		return err
	})
	if err == nil && h.Number == 0 {
		h.Seq = seen
	}
	return h, err
}

func (p *keyPart) position(h *router.Entry) router.Position {
	if h.Number == 0 {
		return router.Position{Epoch: router.EmptyEpoch(p.feed.incarnation, h.Seq)}
	}
	return router.Position{Offset: h.Number, Epoch: router.LifeEpoch(p.feed.incarnation, h.Life)}
}

func (ks *keyStore) Version(ctx context.Context, channel, key string, version uint64) (router.StateEntry, error) {
	p := ks.of(channel)
	e, _, err := p.read(ctx, channel, key, true)
	if err != nil {
		return router.StateEntry{}, err
	}
	gone := router.Errorf(router.CodeUnrecoverable, "version %d is not stored", version)
	if e.Mark == nil || version == 0 || version > e.Mark.Version {
		return router.StateEntry{}, gone
	}
	if version < e.Mark.Version {
		older := e.Mark.Older()
		back := e.Mark.Version - version - 1
		if back >= uint64(len(older)) {
			return router.StateEntry{}, gone
		}
		var ok bool
		if e, ok, err = p.versionAt(ctx, older[back], &e, version); err != nil {
			return router.StateEntry{}, err
		} else if !ok {
			return router.StateEntry{}, gone
		}
	}
	return e.State(), nil
}

// versionAt reads a version of newer's key and life at its place in the image.
func (p *keyPart) versionAt(ctx context.Context, seq uint64, newer *router.Entry, version uint64) (e router.Entry, ok bool, err error) {
	err = p.keys.retrying(ctx, func(ctx context.Context) (err error) {
		e, _, err = p.keys.get(ctx, getRequest{Seq: seq})
		return err
	})
	if err != nil {
		return e, false, jet.Unavailable("state", err)
	}
	m := e.Mark
	return e, m != nil && m.Key == newer.Mark.Key && m.Life == newer.Mark.Life && m.Version == version, nil
}

// older reads the versions before e, the newest first, at most limit; 0 is all.
func (p *keyPart) older(ctx context.Context, e *router.Entry, limit int) ([]router.Entry, error) {
	places := e.Mark.Older()
	if n := p.ns.Map.KeyHistory - 1; len(places) > n {
		places = places[:n] // Prev names one more when there is no history
	}
	if limit > 0 && len(places) > limit {
		places = places[:limit]
	}
	type result struct {
		e   router.Entry
		ok  bool
		err error
	}
	results := make([]result, len(places))
	var wg sync.WaitGroup
	for i, seq := range places {
		wg.Go(func() {
			r := &results[i]
			r.e, r.ok, r.err = p.versionAt(ctx, seq, e, e.Mark.Version-1-uint64(i))
		})
	}
	wg.Wait()
	var versions []router.Entry
	var errs []error
	for _, r := range results {
		errs = append(errs, r.err)
		if !r.ok {
			break // evicted, and so are those before it
		}
		versions = append(versions, r.e)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, jet.Unavailable("state", err)
	}
	return versions, nil
}

func (ks *keyStore) History(ctx context.Context, channel, key string, limit int) ([]router.StateEntry, error) {
	p := ks.of(channel)
	e, _, err := p.read(ctx, channel, key, true)
	if err != nil || e.Mark == nil {
		return nil, err
	}
	versions := []router.StateEntry{e.State()}
	if limit == 1 {
		return versions, nil
	}
	older, err := p.older(ctx, &e, max(limit-1, 0))
	for _, o := range older {
		versions = append(versions, o.State())
	}
	return versions, err
}

func (ks *keyStore) Stats(ctx context.Context, channel string) (router.StateStats, error) {
	p := ks.of(channel)
	h, err := p.feedHead(ctx, channel)
	if err != nil {
		return router.StateStats{}, err
	}
	s := router.StateStats{Position: p.position(&h)}
	if h.Mark != nil {
		s.Keys = h.Mark.Keys
	}
	return s, nil
}
