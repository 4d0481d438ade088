package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/headrace/headrace/test/check"
)

// stateWriter changes keys over the HTTP API of any edge, each change repeated under
// one idempotency key until it is answered; or it only reads.
type stateWriter struct {
	r       *run
	board   *board
	name    string
	channel string
	number  int
	beat    time.Duration // when set, it begins its changes with all others that have it
	n       int
	// known are versions that it was told of, of lives that may have ended.
	known []check.VersionOf
}

func (w *stateWriter) work(stop <-chan struct{}) {
	for {
		w.change()
		pause := w.r.pace(50*time.Millisecond + rand.N(300*time.Millisecond))
		if w.beat > 0 {
			pause = w.beat - time.Duration(time.Now().UnixNano())%w.beat
		}
		select {
		case <-stop:
			return
		case <-time.After(pause):
		}
	}
}

// change makes one change up and makes it.
func (w *stateWriter) change() {
	w.n++
	keys := keysOf(w.channel)
	s := check.State{Op: check.OpSet, Key: keys[rand.IntN(len(keys))], Value: fmt.Sprintf("%q", fmt.Sprintf("%s-%d%s", w.name, w.n, common)), ID: fmt.Sprintf("%s-%d", w.name, w.n)}
	switch w.channel {
	case ttlMap:
		s.TTL = time.Second + rand.N(3*time.Second).Truncate(time.Millisecond)
		if rand.IntN(2) == 0 {
			s.Expect = &check.VersionOf{} // as a lock is taken
		}
	case hotMap:
		if rand.IntN(3) > 0 {
			s.Key = "hot" // more of it
		}
		s.Strategy = hotKeys[s.Key]
	case clearedMap:
		if len(w.known) > 0 && rand.IntN(2) == 0 { // of a life that may be over
			old := w.known[rand.IntN(len(w.known))]
			s.Expect = &old
		}
	}
	switch s.Strategy {
	case "merge":
		s.Value = fmt.Sprintf(`{"w%d":%d}`, w.number, w.n)
	case "lastWriteWins":
		s.Time = time.Now().Add(rand.N(4*time.Second) - 3*time.Second).UnixMilli()
	}
	if s.Strategy == "" && s.Expect == nil {
		w.expect(&s)
	}
	if s.Strategy != "merge" && rand.IntN(10) == 0 {
		s.Op, s.Value, s.TTL = check.OpDelete, "", 0
	}
	if s.Op == check.OpDelete && s.Expect != nil && s.Expect.Version == 0 {
		s.Expect = nil
	}
	for deadline := time.Now().Add(giveUp); !w.once(s) && time.Now().Before(deadline); {
		time.Sleep(50*time.Millisecond + rand.N(100*time.Millisecond)) // the retry pause of an application
	}
	if rand.IntN(2) == 0 {
		w.cached(w.channel, s.Key) // while the change is on its way to the other edges
	}
}

// expect makes most changes depend on what was read.
func (w *stateWriter) expect(s *check.State) {
	switch rand.IntN(6) {
	case 0, 1, 2:
		if v := w.board.get(w.channel, s.Key); v.Version > 0 {
			s.Expect = &v
		}
	case 3, 4:
		if v, ok := w.get(w.channel, s.Key); ok {
			s.Expect = &v
		}
	}
}

// once asks once, and reports whether there was an answer.
func (w *stateWriter) once(s check.State) bool {
	body := map[string]any{"key": s.Key, "idempotency_key": s.ID}
	method := "state_delete"
	if s.Op == check.OpSet {
		method = "state_set"
		body["data"] = json.RawMessage(s.Value)
	}
	if s.TTL > 0 {
		body["ttl"] = s.TTL.String()
	}
	if s.Expect != nil {
		body["expect"] = versionBody(s.Expect)
	}
	if s.Strategy != "" {
		body["strategy"] = s.Strategy
	}
	if s.Time != 0 {
		body["time"] = s.Time
	}
	var result struct {
		Applied   bool
		Duplicate bool
		Reason    string
		Entry     *storedVersion
		Offset    uint64
		Epoch     string
	}
	return w.r.ask(w.name, w.channel, method, s, body, func(s *check.State, at *check.Position) any {
		if s == nil {
			return &result
		}
		s.Outcome, s.Duplicate, s.Reason = check.Refused, result.Duplicate, result.Reason
		if result.Applied {
			s.Outcome = check.Applied
			at.Offset, at.Epoch = result.Offset, result.Epoch
		}
		if v := result.Entry; v != nil {
			s.Entries = []check.Version{w.r.told(v)}
			w.saw(w.channel, s.Key, v)
		}
		return nil
	})
}

func versionBody(v *check.VersionOf) map[string]any {
	return map[string]any{"version": v.Version, "life": v.Life}
}

func (w *stateWriter) saw(channel, key string, v *storedVersion) {
	w.board.note(channel, key, v)
	if channel == clearedMap {
		w.known = append(w.known[max(len(w.known)-15, 0):], check.VersionOf{Version: v.Version, Life: v.Life})
	}
}

// get reads what is current, and returns what to expect of it.
func (w *stateWriter) get(channel, key string) (v check.VersionOf, ok bool) {
	var result struct{ Entry *storedVersion }
	body := map[string]any{"key": key, "fresh": true}
	ok = w.r.ask(w.name, channel, "state_get", check.State{Op: check.OpGet, Key: key}, body, w.entry(channel, key, &result.Entry, &result))
	if e := result.Entry; ok && e != nil && !e.Removed {
		v = check.VersionOf{Version: e.Version, Life: e.Life}
	}
	return v, ok
}

// entry reads an answer that has one entry, or none.
func (w *stateWriter) entry(channel, key string, entry **storedVersion, result any) func(*check.State, *check.Position) any {
	return func(s *check.State, _ *check.Position) any {
		if s != nil && *entry != nil {
			s.Entries = []check.Version{w.r.told(*entry)}
			w.saw(channel, key, *entry)
		}
		return result
	}
}

// cached reads what an edge may remember, but not below what anybody was told.
func (w *stateWriter) cached(channel, key string) {
	s := check.State{Op: check.OpCached, Key: key}
	body := map[string]any{"key": key}
	if v := w.board.get(channel, key); v.Version > 0 && rand.IntN(3) > 0 {
		s.Seen = &v
		body["seen"] = versionBody(&v)
	}
	var result struct{ Entry *storedVersion }
	w.r.ask(w.name, channel, "state_get", s, body, w.entry(channel, key, &result.Entry, &result))
}

// versions reads all that is stored of a key.
func (w *stateWriter) versions(channel, key string, op check.Op) bool {
	var result struct{ Entries []storedVersion }
	return w.r.ask(w.name, channel, "state_history", check.State{Op: op, Key: key}, map[string]any{"key": key}, func(s *check.State, _ *check.Position) any {
		if s != nil {
			for i := range result.Entries {
				s.Entries = append(s.Entries, w.r.told(&result.Entries[i]))
			}
		}
		return &result
	})
}

// readUntil reads in all ways until stop is closed.
func (w *stateWriter) readUntil(stop <-chan struct{}) {
	for {
		channel := mapNames[rand.IntN(len(mapNames))]
		keys := keysOf(channel)
		key := keys[rand.IntN(len(keys))]
		switch n := rand.IntN(10); {
		case n < 6:
			w.cached(channel, key)
		case n < 9:
			w.get(channel, key)
		default:
			w.versions(channel, key, check.OpHistory)
		}
		select {
		case <-stop:
			return
		case <-time.After(w.r.pace(rand.N(100 * time.Millisecond))):
		}
	}
}
