package persistence

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/router"
)

func TestState(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		t.Run("versions are 1, 2, 3 over edges, and the last ones are kept", func(t *testing.T) { stateVersions(t, env.edges(t, 2)) })
		t.Run("compare-and-set", func(t *testing.T) { stateCAS(t, env.edges(t, 2)) })
		t.Run("pages hold every key once", func(t *testing.T) { statePages(t, env.edges(t, 2)) })
		t.Run("a repeated change answers what the first one stored", func(t *testing.T) { stateRepeats(t, env.edges(t, 2)) })
		t.Run("S2: versions of a new life never answer for the old", func(t *testing.T) { stateLives(t, env.edges(t, 2)) })
		t.Run("refusals are clear", func(t *testing.T) { stateRefusals(t, env.edges(t, 1)[0]) })
	})
}

func stateVersions(t *testing.T, e []*edge) {
	var life string
	for i := range 5 {
		res := e[i%2].set(t, "k", fmt.Sprint(i+1))
		if res.Entry.Version != uint64(i+1) || res.Position.Offset != uint64(i+1) {
			t.Fatalf("change %d: version %d at %d", i+1, res.Entry.Version, res.Position.Offset)
		}
		if life == "" {
			life = res.Entry.Life
		}
		if res.Entry.Life != life {
			t.Fatal("another life began")
		}
	}
	e[0].set(t, "other", "x") // so that the newest change is not about k
	for _, e := range e {
		if got := e.get(t, "k"); got.Version != 5 || string(got.Data) != `"5"` || got.Offset != 5 {
			t.Fatalf("got %+v", got)
		}
		history, err := e.KeyHistory(t.Context(), "m:c", "k", 0)
		if err != nil || len(history) != 3 {
			t.Fatalf("%d versions: %v", len(history), err)
		}
		for i, s := range history {
			if s.Version != uint64(5-i) || string(s.Data) != fmt.Sprintf(`"%d"`, 5-i) {
				t.Fatalf("version %d is %+v", 5-i, s)
			}
			one, err := e.GetState(t.Context(), "m:c", "k", router.GetOptions{Version: s.Version})
			if err != nil || one.Version != s.Version || string(one.Data) != string(s.Data) {
				t.Fatalf("version %d alone: %+v %v", s.Version, one, err)
			}
		}
		for _, gone := range []uint64{1, 2, 6} {
			if _, err := e.GetState(t.Context(), "m:c", "k", router.GetOptions{Version: gone}); router.CodeOf(err) != router.CodeUnrecoverable {
				t.Fatalf("version %d: %v", gone, err)
			}
		}
		if stats, err := e.StateStats(t.Context(), "m:c"); err != nil || stats.Keys != 2 || stats.Position.Offset != 6 {
			t.Fatalf("stats %+v %v", stats, err)
		}
	}
	res := e[1].change(t, router.Change{Key: "k", Remove: true}, true)
	if got := e[0].get(t, "k"); got.Version != 6 || !got.Removed || res.Entry.Version != 6 {
		t.Fatalf("after removal: %+v", got)
	}
	if res := e[0].set(t, "k", "back"); res.Entry.Version != 7 || res.Entry.Life != life {
		t.Fatalf("after removal: %+v", res.Entry)
	}
	e[1].change(t, router.Change{Key: "none", Remove: true}, false)
}

func stateCAS(t *testing.T, e []*edge) {
	none := &router.Expect{}
	first := e[0].change(t, router.Change{Key: "k", Data: value("1"), Expect: none}, true)
	res := e[1].change(t, router.Change{Key: "k", Data: value("x"), Expect: none}, false)
	if res.Reason != router.ReasonExists || res.Entry.Version != 1 || string(res.Entry.Data) != `"1"` {
		t.Fatalf("created twice: %+v", res)
	}
	at := &router.Expect{Version: 1, Life: first.Entry.Life}
	e[1].change(t, router.Change{Key: "k", Data: value("2"), Expect: at}, true)
	res = e[0].change(t, router.Change{Key: "k", Data: value("x"), Expect: at}, false)
	if res.Reason != router.ReasonConflict || res.Entry.Version != 2 || string(res.Entry.Data) != `"2"` {
		t.Fatalf("old version: %+v", res)
	}
	e[0].change(t, router.Change{Key: "k", Remove: true, Expect: &router.Expect{Version: 2}}, true)
	e[1].change(t, router.Change{Key: "k", Data: value("x"), Expect: &router.Expect{Version: 3}}, false)
	e[1].change(t, router.Change{Key: "k", Data: value("4"), Expect: none}, true)
}

func statePages(t *testing.T, e []*edge) {
	const keys = 40
	for i := range keys {
		e[i%2].set(t, fmt.Sprint("key ", i), fmt.Sprint(i))
	}
	e[0].change(t, router.Change{Key: "key 7", Remove: true}, true)
	for _, limit := range []int{1, 7, keys - 1, keys, 1000} {
		state, first := e[1].all(t, limit)
		if len(state) != keys-1 || first.Offset != keys+1 {
			t.Fatalf("pages of %d: %d keys at %d", limit, len(state), first.Offset)
		}
		for i := range keys {
			s, ok := state[fmt.Sprint("key ", i)]
			if ok == (i == 7) || ok && string(s.Data) != fmt.Sprintf(`"%d"`, i) {
				t.Fatalf("key %d: %v %+v", i, ok, s)
			}
		}
	}
	if _, err := e[0].StatePage(t.Context(), "m:c", "***", 1); router.CodeOf(err) != router.CodeInvalid {
		t.Fatalf("bad cursor: %v", err)
	}
	if page, err := e[0].StatePage(t.Context(), "m:empty", "", 10); err != nil || len(page.Entries) != 0 || page.Next != "" {
		t.Fatalf("empty channel: %+v %v", page, err)
	}
}

func stateRepeats(t *testing.T, e []*edge) {
	c := router.Change{Key: "k", Data: value("1"), Expect: &router.Expect{}, User: "u", IdempotencyKey: "one"}
	first := e[0].change(t, c, true)
	again := e[1].change(t, c, true)
	if !again.Duplicate || again.Entry.Version != first.Entry.Version || again.Position != first.Position {
		t.Fatalf("repeated at once: %+v", again)
	}
	e[1].set(t, "k", "2")
	e[1].set(t, "other", "3")
	if again = e[0].change(t, c, true); !again.Duplicate || again.Entry.Version != 1 || string(again.Entry.Data) != `"1"` {
		t.Fatalf("repeated later: %+v", again)
	}
	c.User = "another"
	e[0].change(t, c, false)
	plain := router.Change{Key: "k", Data: value("3"), User: "u", IdempotencyKey: "two"}
	e[0].change(t, plain, true)
	if again = e[1].change(t, plain, true); !again.Duplicate || again.Entry.Version != 3 {
		t.Fatalf("plain set repeated: %+v", again)
	}
	if got := e[0].get(t, "k"); got.Version != 3 {
		t.Fatalf("stored twice: %+v", got)
	}
}

func stateLives(t *testing.T, e []*edge) {
	old := e[0].set(t, "k", "old")
	e[1].set(t, "j", "old")
	before, _ := e[0].StateStats(t.Context(), "m:c")
	if err := e[1].ClearState(t.Context(), "m:c"); err != nil {
		t.Fatal(err)
	}
	for _, e := range e {
		if got := e.get(t, "k"); got.Version != 0 {
			t.Fatalf("after clear: %+v", got)
		}
		if state, at := e.all(t, 10); len(state) != 0 || at.Epoch == before.Position.Epoch {
			t.Fatalf("after clear: %v at %v", state, at)
		}
	}
	fresh := e[0].set(t, "k", "new")
	if fresh.Entry.Version != 1 || fresh.Entry.Life == old.Entry.Life {
		t.Fatalf("new life: %+v", fresh.Entry)
	}
	at := &router.Expect{Version: 1, Life: old.Entry.Life}
	e[1].change(t, router.Change{Key: "k", Data: value("x"), Expect: at}, false)
	if state, _ := e[1].all(t, 10); len(state) != 1 || string(state["k"].Data) != `"new"` {
		t.Fatalf("state: %+v", state)
	}
	if stats, err := e[1].StateStats(t.Context(), "m:c"); err != nil || stats.Keys != 1 {
		t.Fatalf("stats: %+v %v", stats, err)
	}
}

func stateRefusals(t *testing.T, e *edge) {
	for name, tt := range map[string]struct {
		channel string
		c       router.Change
		code    router.Code
		says    string
	}{
		"an unknown strategy":     {"m:c", router.Change{Key: "k", Data: value("x"), Strategy: "newest"}, router.CodeInvalid, "reject, lastWriteWins, merge, custom"},
		"no key":                  {"m:c", router.Change{Data: value("x")}, router.CodeInvalid, "empty"},
		"a key that is too long":  {"m:c", router.Change{Key: strings.Repeat("k", 129), Data: value("x")}, router.CodeLimit, "128"},
		"a value too large":       {"m:c", router.Change{Key: "k", Data: value(strings.Repeat("v", 64<<10))}, router.CodeLimit, "65536"},
		"a value that is no JSON": {"m:c", router.Change{Key: "k", Data: []byte("{")}, router.CodeInvalid, "JSON"},
		"a TTL too short":         {"m:c", router.Change{Key: "k", Data: value("x"), TTL: time.Millisecond}, router.CodeInvalid, "1s"},
		"custom with nobody":      {"m:c", router.Change{Key: "k", Data: value("x"), Strategy: router.StrategyCustom}, router.CodeNotAvailable, "conflict_method"},
	} {
		_, err := e.ChangeState(t.Context(), tt.channel, tt.c)
		if router.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
