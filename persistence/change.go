package persistence

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/headrace/headrace/internal/planted"
	"github.com/headrace/headrace/persistence/internal/jet"
	"github.com/headrace/headrace/router"
)

// change is a change of a key that waits for its turn in the channel. It belongs to
// the channel's goroutine.
type change struct {
	p       *keyPart
	channel string
	update  router.KeyUpdate
	// Set by prepare.
	before  channelState
	refusal router.Changed // when nothing is stored
}

var (
	errRefused     = router.Errorf(router.CodeConflict, "refused")
	errMovedOn     = errors.New("the channel moved on")
	errOverwritten = errors.New("the newest entry was overwritten while it was read")
)

// Change implements router.KeyStore.
func (ks *keyStore) Change(channel string, u router.KeyUpdate, done func(router.Changed, error)) {
	ks.of(channel).change(channel, u, done)
}

func (p *keyPart) change(channel string, u router.KeyUpdate, done func(router.Changed, error)) {
	c := &change{p: p, channel: channel, update: u}
	p.feed.appendPlan(channel, u.ID, u.Bytes+len(u.Meta), c, func(e router.Entry, duplicate bool, err error) {
		switch {
		case errors.Is(err, errRefused):
			done(c.refusal, nil)
		case err != nil:
			done(router.Changed{}, err)
		default:
			done(p.changed(e, duplicate), nil)
		}
	})
}

// changed is the answer to a change that e stored. An e without mark stands for a
// duplicate whose original has been overwritten since.
func (p *keyPart) changed(e router.Entry, duplicate bool) router.Changed {
	c := router.Changed{Applied: true, Duplicate: duplicate, Entry: e.State()}
	if e.Number > 0 {
		c.Position = router.Position{Offset: e.Number, Epoch: router.LifeEpoch(p.feed.incarnation, e.Life)}
	}
	return c
}

// appendPlan queues an entry that c makes when its turn has come.
func (p *stream) appendPlan(key, id string, bytes int, c plan, done func(router.Entry, bool, error)) {
	if id == "" {
		id = jet.NewWriteID()
	}
	q := &pending{entry: router.Entry{ID: id}, bytes: int64(bytes) + entryOverhead, plan: c, done: done}
	if err := p.enqueue(key, q); err != nil {
		go done(router.Entry{}, false, err)
	}
}

// level returns what the channel looks like at h, with the newest entry in the image.
func (p *keyPart) level(ctx context.Context, channel string, h head) (channelState, error) {
	st, known := p.known.Get(channel)
	if known && st.head == h {
		return st, nil
	}
	next := channelState{head: h}
	if h.number == 0 {
		next.gen = p.current.generation()
		return next, nil
	}
	passed := p.after(channel, st.head, h.seq)
	e, err := p.entryAt(ctx, h, passed)
	if err != nil {
		return next, err
	}
	if known && st.head.life == e.Life && e.Number > st.head.number && e.Number <= st.head.number+uint64(max(len(passed), 1)) {
		next.gen = st.gen // nothing passed unseen
		for i := range len(passed) - 1 {
			// Where their images lie is not known.
			p.current.drop(keyID{channel, markedKey(passed[i])})
		}
	} else {
		next.gen = p.current.generation()
	}
	if e.Mark != nil {
		next.keys = e.Mark.Keys
		if planted.Bug(planted.SkipForeignHead) {
			p.current.drop(keyID{channel, e.Mark.Key})
			p.known.Add(channel, next)
			return next, nil
		}
		changes := p.changesOf(channel, &e, passed)
		var have imaged
		err = p.keys.retrying(ctx, func(ctx context.Context) (err error) {
			have, err = p.materialise(ctx, channel, &e, nil, changes)
			return err
		})
		if err != nil {
			return next, jet.Unavailable("state", err)
		}
		if len(passed) >= e.Mark.Group && e.Mark.Group > 0 {
			p.learn(channel, &next, have, passed[len(passed)-e.Mark.Group:])
		} else {
			p.learn(channel, &next, have, []router.Entry{e})
		}
	}
	p.known.Add(channel, next)
	return next, nil
}

// entryAt returns the entry at h: the last one of passed, or else from the leader.
func (p *keyPart) entryAt(ctx context.Context, h head, passed []router.Entry) (e router.Entry, err error) {
	if len(passed) > 0 {
		return passed[len(passed)-1], nil
	}
	err = p.feed.retrying(ctx, func(ctx context.Context) (err error) {
		e, _, err = p.feed.get(ctx, getRequest{Seq: h.seq})
		return err
	})
	if err != nil {
		return e, jet.Unavailable("history", err)
	}
	if e.Seq != h.seq {
		return e, errOverwritten // somebody was faster: the head is read again
	}
	return e, nil
}

// newest returns what is current of key in a channel that is level at st: an entry
// whose Seq is its place in the image. One of another life of the channel was
// cleared: only its place counts.
func (p *keyPart) newest(ctx context.Context, channel, key string, st *channelState) (e router.Entry, err error) {
	id := keyID{channel, key}
	if e, ok := p.current.get(id, st.gen); ok {
		return e, nil
	}
	err = p.keys.retrying(ctx, func(ctx context.Context) (err error) {
		e, _, err = p.image(ctx, channel, key)
		return err
	})
	if err != nil {
		return e, jet.Unavailable("state", err)
	}
	if e.Life != st.head.life {
		e = router.Entry{Seq: e.Seq}
	}
	p.current.put(id, st.gen, e)
	return e, nil
}

// prepare implements plan.
func (c *change) prepare(ctx context.Context, h head) (router.Entry, error) {
	st, err := c.p.level(ctx, c.channel, h)
	if err != nil {
		return router.Entry{}, err
	}
	cur, err := c.p.newest(ctx, c.channel, c.update.Key, &st)
	if err != nil {
		return router.Entry{}, err
	}
	c.before = st
	e, err := c.judge(&st, &cur, false)
	if err != nil {
		// The compare-and-set proves what is stored, nothing proves a refusal: so it
		// must not rest on what this edge remembers.
		if now, err := c.p.feedHead(ctx, c.channel); err != nil {
			return router.Entry{}, err
		} else if now.Number != h.number || now.Number > 0 && now.Seq != h.seq {
			return router.Entry{}, errMovedOn
		}
	}
	if errors.Is(err, errRefused) {
		err = c.repeated(ctx, cur)
	}
	return e, err
}

// judge returns the entry that the change makes of cur. together says that cur is not
// stored yet: it will be together with this one.
func (c *change) judge(st *channelState, cur *router.Entry, together bool) (router.Entry, error) {
	d, err := c.update.Decide(cur.State())
	if err != nil {
		return router.Entry{}, err
	}
	if d.Refuse != "" {
		c.refusal = router.Changed{Reason: d.Refuse, Entry: cur.State()}
		return router.Entry{}, errRefused
	}
	mark := c.mark(cur, d.Remove)
	if together {
		mark.Prev = cur.Mark.Prev // where cur will lie is not known: see layOut
	}
	if mark.Keys > c.p.ns.Map.MaxKeys && mark.Keys > st.keys {
		return router.Entry{}, router.Errorf(router.CodeLimit, "the channel has %d keys, as many as it may", st.keys)
	}
	return router.Entry{Meta: c.meta(cur, d.Remove), Data: d.Data, Mark: mark}, nil
}

// meta is the change's, with the tags of the value before where subscribers may
// choose by tags and those change. A removal reaches all of them anyway.
func (c *change) meta(cur *router.Entry, remove bool) []byte {
	if !c.p.ns.TagsFilter || remove || cur.Mark == nil || cur.Mark.Removed {
		return c.update.Meta
	}
	before, err1 := router.DecodeMeta(cur.Meta)
	now, err2 := router.DecodeMeta(c.update.Meta)
	if err1 != nil || err2 != nil || maps.Equal(before.Tags, now.Tags) {
		return c.update.Meta
	}
	if before.Tags == nil {
		before.Tags = map[string]string{}
	}
	now.Was = &before.Tags
	return now.Encode()
}

// mark makes the mark of a change after cur.
func (c *change) mark(cur *router.Entry, remove bool) *router.KeyMark {
	m := &router.KeyMark{
		Key: c.update.Key, Version: 1, Removed: remove,
		At: time.Now().UnixMilli(), ClientTime: c.update.ClientTime, Keys: c.before.keys, Prev: []uint64{cur.Seq},
	}
	if !remove && !c.update.Expires.IsZero() {
		m.Expires = c.update.Expires.UnixMilli()
	}
	was := false
	if cur.Mark == nil {
		m.Life = jet.NewID() // a life is born
	} else {
		m.Life, m.Version = cur.Mark.Life, cur.Mark.Version+1
		was = !cur.Mark.Removed
		older := cur.Mark.Older()
		// The newest is a place of its own, and Prev names at least one.
		for _, place := range older[:min(len(older), max(c.p.ns.Map.KeyHistory-2, 0))] {
			if place >= m.Prev[len(m.Prev)-1] {
				break // of an image that was lost: the versions are gone with it
			}
			m.Prev = append(m.Prev, place)
		}
	}
	switch {
	case was && remove:
		// If NATS has lost entries, the count may be wrong; below 0 it could not be read.
		m.Keys = max(m.Keys-1, 0)
	case !was && !remove:
		m.Keys++
	}
	if planted.Bug(planted.RestartVersions) && cur.Mark != nil && cur.Mark.Removed {
		m.Version, m.Prev = 1, m.Prev[:1]
	}
	return m
}

// repeated looks for what an earlier attempt with the same id stored: its success may
// be why this one is refused. NATS would not tell: it compares heads before ids.
func (c *change) repeated(ctx context.Context, cur router.Entry) error {
	if c.update.ID == "" || cur.Mark == nil {
		return errRefused
	}
	found := cur
	if cur.ID != c.update.ID {
		versions, err := c.p.older(ctx, &cur, 0)
		if err != nil {
			return err
		}
		for _, e := range versions {
			if e.ID == c.update.ID {
				found = e
			}
		}
	}
	if found.ID == c.update.ID {
		c.refusal = c.p.changed(found, true)
	}
	return errRefused
}

// stored implements plan.
func (c *change) stored(ctx context.Context, e *router.Entry) error {
	if e.Mark.Group > 0 {
		return c.p.settleNow(ctx, c.channel)
	}
	st := channelState{
		head: head{e.Number, e.Seq, e.Life},
		keys: e.Mark.Keys, gen: c.before.gen,
	}
	alone := []router.Entry{*e}
	if planted.Bug(planted.SkipOwnHead) && e.Number%4 == 0 {
		c.p.current.drop(keyID{c.channel, e.Mark.Key})
		c.p.known.Add(c.channel, st)
		return nil
	}
	have, err := c.p.materialise(ctx, c.channel, e, alone, nil)
	if err != nil {
		return err
	}
	// An attempt that was found by looking back follows what it was prepared for.
	if c.before.head.number+1 != e.Number || e.Number > 1 && c.before.head.life != e.Life {
		st.gen = c.p.current.generation()
	}
	c.p.learn(c.channel, &st, have, alone)
	c.p.known.Add(c.channel, st)
	c.p.saw(c.channel, e, 0)
	return nil
}

// lost implements plan.
func (c *change) lost(h head) (head, bool) {
	c.p.contended(c.channel)
	newer, ok := c.p.newestSeen(c.channel)
	return newer, ok && newer.seq > h.seq
}
