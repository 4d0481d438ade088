package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/headrace/headrace/test/check"
)

// The maps of a run.
const (
	hotMap     = "kv:hot"     // three keys that everybody writes, each with a strategy of its own
	coldMap    = "kv:cold"    // many keys
	ttlMap     = "kv:ttl"     // values that expire
	clearedMap = "kv:cleared" // cleared every few seconds, so that versions stay low and lives short
)

var mapNames = []string{hotMap, coldMap, ttlMap, clearedMap}

// mapKeys is how many keys each map has.
var mapKeys = map[string]int{hotMap: 1, coldMap: 150, ttlMap: 6, clearedMap: 4}

// stateConfig is the part of the edges' configuration about maps.
const stateConfig = `  - {name: kv, history_size: 300, allowed_delta_types: [fossil], map: {mode: persistent, key_history: 10}}
`

// stateRules are what maps are judged by. All clocks of a run are one.
var stateRules = map[string]check.StateRules{"kv": {History: 10, Clock: 250 * time.Millisecond, Stale: 6 * time.Second}}

// strategies of the keys of hotMap.
var hotKeys = map[string]string{"hot": "", "last": "lastWriteWins", "merged": "merge"}

// board is what anybody in the run was told of keys last.
type board struct {
	mu   sync.Mutex // guards last
	last map[string]check.VersionOf
}

func (b *board) note(channel, key string, v *storedVersion) {
	if v == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if have := b.last[channel+" "+key]; have.Life != v.Life || have.Version < v.Version {
		b.last[channel+" "+key] = check.VersionOf{Version: v.Version, Life: v.Life}
	}
}

func (b *board) get(channel, key string) check.VersionOf {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last[channel+" "+key]
}

// beginState lets writers and readers in, until stop is closed, and subscribers,
// until finished is.
func (r *run) beginState(writers, others *sync.WaitGroup, stop, settled, finished <-chan struct{}) {
	if !r.state {
		return
	}
	b := &board{last: make(map[string]check.VersionOf)}
	for channel, n := range map[string]int{hotMap: 6, coldMap: 2, ttlMap: 2, clearedMap: 2} {
		for i := range n {
			w := &stateWriter{r: r, board: b, name: fmt.Sprintf("s%d %s", i, channel), channel: channel, number: i}
			writers.Go(func() { w.work(stop) })
		}
	}
	// Some come all at once, so that edges store changes together.
	for i := range 15 {
		w := &stateWriter{r: r, board: b, name: fmt.Sprintf("b%d %s", i, coldMap), channel: coldMap, number: 100 + i, beat: r.pace(400 * time.Millisecond)}
		writers.Go(func() { w.work(stop) })
	}
	for i := range 2 {
		reader := &stateWriter{r: r, board: b, name: fmt.Sprintf("reader%d", i)}
		writers.Go(func() { reader.readUntil(stop) })
	}
	writers.Go(func() { r.clearMaps(stop) })
	for i, channel := range append(mapNames, mapNames...) {
		f := &mapFollower{r: r, name: fmt.Sprintf("m%d", i), channel: channel, settled: settled, delta: i%3 > 0}
		others.Go(func() { f.follow(finished) })
	}
}

// pace is how long to wait between two operations on maps: longer when there are other
// loads.
func (r *run) pace(alone time.Duration) time.Duration {
	if r.log || r.jobs {
		return 3 * alone
	}
	return alone
}

// storedVersion is a version as the API writes it.
type storedVersion struct {
	Key     string          `json:"key"`
	Version uint64          `json:"version"`
	Life    string          `json:"life"`
	Data    json.RawMessage `json:"data"`
	Removed bool            `json:"removed"`
	Expires int64           `json:"expires"`
	Offset  uint64          `json:"offset"`
}

// told is v for the record.
func (r *run) told(v *storedVersion) check.Version {
	out := check.Version{Key: v.Key, Version: v.Version, Life: v.Life, Value: string(v.Data), Removed: v.Removed, Offset: v.Offset}
	if v.Expires > 0 {
		out.Expires = r.history.At(time.UnixMilli(v.Expires))
	}
	return out
}

// ask asks any edge and records the answer. It reports whether there is one.
func (r *run) ask(who, channel, method string, s check.State, body map[string]any, read func(s *check.State, at *check.Position) any) bool {
	i := rand.IntN(size)
	body["channel"] = channel
	b, _ := json.Marshal(body) //nolint:errcheck // strings and numbers
	e := check.Event{Kind: check.Operated, Who: who, At: r.c.edges[i].name, Channel: channel, Began: r.history.Since()}
	var at check.Position
	result := read(nil, nil)
	err := r.call(i, method, b, result)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return false // nothing was asked
	}
	if s.Outcome = check.Open; err == nil {
		s.Outcome = check.Answered
		read(&s, &at)
	}
	e.Offset, e.Epoch, e.State = at.Offset, at.Epoch, &s
	r.history.Add(e)
	if err != nil {
		r.stateOpen.Add(1)
		return false
	}
	r.stateDone.Add(1)
	return true
}

// clearMaps clears clearedMap now and then.
func (r *run) clearMaps(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(2*time.Second + rand.N(4*time.Second)):
		}
		var result struct{}
		r.ask("clearer", clearedMap, "map_clear", check.State{Op: check.OpClear}, map[string]any{}, func(s *check.State, _ *check.Position) any {
			if s != nil {
				s.Outcome = check.Applied
			}
			return &result
		})
	}
}

// lastState asks what the maps hold in the end, and every key for its versions.
func (r *run) lastState(ctx context.Context) error {
	if !r.state {
		return nil
	}
	for _, channel := range mapNames {
		if err := r.again(ctx, func() error { return r.lastMap(channel) }); err != nil {
			return fmt.Errorf("map %s in the end: %w", channel, err)
		}
		for _, key := range keysOf(channel) {
			w := &stateWriter{r: r, name: "end", channel: channel}
			err := r.again(ctx, func() error {
				if !w.versions(channel, key, check.OpFinal) {
					return errors.New("no answer")
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("versions of %s in the end: %w", key, err)
			}
		}
	}
	return nil
}

func keysOf(channel string) (keys []string) {
	if channel == hotMap {
		for key := range hotKeys {
			keys = append(keys, key)
		}
		return keys
	}
	for n := range mapKeys[channel] {
		keys = append(keys, fmt.Sprintf("key.%d", n))
	}
	return keys
}

// again calls f until it succeeds, for at most 20 s.
func (r *run) again(ctx context.Context, f func() error) error {
	err := f()
	for deadline := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(deadline) && ctx.Err() == nil; err = f() {
		time.Sleep(200 * time.Millisecond) // a poll with a deadline
	}
	return err
}

// lastMap records all that a map holds.
func (r *run) lastMap(channel string) error {
	e := check.Event{Kind: check.MapTarget, Channel: channel, State: &check.State{}}
	for cursor := ""; ; {
		var page struct {
			Entries []storedVersion
			Cursor  string
			Offset  uint64
			Epoch   string
		}
		body, _ := json.Marshal(map[string]any{"channel": channel, "cursor": cursor, "limit": 40}) //nolint:errcheck // strings
		if err := r.call(rand.IntN(size), "map_read_state", body, &page); err != nil {
			return err
		}
		for i := range page.Entries {
			e.State.Entries = append(e.State.Entries, r.told(&page.Entries[i]))
		}
		e.Offset, e.Epoch = page.Offset, page.Epoch
		if cursor = page.Cursor; cursor == "" {
			break
		}
	}
	r.history.Add(e)
	return nil
}
