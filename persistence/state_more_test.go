package persistence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
)

// A clear under constant writes: subscribers are told, and nothing of the old life is
// left, whoever wrote it.
func TestClearTellsSubscribers(t *testing.T) {
	conform(t, func(t *testing.T, env *environment) {
		e := env.edges(t, 2)
		for i := range 10 {
			e[i%2].set(t, fmt.Sprint("old", i), "x")
		}
		old, err := join(t.Context(), e[0], 3)
		if err != nil {
			t.Fatal(err)
		}
		_, at := e[0].all(t, 10)
		begun, err := e[0].StatePage(t.Context(), "m:c", "", 3)
		if err != nil || begun.Next == "" {
			t.Fatalf("first page: %+v %v", begun, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := write(ctx, e[0], "k"); err != nil {
				t.Error(err)
			}
		})
		if err := e[1].ClearState(t.Context(), "m:c"); err != nil {
			t.Fatal(err)
		}
		natstest.Eventually(t, 20*time.Second, "end of the subscription", func() bool {
			for len(old.f.events) > 0 {
				if ev := <-old.f.events; ev.dropped == router.UnsubscribedStateInvalidated {
					return true
				}
			}
			return false
		})
		cancel()
		wg.Wait()
		if _, _, _, err := follow(e[1], &at); router.CodeOf(err) != router.CodeUnrecoverable {
			t.Errorf("the old position is recovered: %v", err)
		}
		if _, err := e[1].StatePage(t.Context(), "m:c", begun.Next, 3); router.CodeOf(err) != router.CodeUnrecoverable {
			t.Errorf("the next page of what was cleared: %v", err)
		}
		for _, e := range e {
			state, _ := e.all(t, 2)
			for key := range state {
				if key != "k" {
					t.Errorf("%s is left", key)
				}
			}
			if got := e.get(t, "old3"); got.Version != 0 {
				t.Errorf("old3 is %+v", got)
			}
		}
		r, err := join(t.Context(), e[0], 3)
		if err != nil {
			t.Fatal(err)
		}
		next := e[1].set(t, "new", "x")
		if err := r.catchUp(next.Position.Offset); err != nil || r.state["new"] != 1 {
			t.Errorf("after the clear: %v %v", r.state, err)
		}
		if info, err := e[0].part().keys.info(t.Context()); err != nil || info.State.Messages > 10 {
			t.Errorf("%d versions are left: %v", info.State.Messages, err)
		}
	})
}

// More keys than one request answers.
func TestPagesOfALargeMap(t *testing.T) {
	env := single(t)
	e := env.edges(t, 1, func(ns *router.Namespace) { ns.MemoryStorage, ns.Map.MaxKeys = true, 2500 })[0]
	const keys = 2500
	for i := 0; i < keys; i += router.MaxSync {
		var changes []router.Change
		for j := range router.MaxSync {
			changes = append(changes, router.Change{Key: fmt.Sprint("key.", i+j, " *"), Data: fmt.Append(nil, i+j)})
		}
		results, err := e.SyncState(t.Context(), "m:c", changes)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range results {
			if r.Err != nil || !r.Applied {
				t.Fatalf("sync: %+v", r)
			}
		}
	}
	for _, limit := range []int{100, 999, 1000} {
		if state, at := e.all(t, limit); len(state) != keys || at.Offset != keys {
			t.Fatalf("%d keys at %d in pages of %d", len(state), at.Offset, limit)
		}
	}
	_, err := e.ChangeState(t.Context(), "m:c", router.Change{Key: "one more", Data: []byte("1")})
	if router.CodeOf(err) != router.CodeLimit || !strings.Contains(err.Error(), "2500") {
		t.Errorf("one key more: %v", err)
	}
	e.change(t, router.Change{Key: "key.7 *", Remove: true}, true)
	e.change(t, router.Change{Key: "one more", Data: []byte("1")}, true)
}

func TestSyncAnswersEachChange(t *testing.T) {
	e := single(t).edges(t, 1)[0]
	e.set(t, "k", "1")
	results, err := e.SyncState(t.Context(), "m:c", []router.Change{
		{Key: "k", Data: value("2"), Expect: &router.Expect{Version: 1}},
		{Key: "k", Data: value("3"), Expect: &router.Expect{Version: 1}},
		{Key: "", Data: value("x")},
		{Key: "k", Remove: true},
		{Key: "j", Data: value("x"), Strategy: "x"},
		{Key: "j", Data: []byte(`{"a":1}`), Strategy: router.StrategyMerge},
		{Key: "j", Data: []byte(`{"b":2}`), Strategy: router.StrategyMerge},
	})
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, r := range results {
		told = append(told, fmt.Sprintf("%v/%v/%s/%s", r.Applied, r.Entry.Version, r.Reason, codeOf(r.Err)))
	}
	want := "true/2// false/2/conflict/ false/0//invalid true/3// false/0//invalid true/1// true/2//"
	if got := strings.Join(told, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := e.get(t, "j"); string(got.Data) != `{"a":1,"b":2}` {
		t.Errorf("merged: %s", got.Data)
	}
	if _, err := e.SyncState(t.Context(), "m:c", make([]router.Change, router.MaxSync+1)); router.CodeOf(err) != router.CodeLimit {
		t.Errorf("too many: %v", err)
	}
}

func codeOf(err error) string {
	if err == nil {
		return ""
	}
	return string(router.CodeOf(err))
}

// The back end decides, and is asked again when the key changed meanwhile.
func TestCustomStrategy(t *testing.T) {
	env := single(t)
	e := env.edges(t, 2, func(ns *router.Namespace) {
		ns.Map.Conflict, ns.Map.ConflictMethod = router.StrategyCustom, "decide"
	})
	change := router.Change{Key: "k", Data: []byte("5"), User: "u"}
	if _, err := e[0].ChangeState(t.Context(), "m:c", change); router.CodeOf(err) != router.CodeUnavailable {
		t.Fatalf("nobody there: %v", err)
	}
	type question struct {
		Channel, Key, User string
		Current            *struct{ Data int }
		Proposed           struct {
			Data   int
			Remove bool
		}
	}
	asked := 0
	nc := env.conn(0)
	sub, err := nc.Subscribe("t1.rpc.decide", func(m *nats.Msg) {
		asked++
		var q question
		if err := json.Unmarshal(m.Data, &q); err != nil || q.Channel != "m:c" || q.Key != "k" || q.User != "u" {
			t.Errorf("asked %s: %v", m.Data, err)
		}
		answer := fmt.Sprintf(`{"data":%d}`, q.Proposed.Data)
		switch {
		case q.Proposed.Remove:
			answer = `{"remove":true}`
		case q.Proposed.Data < 0:
			answer = `{"reject":"negative"}`
		case q.Proposed.Data == 99:
			answer = `{}`
		case q.Current != nil: // the sum, and the first time the key changes meanwhile
			answer = fmt.Sprintf(`{"data":%d}`, q.Proposed.Data+q.Current.Data)
			if asked == 2 {
				plain := router.Change{Key: "k", Data: []byte("100"), Strategy: router.StrategyReject}
				if _, err := e[1].ChangeState(context.Background(), "m:c", plain); err != nil {
					t.Error(err)
				}
			}
		}
		if err := m.Respond([]byte(answer)); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(err, nc.Flush()); err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe() //nolint:errcheck
	e[0].change(t, change, true)
	if res := e[0].change(t, change, true); string(res.Entry.Data) != "105" || res.Entry.Version != 3 || asked != 3 {
		t.Errorf("summed: %+v, asked %d times", res.Entry, asked)
	}
	change.Data = []byte("-1")
	if res := e[0].change(t, change, false); res.Reason != router.ReasonRejected || res.Message != "negative" || res.Entry.Version != 3 {
		t.Errorf("rejected: %+v", res)
	}
	change.Data = []byte("99")
	if _, err := e[0].ChangeState(t.Context(), "m:c", change); router.CodeOf(err) != router.CodeInternal {
		t.Errorf("no decision: %v", err)
	}
	change.Remove = true
	if res := e[0].change(t, change, true); !res.Entry.Removed {
		t.Errorf("removed: %+v", res.Entry)
	}
}

// A map takes no plain publications, by the node or by NATS.
func TestMapsTakeNoPlainPublications(t *testing.T) {
	env := single(t)
	e := env.edges(t, 1)[0]
	done := make(chan error, 1)
	e.Publish(router.PublishRequest{Channel: "m:c", Data: []byte("1")}, func(_ router.Position, err error) { done <- err })
	if err := <-done; router.CodeOf(err) != router.CodeNotAvailable {
		t.Errorf("publish: %v", err)
	}
	if err := e.HistoryRemove(t.Context(), "m:c"); router.CodeOf(err) != router.CodeNotAvailable {
		t.Errorf("history remove: %v", err)
	}
	if err := env.conn(0).Publish("t1.in.m.c", []byte("1")); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, 20*time.Second, "dead letter", func() bool {
		return count(e.store.metrics.ingested[ingestDead]) == 1
	})
}
