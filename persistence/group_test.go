package persistence

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

func TestLayOut(t *testing.T) {
	for name, tt := range map[string]struct {
		keys    string // of the changes
		history int
		want    []router.KeyMark
		// older is what the last change knows of older versions when it lies at 100.
		older []uint64
	}{
		"one alone": {"a", 3, []router.KeyMark{{Prev: []uint64{9, 7}}}, []uint64{9, 7}},
		"of different keys": {"ab", 3, []router.KeyMark{
			{Prev: []uint64{9, 7}, Group: 1, More: 1}, {Prev: []uint64{9, 7}, Group: 2},
		}, []uint64{9, 7}},
		"of one key": {"aba", 3, []router.KeyMark{
			{Prev: []uint64{9, 7}, Group: 1, More: 2}, {Prev: []uint64{9, 7}, Group: 2, More: 1},
			{Prev: []uint64{9}, Group: 3, Back: []uint64{2}},
		}, []uint64{98, 9}},
		"more of one key than are kept": {"aabaa", 3, []router.KeyMark{
			{Prev: []uint64{9, 7}, Group: 1, More: 4, Superseded: true}, {Prev: []uint64{9, 7}, Group: 2, More: 3},
			{Prev: []uint64{9, 7}, Group: 3, More: 2}, {Prev: []uint64{9}, Group: 4, More: 1, Back: []uint64{2}},
			{Prev: []uint64{9}, Group: 5, Back: []uint64{1, 3}},
		}, []uint64{99, 97, 9}},
		"without history": {"aa", 1, []router.KeyMark{
			{Prev: []uint64{9, 7}, Group: 1, More: 1, Superseded: true}, {Prev: []uint64{9}, Group: 2},
		}, []uint64{9}},
	} {
		t.Run(name, func(t *testing.T) {
			var entries []router.Entry
			for i, key := range strings.Split(tt.keys, "") {
				entries = append(entries, router.Entry{Mark: &router.KeyMark{Key: key, Life: "l", Version: uint64(9 + i), Prev: []uint64{9, 7}}})
				tt.want[i].Key, tt.want[i].Life, tt.want[i].Version = key, "l", uint64(9+i)
			}
			layOut(entries, tt.history)
			for i := range entries {
				m, err := decodeMark(encodeMark(entries[i].Mark))
				if err != nil || !reflect.DeepEqual(*m, tt.want[i]) {
					t.Errorf("change %d: %+v %v, want %+v", i, m, err, tt.want[i])
				}
			}
			if last := placed(entries[len(entries)-1], 100); !slices.Equal(last.Mark.Older(), tt.older) {
				t.Errorf("older versions at %v, want %v", last.Mark.Older(), tt.older)
			}
		})
	}
}

// A mark of changes stored together must not make its channel unreadable.
func TestMarksOfGroupsAreBounded(t *testing.T) {
	for name, m := range map[string]router.KeyMark{
		"a group that is too large":    {Group: maxGroup + 1},
		"more to follow than may be":   {Group: 1, More: maxGroup + 1},
		"older versions before it":     {Group: 2, Back: []uint64{2}},
		"one place for two versions":   {Group: 4, Back: []uint64{1, 1}},
		"its own place":                {Group: 2, Back: []uint64{0}},
		"older versions, but no group": {Back: []uint64{1}},
	} {
		t.Run(name, func(t *testing.T) {
			m.Key, m.Version, m.Life, m.Prev = "k", 3, "l", []uint64{0}
			if got, err := decodeMark(encodeMark(&m)); err == nil {
				t.Errorf("taken for %+v", got)
			}
		})
	}
}

// held makes a channel busy until release is called, so that what comes meanwhile waits.
func (e *edge) held(t *testing.T) (release func()) {
	t.Helper()
	free, busy := make(chan struct{}), make(chan struct{}, 8)
	decide := func(router.StateEntry) (router.Decision, error) {
		busy <- struct{}{}
		<-free
		return router.Decision{Data: value("first")}, nil
	}
	done := make(chan error, 1)
	e.part().change("c", router.KeyUpdate{Key: "first", Decide: decide}, func(_ router.Changed, err error) { done <- err })
	<-busy
	return func() {
		t.Helper()
		close(free)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// ask gives e changes of m:c in order, waits until they wait in the channel, and returns
// what waits for their answers.
func (e *edge) ask(t *testing.T, changes ...router.Change) (answers func() []router.ChangeResult) {
	t.Helper()
	done := make(chan []router.ChangeResult, 1)
	go func() {
		res, err := e.SyncState(context.Background(), "m:c", changes)
		if err != nil {
			t.Error(err)
		}
		done <- res
	}()
	e.waiting(t, len(changes))
	return func() []router.ChangeResult {
		t.Helper()
		res := <-done
		if len(res) != len(changes) {
			t.Fatalf("%d answers to %d changes", len(res), len(changes))
		}
		return res
	}
}

// waiting waits until n changes wait in the channel c.
func (e *edge) waiting(t *testing.T, n int) {
	t.Helper()
	feed := e.part().feed
	natstest.Eventually(t, 10*time.Second, "changes to wait", func() bool {
		feed.mu.Lock()
		defer feed.mu.Unlock()
		return len(feed.queues["c"].waiting) == n
	})
}

func absent() *router.Expect            { return &router.Expect{} }
func version(n uint64) *router.Expect   { return &router.Expect{Version: n} }
func setTo(key, v string) router.Change { return router.Change{Key: key, Data: value(v)} }

func with(c router.Change, expect *router.Expect, id string) router.Change {
	c.Expect, c.IdempotencyKey = expect, id
	return c
}

// judged is a change of m:c that waits with others, and the answer it must get whether
// they are stored together or not.
var judged = []struct {
	change  router.Change
	applied bool
	version uint64 // stored, or current
	value   string
	offset  uint64 // of what is applied; the held change is 1
}{
	{with(setTo("k", "a"), absent(), ""), true, 1, "a", 2},
	{with(setTo("k", "b"), absent(), ""), false, 1, "a", 0},
	{with(setTo("k", "c"), version(1), ""), true, 2, "c", 3},
	{with(setTo("k", "d"), version(1), ""), false, 2, "c", 0},
	{setTo("j", "a"), true, 1, "a", 4},
	{with(setTo("k", "e"), version(2), "once"), true, 3, "e", 5},
	{router.Change{Key: "k", Remove: true}, true, 4, "", 6},
	{router.Change{Key: "k", Remove: true}, false, 4, "", 0},
	{with(setTo("k", "f"), absent(), ""), true, 5, "f", 7},
	{with(setTo("j", "b"), version(1), ""), true, 2, "b", 8},
	{with(setTo("k", "g"), version(5), ""), true, 6, "g", 9},
	{router.Change{Key: "missing", Remove: true}, false, 0, "", 0},
	{router.Change{Key: "doc", Data: []byte(`{"a":1}`), Strategy: router.StrategyMerge}, true, 1, `{"a":1}`, 10},
	{router.Change{Key: "doc", Data: []byte(`{"b":2}`), Strategy: router.StrategyMerge}, true, 2, `{"a":1,"b":2}`, 11},
}

// Changes that wait together are judged each after those before it, and in their order.
func TestGroupIsJudgedInOrder(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		e := env.edges(t, 2)
		release := e[0].held(t)
		var changes []router.Change
		for _, j := range judged {
			changes = append(changes, j.change)
		}
		answers := e[0].ask(t, changes...)
		attempts := e[0].store.metrics.attempts[attemptStored]
		before := count(attempts)
		release()
		results := answers()
		for i, want := range judged {
			got := results[i]
			data := strings.Trim(string(got.Entry.Data), `"`)
			if got.Err != nil || got.Applied != want.applied || got.Entry.Version != want.version || data != want.value || got.Position.Offset != want.offset || got.Duplicate {
				t.Errorf("change %d of %s: %+v, want %+v", i, want.change.Key, got, want)
			}
		}
		// The held one and the group, each in feed and image.
		if n := count(attempts) - before; e[0].part().feed.batches && n != 4 {
			t.Errorf("%v writes: the changes were not stored together", n)
		}
		checkJudged(t, e[1])
	})
}

// checkJudged compares the channel with what judged leaves.
func checkJudged(t *testing.T, e *edge) {
	t.Helper()
	if got := e.get(t, "k"); got.Version != 6 || string(got.Data) != `"g"` {
		t.Errorf("k is %+v", got)
	}
	history, err := e.KeyHistory(t.Context(), "m:c", "k", 0)
	if err != nil || len(history) != 3 || history[1].Version != 5 || string(history[1].Data) != `"f"` || !history[2].Removed {
		t.Errorf("versions of k: %+v %v", history, err)
	}
	history, err = e.KeyHistory(t.Context(), "m:c", "doc", 0)
	if err != nil || len(history) != 2 || string(history[1].Data) != `{"a":1}` {
		t.Errorf("versions of doc: %+v %v", history, err)
	}
	state, at := e.all(t, 2)
	if len(state) != 4 || at.Offset != 11 || string(state["j"].Data) != `"b"` {
		t.Errorf("state %+v at %v", state, at)
	}
	if stats, err := e.StateStats(t.Context(), "m:c"); err != nil || stats.Keys != 4 {
		t.Errorf("stats %+v %v", stats, err)
	}
	e.set(t, "k", "h")
	if v, err := e.GetState(t.Context(), "m:c", "k", router.GetOptions{Version: 5}); err != nil || string(v.Data) != `"f"` {
		t.Errorf("version 5 of k: %+v %v", v, err)
	}
}

// A change is stored once, whether it is repeated while the first waits, after it was
// stored, or refused because the first succeeded (W3).
func TestGroupKnowsRepetitions(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		e := env.edges(t, 2)
		earlier := e[0].change(t, with(setTo("k", "a"), nil, "earlier"), true)
		release := e[0].held(t)
		answers := e[0].ask(t,
			with(setTo("j", "a"), absent(), "j"),
			with(setTo("k", "a"), nil, "earlier"),
			with(setTo("j", "a"), absent(), "j"),
			with(setTo("l", "a"), nil, "l"),
			with(setTo("l", "a"), nil, "l"),
			setTo("l", "b"),
		)
		release()
		results := answers()
		for i, want := range []struct {
			version   uint64
			duplicate bool
		}{{1, false}, {earlier.Entry.Version, true}, {1, true}, {1, false}, {1, true}, {2, false}} {
			if got := results[i]; got.Err != nil || !got.Applied || got.Duplicate != want.duplicate || got.Entry.Version != want.version && !got.Duplicate {
				t.Errorf("change %d: %+v, want %+v", i, got, want)
			}
		}
		state, at := e[1].all(t, 10)
		if at.Offset != 5 || state["j"].Version != 1 || state["k"].Version != 1 || state["l"].Version != 2 {
			t.Errorf("state %+v at %v", state, at)
		}
	})
}

// Another edge is first: what was judged against the head before must not be stored, nor
// answered.
func TestGroupIsJudgedAgainAfterAConflict(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		e := env.edges(t, 2)
		e[0].set(t, "k", "1")
		release := e[0].held(t)
		answers := e[0].ask(t,
			with(setTo("k", "2"), version(1), ""), // loses: the other edge makes version 2
			with(setTo("k", "3"), version(2), ""), // and so this one is right
			with(setTo("new", "x"), absent(), ""),
		)
		e[1].set(t, "k", "other")
		e[1].set(t, "new", "other")
		release()
		results := answers()
		lost, won, late := results[0], results[1], results[2]
		if lost.Err != nil || lost.Applied || lost.Reason != router.ReasonConflict || lost.Entry.Version != 2 || string(lost.Entry.Data) != `"other"` {
			t.Errorf("first: %+v", lost)
		}
		if won.Err != nil || !won.Applied || won.Entry.Version != 3 {
			t.Errorf("second: %+v", won)
		}
		if late.Err != nil || late.Applied || late.Reason != router.ReasonExists {
			t.Errorf("third: %+v", late)
		}
	})
}

// Refusals alone are answered as the leader knows them.
func TestGroupOfRefusals(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		e := env.edges(t, 2)
		e[0].set(t, "k", "1")
		release := e[0].held(t)
		answers := e[0].ask(t, with(setTo("k", "2"), absent(), ""), with(setTo("k", "2"), version(7), ""), router.Change{Key: "none", Remove: true})
		release()
		results := answers()
		for i, want := range []router.Reason{router.ReasonExists, router.ReasonConflict, router.ReasonMissing} {
			if got := results[i]; got.Err != nil || got.Applied || got.Reason != want {
				t.Errorf("change %d: %+v, want %v", i, got, want)
			}
		}
	})
}

// While a group is judged, another edge makes its refusals wrong: nothing is stored that
// would tell, so the leader is asked.
func TestRefusalsOfAGroupAreProven(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		e := env.edges(t, 2)
		e[0].set(t, "k", "1")
		release := e[0].held(t)
		judging, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		decide := func(router.StateEntry) (router.Decision, error) {
			once.Do(func() { close(judging); <-goOn })
			return router.Decision{Refuse: router.ReasonConflict}, nil
		}
		refused := make(chan error, 1)
		e[0].part().change("c", router.KeyUpdate{Key: "x", Decide: decide}, func(_ router.Changed, err error) { refused <- err })
		answer := make(chan router.Changed, 1)
		go func() {
			res, err := e[0].ChangeState(context.Background(), "m:c", with(setTo("k", "2"), absent(), ""))
			if err != nil {
				t.Error(err)
			}
			answer <- res
		}()
		e[0].waiting(t, 2)
		release()
		<-judging
		e[1].change(t, router.Change{Key: "k", Remove: true}, true)
		close(goOn)
		if err := <-refused; err != nil {
			t.Error(err)
		}
		if res := <-answer; !res.Applied || res.Entry.Version != 3 {
			t.Errorf("set if absent, after the removal: %+v", res)
		}
	})
}

// A limit ends only those that exceed it.
func TestGroupMeetsTheLimitOfKeys(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		e := env.edges(t, 1, func(ns *router.Namespace) { ns.Map.MaxKeys = 3 })
		release := e[0].held(t)
		answers := e[0].ask(t, setTo("a", "1"), setTo("b", "1"), setTo("c", "1"), setTo("a", "2"), router.Change{Key: "b", Remove: true}, setTo("c", "2"))
		release()
		results := answers()
		for i := range results {
			got := results[i]
			if full := i == 2; full != (router.CodeOf(got.Err) == router.CodeLimit && got.Err != nil) || !full && !got.Applied {
				t.Errorf("change %d: %+v", i, got)
			}
		}
	})
}

// groupCrash leaves a channel as an edge does that ends after it stored changes of keys
// together in the feed. Each sets its key to "lost?".
func groupCrash(t *testing.T, e *edge, keys ...string) []router.Entry {
	t.Helper()
	_, v := groupStored(t, e, keys...)
	e.part().feed.heads.Remove("c")
	return v.entries
}

// groupStored stores changes of keys together in the feed of a channel, no more.
func groupStored(t *testing.T, e *edge, keys ...string) (*group, *verdict) {
	t.Helper()
	p := e.part()
	ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience(10*time.Second))
	defer cancel()
	h, err := p.feedHead(ctx, "c")
	if err != nil {
		t.Fatal(err)
	}
	g := &group{w: &writer{p: p.feed, key: "c"}, p: p}
	for _, key := range keys {
		c := &change{p: p, channel: "c", update: router.KeyUpdate{Key: key, Decide: func(router.StateEntry) (router.Decision, error) {
			return router.Decision{Data: value("lost?")}, nil
		}}}
		g.waiting = append(g.waiting, &pending{entry: router.Entry{ID: nats.NewInbox()}, plan: c})
	}
	at := head{h.Number, h.Seq, h.Life}
	v, err := g.judge(ctx, at)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = g.store(v, at, time.Now().Add(natstest.Patience(10*time.Second))); err != nil {
		t.Fatal(err)
	}
	return g, v
}

// Whatever comes after an edge that ended between the feed and the image finds all
// changes that it had stored together, and in their place.
func TestCrashOfAGroupBetweenFeedAndImage(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		for _, keys := range [][]string{{"k", "j", "k"}, {"k", "k", "j"}, {"j", "k", "k"}} {
			for name, f := range afterCrash {
				t.Run(fmt.Sprint(keys, " ", name), func(t *testing.T) {
					e := env.edges(t, 2)
					if !e[0].part().feed.batches {
						t.Skip("no groups are made here")
					}
					e[0].set(t, "k", "1")
					crashed := groupCrash(t, e[0], keys...)
					if last := crashed[len(crashed)-1]; last.Number != 4 {
						t.Fatalf("crashed after %+v", last)
					}
					f(t, e[1], crashed)
				})
			}
		}
	})
}

// The same edge goes on after its image could not be written.
func TestGroupIsFinishedByTheNextChange(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		e := env.edges(t, 2)
		if !e[0].part().feed.batches {
			t.Skip("no groups are made here")
		}
		e[0].set(t, "k", "1")
		groupCrash(t, e[0], "k", "k", "k", "k", "j") // the first two are not kept
		if res := e[0].set(t, "l", "1"); res.Position.Offset != 7 {
			t.Errorf("stored %+v", res)
		}
		history, err := e[1].KeyHistory(t.Context(), "m:c", "k", 0)
		if err != nil || len(history) != 3 || history[0].Version != 5 || history[2].Version != 3 {
			t.Errorf("versions of k: %+v %v", history, err)
		}
		if got := e[1].get(t, "j"); got.Version != 1 {
			t.Errorf("j is %+v", got)
		}
		if res := e[1].set(t, "k", "6"); res.Entry.Version != 6 {
			t.Errorf("stored %+v", res)
		}
	})
}

// Acknowledgements get lost, of the feed and of the image: each change is stored once,
// and answered as it was judged when it was stored.
func TestW2LostAckOfAGroup(t *testing.T) {
	srv := natstest.Run(t)
	d := &deafServer{srv: srv}
	nc, err := nats.Connect("", append(ConnectOptions(), nats.InProcessServer(d))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	cfg := Config{Namespaces: mapNamespaces(true)}
	cfg.Namespaces[0].HistorySize = 100
	e := startEdge(t, nc, srv.Conn(ConnectOptions()...), cfg)
	for round := range uint64(24) {
		release := e.held(t)
		key, at := fmt.Sprint("k", round), 1+4*round
		answers := e.ask(t,
			with(setTo(key, "a"), absent(), ""),
			with(setTo(key, "b"), absent(), ""), // refused; when it is judged again later it would not be
			with(setTo(key, "c"), version(1), ""),
			router.Change{Key: key, Remove: true},
		)
		d.after.Store(int32(round % 6))
		d.deaf.Store(true)
		release()
		results := answers()
		for i, want := range []struct {
			applied bool
			version uint64
			offset  uint64
		}{{true, 1, at + 1}, {false, 1, 0}, {true, 2, at + 2}, {true, 3, at + 3}} {
			got := results[i]
			if got.Err != nil || got.Applied != want.applied || got.Entry.Version != want.version || got.Position.Offset != want.offset {
				t.Errorf("round %d, change %d: %+v, want %+v", round, i, got, want)
			}
		}
	}
	if n := count(e.store.metrics.attempts[attemptFoundStored]); n == 0 {
		t.Error("no lost acknowledgement was found by looking back; the test is toothless")
	} else {
		t.Logf("%v lost acknowledgements were found", n)
	}
}
