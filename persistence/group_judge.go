package persistence

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"

	"github.com/headrace/headrace/router"
)

// keyChain is a key while a group is judged.
type keyChain struct {
	base    router.Entry // what is stored
	changed []int        // the entries that follow
}

// judge judges the group behind h.
func (g *group) judge(ctx context.Context, h head) (*verdict, error) {
	channel := g.w.key
	st, err := g.p.level(ctx, channel, h)
	if err != nil {
		return nil, err
	}
	keys, err := g.current(ctx, &st)
	if err != nil {
		return nil, err
	}
	v := &verdict{batch: rand.Text()}
	bytes := 0
	for _, q := range g.waiting {
		if bytes > maxBatchBytes {
			break
		}
		c := q.plan.(*change)
		chain := keys[c.update.Key]
		cur := chain.base
		if n := len(chain.changed); n > 0 {
			cur = v.entries[chain.changed[n-1]]
		}
		c.before = st
		e, err := c.judge(&st, &cur, len(chain.changed) > 0)
		if errors.Is(err, errRefused) {
			if err = g.repeated(ctx, c, chain, v); !errors.Is(err, errRefused) {
				return nil, err
			}
		}
		if err != nil {
			v.answers = append(v.answers, answer{-1, err, c.refusal})
			continue
		}
		e.ID = q.entry.ID
		q.entry = e
		e = next(h, q)
		h = head{number: e.Number, life: e.Life}
		st.keys = e.Mark.Keys
		bytes += len(e.Data) + len(e.Meta) + entryOverhead
		chain.changed = append(chain.changed, len(v.entries))
		v.answers = append(v.answers, answer{entry: len(v.entries)})
		v.entries = append(v.entries, e)
	}
	layOut(v.entries, g.p.ns.Map.KeyHistory)
	v.state = st
	return v, nil
}

// repeated is change.repeated for one that was refused because of what chain became.
func (g *group) repeated(ctx context.Context, c *change, chain *keyChain, v *verdict) error {
	for _, i := range chain.changed {
		if e := &v.entries[i]; e.ID == c.update.ID {
			c.refusal = g.p.changed(*e, true)
			return errRefused
		}
	}
	return c.repeated(ctx, chain.base)
}

// readsAtOnce bounds the keys of a group that are read at the same time.
const readsAtOnce = 16

// current returns what is current of the keys of the group in a channel that is level at st.
func (g *group) current(ctx context.Context, st *channelState) (map[string]*keyChain, error) {
	keys := make(map[string]*keyChain, len(g.waiting))
	slots := make(chan struct{}, readsAtOnce)
	var mu sync.Mutex // guards errs
	var errs []error
	var wg sync.WaitGroup
	for _, q := range g.waiting {
		key := q.plan.(*change).update.Key
		if keys[key] != nil {
			continue
		}
		chain := &keyChain{}
		keys[key] = chain
		if e, ok := g.p.current.get(keyID{g.w.key, key}, st.gen); ok {
			chain.base = e
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			var err error
			if chain.base, err = g.p.newest(ctx, g.w.key, key, st); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return keys, nil
}
