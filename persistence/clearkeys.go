package persistence

import (
	"context"

	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// clearing is a clear of a channel that waits for its turn. Its entry is a marker
// with number 1 of a new life: subscribers lose their state, and images of the old
// life count for nothing whether they are purged or not. So it does not matter who
// is late with one.
type clearing struct {
	p       *keyPart
	channel string
	reached uint64 // the image's last sequence before the marker
}

// Clear implements router.KeyStore.
func (ks *keyStore) Clear(ctx context.Context, channel string) error {
	p := ks.of(channel)
	h, err := p.feedHead(ctx, channel)
	if err != nil || h.Number == 0 || h.Cleared {
		return err
	}
	q := &pending{
		entry: router.Entry{ID: jet.NewWriteID(), Cleared: true}, bytes: entryOverhead,
		rebirth: true, plan: &clearing{p: p, channel: channel},
	}
	result := make(chan error, 1)
	q.done = func(_ router.Entry, _ bool, err error) { result <- err }
	if err := p.feed.enqueue(channel, q); err != nil {
		return err
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return router.Unavailable("state", context.Cause(ctx))
	}
}

// prepare implements plan.
func (c *clearing) prepare(ctx context.Context, h head) (router.Entry, error) {
	if _, err := c.p.level(ctx, c.channel, h); err != nil {
		return router.Entry{}, err
	}
	err := c.p.keys.retrying(ctx, func(ctx context.Context) error {
		info, err := c.p.keys.info(ctx)
		c.reached = info.State.LastSeq
		return err
	})
	return router.Entry{Cleared: true}, jet.Unavailable("state", err)
}

// stored implements plan: it purges what the marker has made worthless. Changes of
// the new life lie above.
func (c *clearing) stored(ctx context.Context, e *router.Entry) error {
	st := channelState{head: head{e.Number, e.Seq, e.Life}, gen: c.p.current.generation()}
	c.p.known.Add(c.channel, st)
	purge := func(s *stream, filter string, below uint64) error {
		return s.retrying(ctx, func(ctx context.Context) error {
			return s.api(ctx, "PURGE", map[string]any{"filter": filter, "seq": below}, nil)
		})
	}
	if err := purge(c.p.keys, c.p.heads(c.channel)+">", c.reached+1); err != nil {
		return err
	}
	return purge(c.p.feed, c.p.feed.filter(c.channel), e.Seq)
}

// lost implements plan.
func (c *clearing) lost(head) (head, bool) { return head{}, false }
