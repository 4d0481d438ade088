package edge

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/headrace/headrace/router"
)

// fakeState keeps maps in memory, with the contracts of router.Node as far as edge
// can tell: channels whose name begins with "map" are maps.
type fakeState struct {
	stateMu  sync.Mutex // guards all but meddle
	channels map[string]*fakeMap
	unfit    error // of every call
	options  []router.GetOptions
	changes  []router.Change
	meddle   func() // called once before the next change
}

type fakeMap struct {
	offset uint64
	epoch  int
	keys   map[string][]router.StateEntry // versions of a key, oldest first
	byID   map[string]router.Changed
}

func isFakeMap(channel string) bool { return len(channel) >= 3 && channel[:3] == "map" }

func (f *fakeState) fakeMap(channel string) (*fakeMap, error) {
	if f.unfit != nil {
		return nil, f.unfit
	}
	if _, err := router.ParseChannel(channel); err != nil {
		return nil, err
	}
	if !isFakeMap(channel) {
		return nil, router.Errorf(router.CodeNotAvailable, "the channels of namespace %q are no maps", "default")
	}
	if f.channels == nil {
		f.channels = make(map[string]*fakeMap)
	}
	if f.channels[channel] == nil {
		f.channels[channel] = &fakeMap{keys: make(map[string][]router.StateEntry), byID: make(map[string]router.Changed)}
	}
	return f.channels[channel], nil
}

func (m *fakeMap) position() router.Position {
	return router.Position{Offset: m.offset, Epoch: fmt.Sprint("e", m.epoch)}
}

func (m *fakeMap) head(key string) router.StateEntry {
	if vs := m.keys[key]; len(vs) > 0 {
		return vs[len(vs)-1]
	}
	return router.StateEntry{}
}

func (f *fakeState) ChangeState(_ context.Context, channel string, c router.Change) (router.Changed, error) {
	if meddle := f.meddle; meddle != nil {
		f.meddle = nil
		meddle()
	}
	f.stateMu.Lock()
	defer f.stateMu.Unlock()
	m, err := f.fakeMap(channel)
	if err != nil {
		return router.Changed{}, err
	}
	f.changes = append(f.changes, c)
	switch {
	case c.Key == "":
		return router.Changed{}, router.Errorf(router.CodeInvalid, "key is empty")
	case len(c.Key) > router.MaxKeyLength:
		return router.Changed{}, router.Errorf(router.CodeLimit, "key has %d bytes, more than %d", len(c.Key), router.MaxKeyLength)
	case len(c.Data) > 100:
		return router.Changed{}, router.Errorf(router.CodeLimit, "value has %d bytes, more than %d", len(c.Data), 100)
	case c.Strategy != "" && !slices.Contains([]router.Strategy{router.StrategyReject, router.StrategyLastWriteWins, router.StrategyMerge, router.StrategyCustom}, c.Strategy):
		return router.Changed{}, router.Errorf(router.CodeInvalid, "unknown strategy %q", c.Strategy)
	}
	if old, ok := m.byID[c.User+" "+c.IdempotencyKey]; ok && c.IdempotencyKey != "" {
		old.Duplicate = true
		return old, nil
	}
	cur := m.head(c.Key)
	if reason := refuseFake(&cur, &c); reason != "" {
		res := router.Changed{Reason: reason, Entry: cur}
		if reason == router.ReasonRejected {
			res.Message = "not on Sundays"
		}
		return res, nil
	}
	m.offset++
	e := router.StateEntry{
		Key: c.Key, Version: cur.Version + 1, Life: fmt.Sprint("l", m.epoch), Data: c.Data, Removed: c.Remove, Time: time.UnixMilli(1000),
		ClientTime: c.Time, Info: c.Info, Tags: c.Tags, Offset: m.offset,
	}
	if c.TTL > 0 {
		e.Expires = e.Time.Add(c.TTL)
	}
	m.keys[c.Key] = append(m.keys[c.Key], e)
	res := router.Changed{Applied: true, Entry: e, Position: m.position()}
	m.byID[c.User+" "+c.IdempotencyKey] = res
	return res, nil
}

func refuseFake(cur *router.StateEntry, c *router.Change) router.Reason {
	present := cur.Version > 0 && !cur.Removed
	switch {
	case c.Strategy == router.StrategyLastWriteWins && c.Time > 0 && c.Time < cur.ClientTime:
		return router.ReasonOlder
	case c.Strategy == router.StrategyCustom:
		return router.ReasonRejected
	case c.Remove && !present:
		return router.ReasonMissing
	case c.Expect == nil || c.Strategy == router.StrategyMerge || c.Strategy == router.StrategyLastWriteWins:
		return ""
	case c.Expect.Version == 0 && present:
		return router.ReasonExists
	case c.Expect.Version > 0 && (!present || c.Expect.Version != cur.Version || c.Expect.Life != "" && c.Expect.Life != cur.Life):
		return router.ReasonConflict
	}
	return ""
}

func (f *fakeState) SyncState(ctx context.Context, channel string, changes []router.Change) ([]router.ChangeResult, error) {
	if len(changes) > router.MaxSync {
		return nil, router.Errorf(router.CodeLimit, "%d changes at once, more than %d", len(changes), router.MaxSync)
	}
	if !isFakeMap(channel) {
		_, err := f.fakeMap(channel) // touches nothing
		return nil, err
	}
	out := make([]router.ChangeResult, len(changes))
	for i, c := range changes {
		out[i].Changed, out[i].Err = f.ChangeState(ctx, channel, c)
	}
	return out, nil
}

func (f *fakeState) GetState(_ context.Context, channel, key string, opt router.GetOptions) (router.StateEntry, error) {
	f.stateMu.Lock()
	defer f.stateMu.Unlock()
	m, err := f.fakeMap(channel)
	if err != nil {
		return router.StateEntry{}, err
	}
	f.options = append(f.options, opt)
	if opt.Version == 0 {
		return m.head(key), nil
	}
	for _, e := range m.keys[key] {
		if e.Version == opt.Version {
			return e, nil
		}
	}
	return router.StateEntry{}, router.Errorf(router.CodeUnrecoverable, "version %d is gone", opt.Version)
}

func (f *fakeState) KeyHistory(_ context.Context, channel, key string, limit int) ([]router.StateEntry, error) {
	f.stateMu.Lock()
	defer f.stateMu.Unlock()
	m, err := f.fakeMap(channel)
	if err != nil {
		return nil, err
	}
	if limit < 0 {
		return nil, router.Errorf(router.CodeInvalid, "limit %d is negative", limit)
	}
	out := slices.Clone(m.keys[key])
	slices.Reverse(out)
	if limit > 0 && limit < len(out) {
		out = out[:limit]
	}
	return out, nil
}

func (f *fakeState) StatePage(_ context.Context, channel, cursor string, limit int) (router.StatePage, error) {
	f.stateMu.Lock()
	defer f.stateMu.Unlock()
	m, err := f.fakeMap(channel)
	if err != nil {
		return router.StatePage{}, err
	}
	from, err := strconv.Atoi(cmp.Or(cursor, "0"))
	if err != nil || from < 0 {
		return router.StatePage{}, router.Errorf(router.CodeInvalid, "the cursor is not one of ours")
	}
	if limit == 0 || limit > router.MaxStatePage {
		limit = router.MaxStatePage
	}
	page := router.StatePage{Position: m.position()}
	var present []router.StateEntry
	for _, key := range slices.Sorted(maps.Keys(m.keys)) {
		if e := m.head(key); !e.Removed {
			present = append(present, e)
		}
	}
	present = present[min(from, len(present)):]
	if len(present) > limit {
		present, page.Next = present[:limit], strconv.Itoa(from+limit)
	}
	page.Entries = present
	return page, nil
}

func (f *fakeState) ClearState(_ context.Context, channel string) error {
	f.stateMu.Lock()
	defer f.stateMu.Unlock()
	m, err := f.fakeMap(channel)
	if err == nil {
		*m = fakeMap{offset: m.offset + 1, epoch: m.epoch + 1, keys: make(map[string][]router.StateEntry), byID: make(map[string]router.Changed)}
	}
	return err
}

func (f *fakeState) StateStats(_ context.Context, channel string) (router.StateStats, error) {
	f.stateMu.Lock()
	defer f.stateMu.Unlock()
	m, err := f.fakeMap(channel)
	if err != nil {
		return router.StateStats{}, err
	}
	return router.StateStats{Keys: len(m.keys), Position: m.position()}, nil
}
