package edge

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/headrace/headrace/router"
)

// fakeMaps is a fakeRouter whose channels are maps, each with a feed of all changes.
// Fields are guarded by fakeRouter.mu.
type fakeMaps struct {
	*fakeRouter
	keys    map[string]router.StateEntry
	feed    []*router.Publication
	evicted uint64 // publications up to this offset are gone
	epoch   string
	paging  func() // runs before each page is read
	late    func() // runs once after a page was read
	changes []string
	failing []error // answers of the next changes
	reason  router.Reason
	hold    chan struct{} // when set, changes wait for it
}

func newFakeMaps(o router.MapOptions) *fakeMaps {
	f := &fakeMaps{fakeRouter: newFakeRouter(), keys: make(map[string]router.StateEntry), epoch: "e"}
	o = o.WithDefaults()
	f.ns.Map, f.ns.TagsFilter = &o, true
	return f
}

// set makes a change from outside and delivers it.
func (f *fakeMaps) set(key, data string, tags map[string]string) {
	f.mu.Lock()
	e := router.StateEntry{Key: key, Version: f.keys[key].Version + 1, Data: []byte(data), Removed: data == "", Tags: tags, Offset: uint64(len(f.feed)) + 1}
	p := &router.Publication{Offset: e.Offset, Data: e.Data, Tags: tags, Key: key, Version: e.Version, Removed: e.Removed}
	push := router.Push{Pub: p}
	if before := f.keys[key]; before.Present(time.Time{}) {
		if push.Before = &before; !maps.Equal(before.Tags, tags) {
			p.Was = &before.Tags
		}
	}
	f.keys[key] = e
	f.feed = append(f.feed, p)
	f.mu.Unlock()
	f.deliverBatch(&router.Batch{Channel: "m", Pushes: []router.Push{push}})
}

func (f *fakeMaps) position() router.Position {
	return router.Position{Offset: uint64(len(f.feed)), Epoch: f.epoch}
}

func (f *fakeMaps) StatePage(_ context.Context, _, cursor string, limit int) (router.StatePage, error) {
	if f.paging != nil {
		f.paging()
	}
	defer func() {
		if late := f.late; late != nil {
			f.late = nil
			late()
		}
	}()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note(fmt.Sprintf("page %q %d", cursor, limit))
	if cursor == "bad" {
		return router.StatePage{}, router.Errorf(router.CodeInvalid, "not a cursor")
	}
	page := router.StatePage{Position: f.position()}
	var names []string
	for k, e := range f.keys {
		if k > cursor && !e.Removed {
			names = append(names, k)
		}
	}
	slices.Sort(names)
	for _, k := range names[:min(limit, len(names))] {
		page.Entries = append(page.Entries, f.keys[k])
	}
	if len(names) > limit {
		page.Next = names[limit-1]
	}
	return page, nil
}

func (f *fakeMaps) Subscribe(s *router.Subscription, req router.SubscribeRequest, done func(router.SubscribeResult, error)) {
	f.mu.Lock()
	res := router.SubscribeResult{Position: f.position()}
	if req.Recover {
		if req.Position.Epoch != "" && req.Position.Epoch != f.epoch && req.Position.Epoch != "empty" || req.Position.Offset < f.evicted || req.Position.Offset > uint64(len(f.feed)) {
			f.mu.Unlock()
			done(res, router.Errorf(router.CodeUnrecoverable, "unrecoverable position"))
			return
		}
		res.Recovered, res.Publications = true, f.feed[req.Position.Offset:]
		if n := req.Fit(res.Publications); n < len(res.Publications) {
			res.Publications, res.More = res.Publications[:n], true
			f.mu.Unlock()
			done(res, nil)
			return
		}
	}
	f.fakeRouter.result = res
	f.mu.Unlock()
	f.fakeRouter.Subscribe(s, req, done)
}

func (f *fakeMaps) ChangeState(_ context.Context, channel string, c router.Change) (router.Changed, error) {
	f.mu.Lock()
	hold := f.hold
	f.mu.Unlock()
	if hold != nil {
		<-hold
	}
	f.mu.Lock()
	data := string(c.Data)
	if c.Remove {
		data = "removed"
	}
	f.changes = append(f.changes, channel+" "+c.Key+" "+data)
	var err error
	if len(f.failing) > 0 {
		err, f.failing = f.failing[0], f.failing[1:]
	}
	reason := f.reason
	f.mu.Unlock()
	if err != nil || reason != "" {
		return router.Changed{Reason: reason}, err
	}
	f.set(c.Key, string(c.Data), nil)
	return router.Changed{Applied: true}, nil
}

func (f *fakeMaps) changed() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.changes
	f.changes = nil
	return fmt.Sprint(c)
}

// fill sets n keys k00, k01 …
func (f *fakeMaps) fill(n int) {
	for i := range n {
		f.set(fmt.Sprintf("k%02d", i), strconv.Itoa(i), nil)
	}
}
