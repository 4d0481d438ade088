package persistence

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

// crashAfterAppend leaves a channel as an edge does that ends between the feed and
// the image.
func crashAfterAppend(t *testing.T, e *edge, key, data string, remove bool) router.Entry {
	t.Helper()
	p := e.part()
	ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience(10*time.Second))
	defer cancel()
	h, err := p.feedHead(ctx, "c")
	if err != nil {
		t.Fatal(err)
	}
	c := &change{p: p, channel: "c", update: router.KeyUpdate{Key: key, Decide: func(router.StateEntry) (router.Decision, error) {
		return router.Decision{Data: value(data), Remove: remove}, nil
	}}}
	at := head{h.Number, h.Seq, h.Life}
	if h.Number == 0 {
		at = head{}
	}
	next, err := c.prepare(ctx, at)
	if err != nil {
		t.Fatal(err)
	}
	stored := make(chan router.Entry, 1)
	p.feed.append("c", next, func(e router.Entry, _ bool, err error) {
		if err != nil {
			t.Error(err)
		}
		stored <- e
	})
	return <-stored
}

// afterCrash is what another edge does after key k was left at version 3, by the last
// of changes.
var afterCrash = map[string]func(t *testing.T, e *edge, changes []router.Entry){
	"a fresh read": func(t *testing.T, e *edge, _ []router.Entry) {
		if got := e.get(t, "k"); got.Version != 3 || string(got.Data) != `"lost?"` {
			t.Errorf("got %+v", got)
		}
	},
	"a page": func(t *testing.T, e *edge, _ []router.Entry) {
		state, at := e.all(t, 10)
		if s := state["k"]; s.Version != 3 || string(s.Data) != `"lost?"` || at.Offset != 4 || len(state) != 2 {
			t.Errorf("state %+v at %v", state, at)
		}
	},
	"the older versions": func(t *testing.T, e *edge, _ []router.Entry) {
		history, err := e.KeyHistory(t.Context(), "m:c", "k", 0)
		if err != nil || len(history) != 3 || history[2].Version != 1 {
			t.Errorf("history %+v %v", history, err)
		}
	},
	"a change of the key": func(t *testing.T, e *edge, _ []router.Entry) {
		res := e.set(t, "k", "next")
		history, err := e.KeyHistory(t.Context(), "m:c", "k", 0)
		if err != nil || res.Entry.Version != 4 || res.Position.Offset != 5 || len(history) != 3 || string(history[1].Data) != `"lost?"` {
			t.Errorf("stored %+v, history %+v %v", res, history, err)
		}
	},
	"a change of another key": func(t *testing.T, e *edge, _ []router.Entry) {
		if res := e.set(t, "j", "next"); res.Entry.Version != 2 || res.Position.Offset != 5 {
			t.Errorf("stored %+v", res)
		}
		if got := e.get(t, "k"); got.Version != 3 || string(got.Data) != `"lost?"` {
			t.Errorf("got %+v", got)
		}
	},
	"clear": func(t *testing.T, e *edge, _ []router.Entry) {
		if err := e.ClearState(t.Context(), "m:c"); err != nil {
			t.Error(err)
		}
		if res := e.set(t, "k", "new"); res.Entry.Version != 1 {
			t.Errorf("stored %+v", res)
		}
	},
	"the edge itself, late": func(t *testing.T, e *edge, changes []router.Entry) {
		e.set(t, "k", "later")
		e.set(t, "j", "next") // so that k is read from the image
		e.imageLate(t, changes)
		if got := e.get(t, "k"); got.Version != 4 || string(got.Data) != `"later"` {
			t.Errorf("got %+v", got)
		}
	},
	"the edge itself, after a clear": func(t *testing.T, e *edge, changes []router.Entry) {
		if err := e.ClearState(t.Context(), "m:c"); err != nil {
			t.Error(err)
		}
		e.imageLate(t, changes)
		e.set(t, "j", "new")
		if got := e.get(t, "k"); got.Version != 0 {
			t.Errorf("came back: %+v", got)
		}
		if state, _ := e.all(t, 10); len(state) != 1 {
			t.Errorf("state %+v", state)
		}
		if res := e.set(t, "k", "new"); res.Entry.Version != 1 {
			t.Errorf("stored %+v", res)
		}
	},
}

// Whatever comes after an edge that ended between the feed and the image finds the
// change, and in its place.
func TestCrashBetweenFeedAndImage(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		for name, f := range afterCrash {
			t.Run(name, func(t *testing.T) {
				e := env.edges(t, 2)
				e[0].set(t, "k", "1")
				e[0].set(t, "k", "2")
				e[0].set(t, "j", "1")
				crashed := crashAfterAppend(t, e[0], "k", "lost?", false)
				if crashed.Number != 4 {
					t.Fatalf("crashed after %+v", crashed)
				}
				f(t, e[1], []router.Entry{crashed})
			})
		}
	})
}

// imageLate is what an edge does that comes to life again between the feed and the
// image.
func (e *edge) imageLate(t *testing.T, changes []router.Entry) {
	t.Helper()
	if _, err := e.part().materialise(t.Context(), "c", &changes[len(changes)-1], changes, nil); err != nil {
		t.Error(err)
	}
}

// 64 writers on three edges count up one key by compare-and-set: every success is a
// version of its own.
func TestHotKeyWith64Writers(t *testing.T) {
	const writers, each = 64, 4
	conform(t, func(t *testing.T, env *environment) {
		e := env.edges(t, 3)
		e[0].change(t, router.Change{Key: "hot", Data: []byte("0")}, true)
		var wg sync.WaitGroup
		begun := time.Now()
		refused := make([]int, writers)
		for w := range writers {
			wg.Go(func() {
				n, err := countUp(t.Context(), e[w%3], each)
				if err != nil {
					t.Error(err)
				}
				refused[w] = n
			})
		}
		wg.Wait()
		got := e[1].get(t, "hot")
		if got.Version != writers*each+1 || string(got.Data) != fmt.Sprint(writers*each) {
			t.Fatalf("after %d increments: %+v", writers*each, got)
		}
		total := 0
		for _, n := range refused {
			total += n
		}
		t.Logf("%d increments in %v, %d refused", writers*each, time.Since(begun), total)
	})
}

// countUp increments the key hot n times, trying again with what it is told.
func countUp(ctx context.Context, e *edge, n int) (refused int, err error) {
	cur, err := e.GetState(ctx, "m:c", "hot", router.GetOptions{Fresh: true})
	for err == nil && n > 0 {
		var v int
		fmt.Sscan(string(cur.Data), &v) //nolint:errcheck // then it counts from 0, and the test fails
		var res router.Changed
		res, err = e.ChangeState(ctx, "m:c", router.Change{
			Key: "hot", Data: fmt.Append(nil, v+1), Expect: &router.Expect{Version: cur.Version, Life: cur.Life},
		})
		cur = res.Entry
		if res.Applied {
			n--
		} else if refused++; refused > 100_000 {
			return refused, errors.New("refused 100,000 times")
		}
	}
	return refused, err
}

// A snapshot read in pages and the feed from its first page on make the state, with
// no change missing and none applied twice, whatever is written meanwhile.
func TestSnapshotJoinsTheFeed(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		e := env.edges(t, 2, func(ns *router.Namespace) { ns.HistorySize = 1000 })
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for w := range 2 {
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					key := fmt.Sprint(w, "-", i%20)
					c := router.Change{Key: key, Data: fmt.Append(nil, i), Remove: i%7 == 6}
					if _, err := e[w].ChangeState(context.Background(), "m:c", c); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		var replicas []*replica
		for i := range 12 {
			natstest.Eventually(t, 30*time.Second, "changes", func() bool {
				stats, err := e[0].StateStats(t.Context(), "m:c")
				return err == nil && stats.Position.Offset > uint64(10*i)
			})
			r, err := join(t.Context(), e[i%2], 1+i%5)
			if err != nil {
				t.Fatal(err)
			}
			replicas = append(replicas, r)
		}
		cancel()
		wg.Wait()
		want, at := e[0].all(t, 1000)
		for i, r := range replicas {
			if err := r.catchUp(at.Offset); err != nil {
				t.Errorf("subscriber %d: %v", i, err)
				continue
			}
			if len(r.state) != len(want) {
				t.Errorf("subscriber %d has %d keys, the store %d", i, len(r.state), len(want))
			}
			for key, s := range want {
				if r.state[key] != s.Version {
					t.Errorf("subscriber %d: %s is version %d, in the store %d", i, key, r.state[key], s.Version)
				}
			}
		}
		t.Logf("%d changes", at.Offset)
	})
}

// replica is the state of a subscriber.
type replica struct {
	f        *follower
	at       uint64
	state    map[string]uint64 // versions
	versions map[string]uint64 // of removed keys too
}

func join(ctx context.Context, e *edge, limit int) (*replica, error) {
	pages, first, err := readAll(ctx, e, limit)
	if err != nil {
		return nil, err
	}
	r := &replica{at: first.Offset, state: make(map[string]uint64), versions: make(map[string]uint64)}
	for key, s := range pages {
		if s.Offset <= first.Offset { // what is newer comes again
			r.state[key], r.versions[key] = s.Version, s.Version
		}
	}
	var res router.SubscribeResult
	if r.f, _, res, err = follow(e, &first); err != nil {
		return nil, err
	}
	if !res.Recovered {
		return nil, errors.New("not recovered")
	}
	return r, r.apply(res.Publications)
}

func (r *replica) apply(pubs []*router.Publication) error {
	for _, p := range pubs {
		if p.Offset != r.at+1 {
			return fmt.Errorf("change %d after %d", p.Offset, r.at)
		}
		r.at = p.Offset
		// The version of a key that was never seen is not known: it may have been
		// removed before.
		if v, known := r.versions[p.Key]; known && p.Version != v+1 {
			return fmt.Errorf("%s: version %d after %d", p.Key, p.Version, v)
		}
		r.versions[p.Key] = p.Version
		if r.state[p.Key] = p.Version; p.Removed {
			delete(r.state, p.Key)
		}
	}
	return nil
}

func (r *replica) catchUp(offset uint64) error {
	late := time.After(natstest.Patience(30 * time.Second))
	for r.at < offset {
		select {
		case ev := <-r.f.events:
			if ev.dropped != 0 {
				return fmt.Errorf("dropped: %d", ev.dropped)
			}
			if err := r.apply(ev.pubs); err != nil {
				return err
			}
		case <-late:
			return fmt.Errorf("at %d, never reached %d", r.at, offset)
		}
	}
	return nil
}
