package router

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/natstest"
)

var recoverable = SubscribeRequest{Recoverable: true}

func recoverAt(p Position) SubscribeRequest { return SubscribeRequest{Recover: true, Position: p} }

func TestL1GapIsRepairedBeforeDelivery(t *testing.T) {
	f := newFixture(t, historyNamespace)
	c, _ := f.subscribe("h:a", recoverable)
	f.log.publish(t, "a", `1`)
	f.log.store("a", `2`) // copy lost
	f.log.store("a", `3`) // copy lost
	f.log.publish(t, "a", `4`)
	f.expect(c, "1:1", "2:2", "3:3", "4:4")
}

func TestL1CopySentTwiceIsDeliveredOnce(t *testing.T) {
	f := newFixture(t, historyNamespace)
	c, _ := f.subscribe("h:a", recoverable)
	e := f.log.publish(t, "a", `1`)
	f.log.live(t, "a", e)
	f.log.publish(t, "a", `2`)
	f.expect(c, "1:1", "2:2")
}

func TestL1ImpossibleRepairIsTold(t *testing.T) {
	f := newFixture(t, historyNamespace)
	c, _ := f.subscribe("h:a", recoverable)
	f.log.publish(t, "a", `0`)
	f.expect(c, "1:0")
	for range historyNamespace.HistorySize + 1 { // copies lost, and 2 is evicted
		f.log.store("a", `1`)
	}
	f.log.publish(t, "a", `2`)
	f.expect(c, "dropped:2500")
}

func TestL1RewoundStoreIsTold(t *testing.T) {
	f := newFixture(t, historyNamespace)
	c, _ := f.subscribe("h:a", recoverable)
	f.log.publish(t, "a", `1`)
	two := f.log.publish(t, "a", `2`)
	f.expect(c, "1:1", "2:2")
	// The store comes back without entry 2 and stores another under its number.
	f.log.do(func() { f.log.keys["a"] = f.log.keys["a"][:1] })
	other := f.log.store("a", `other`)
	if other.Number != two.Number {
		t.Fatalf("test is wrong: number %d", other.Number)
	}
	f.log.live(t, "a", other)
	f.expect(c, "dropped:2502")
}

// TestL1HeadThatGoesBackIsAskedForAgain runs in virtual time: a leader that was just
// elected answers before it has applied everything. Only when it says so for a while
// has the log really gone back.
func TestL1HeadThatGoesBackIsAskedForAgain(t *testing.T) {
	for name, after := range map[string]time.Duration{"catches up": time.Second, "really went back": time.Hour} {
		t.Run(name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := newFixture(t, historyNamespace)
				c, _ := f.subscribe("h:a", recoverable)
				f.log.publish(t, "a", `1`)
				f.log.publish(t, "a", `2`)
				f.expect(c, "1:1", "2:2")
				var kept []Entry
				f.log.do(func() { kept = f.log.keys["a"]; f.log.keys["a"] = kept[:1:1]; f.log.seq-- })
				f.node.Disturbed("test")
				if after > time.Minute {
					f.expect(c, "dropped:2502")
					return
				}
				time.Sleep(after) // virtual
				f.log.do(func() { f.log.keys["a"] = kept; f.log.seq++ })
				time.Sleep(time.Minute) // virtual
				f.log.publish(t, "a", `3`)
				f.expect(c, "3:3")
			})
		})
	}
}

func TestL1NewLifeIsTold(t *testing.T) {
	f := newFixture(t, historyNamespace)
	c, res := f.subscribe("h:a", recoverable)
	f.log.publish(t, "a", `1`)
	f.expect(c, "1:1")
	f.log.do(func() { delete(f.log.keys, "a"); f.log.firstSeq = f.log.seq + 1 }) // expired
	f.log.publish(t, "a", `2`)
	f.expect(c, "dropped:2502")
	_, again := f.subscribe("h:a", recoverAt(Position{1, res.Position.Epoch}))
	if again.Recovered {
		t.Error("a position of the old life was recovered in the new one")
	}
}

// A subscriber that joins between two passes has in its reply what the pass is
// about to deliver, and must not get it again.
func TestL2BatchIsSplitAtTheFloor(t *testing.T) {
	pubs := func(offsets ...uint64) (p []Push) {
		for _, o := range offsets {
			p = append(p, Push{Pub: &Publication{Offset: o}})
		}
		return p
	}
	join := Push{Join: &ClientInfo{User: "u"}}
	for name, tt := range map[string]struct {
		pushes    []Push
		floor     uint64
		joinLeave bool
		want      int // pushes left
		first     uint64
	}{
		"floor inside":              {pubs(4, 5, 6), 5, true, 1, 6},
		"floor at the end":          {pubs(4, 5, 6), 6, true, 0, 0},
		"floor below":               {pubs(4, 5, 6), 3, true, 3, 4},
		"joins unwanted":            {append(pubs(4), join), 3, false, 1, 4},
		"joins wanted, floor above": {append(pubs(4), join), 4, true, 1, 0},
		"nothing left":              {[]Push{join}, 0, false, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			rec := &recorder{}
			c := &liveChannel{name: "a", sh: &shard{n: &Node{cfg: Config{Metrics: NewMetrics(nil)}}}}
			c.subs = []*Subscription{{Subscriber: rec, floor: tt.floor, joinLeave: tt.joinLeave}}
			c.deliver(tt.pushes)
			if len(rec.got) != tt.want {
				t.Fatalf("delivered %d pushes, want %d", len(rec.got), tt.want)
			}
			if tt.first != 0 && rec.got[0].Pub.Offset != tt.first {
				t.Errorf("first offset %d, want %d", rec.got[0].Pub.Offset, tt.first)
			}
		})
	}
}

type recorder struct{ got []Push }

func (r *recorder) Deliver(_ *Subscription, b *Batch)        { r.got = append(r.got, b.Pushes...) }
func (r *recorder) Dropped(*Subscription, UnsubscribeReason) {}

func TestJ1CopyDuringJoinIsNeitherLostNorDoubled(t *testing.T) {
	f := newFixture(t, historyNamespace)
	// While the head is read, one entry is stored before and one after the look.
	var once bool
	f.log.beforeHead = func() {
		if !once {
			once = true
			f.log.publish(t, "a", `1`)
		}
	}
	c, res := f.subscribe("h:a", recoverable)
	if res.Position.Offset != 1 {
		t.Fatalf("joined at %d, want 1", res.Position.Offset)
	}
	f.log.publish(t, "a", `2`)
	f.expect(c, "2:2")
}

func TestJ1EntryBeforeInterestReachedTheLeaderIsFound(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := newFixture(t, historyNamespace)
		c, _ := f.subscribe("h:a", recoverable)
		start := time.Now()
		f.log.store("a", `1`) // stored after the head was read, and no copy for us
		f.expect(c, "1:1")
		if took := time.Since(start); took > 200*time.Millisecond {
			t.Errorf("found after %v, want about 100ms", took)
		}
	})
}

func TestJ1LostLastEntryIsFoundBySweep(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := newFixture(t, historyNamespace)
		c, _ := f.subscribe("h:a", recoverable)
		time.Sleep(10 * time.Second) // virtual: the checks after the join are over
		start := time.Now()
		f.log.store("a", `1`)
		f.expect(c, "1:1")
		if took := time.Since(start); took > 31*time.Second {
			t.Errorf("found after %v, want at most the sweep interval", took)
		}
	})
}

func TestJ2RecoveryIsRefusedWithoutALeader(t *testing.T) {
	f := newFixture(t, historyNamespace)
	f.store.mu.Lock()
	f.store.healthy = errors.New("leader out of reach")
	f.store.mu.Unlock()
	c := f.start("h:a", recoverAt(Position{}))
	select {
	case err := <-c.failed:
		if CodeOf(err) != CodeUnavailable {
			t.Errorf("error %v, want a temporary one", err)
		}
	case <-c.result:
		t.Error("recovered without a leader")
	}
}

func TestR1Recovery(t *testing.T) {
	type given struct {
		stored  int           // entries before the subscription
		age     time.Duration // of all but the last of them
		pos     func(epoch, empty string) Position
		evicted bool // the stream lost entries after the empty position
	}
	at := func(offset uint64) func(string, string) Position {
		return func(epoch, _ string) Position { return Position{offset, epoch} }
	}
	fromEmpty := func(offset uint64) func(string, string) Position {
		return func(_, empty string) Position { return Position{offset, empty} }
	}
	for name, tt := range map[string]struct {
		given
		recovered bool
		pubs      int
	}{
		"current":                      {given{stored: 3, pos: at(3)}, true, 0},
		"one missed":                   {given{stored: 3, pos: at(2)}, true, 1},
		"all missed":                   {given{stored: 3, pos: at(0)}, true, 3},
		"just within the ring":         {given{stored: 15, pos: at(5)}, true, 10},
		"just outside the ring":        {given{stored: 15, pos: at(4)}, false, 0},
		"beyond the head":              {given{stored: 3, pos: at(4)}, false, 0},
		"another epoch":                {given{stored: 3, pos: func(string, string) Position { return Position{2, "inc.other"} }}, false, 0},
		"any epoch":                    {given{stored: 3, pos: func(string, string) Position { return Position{2, ""} }}, true, 1},
		"expired in between":           {given{stored: 3, age: 2 * time.Minute, pos: at(1)}, false, 0},
		"expired before":               {given{stored: 3, age: 2 * time.Minute, pos: at(2)}, true, 1},
		"from empty":                   {given{stored: 3, pos: fromEmpty(0)}, true, 3},
		"from empty, later offset":     {given{stored: 3, pos: fromEmpty(2)}, true, 1},
		"from empty, still empty":      {given{stored: 0, pos: fromEmpty(0)}, true, 0},
		"from empty, stream evicted":   {given{stored: 3, pos: fromEmpty(0), evicted: true}, false, 0},
		"from empty, ring overwritten": {given{stored: 15, pos: fromEmpty(0)}, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			ns := historyNamespace
			ns.HistoryTTL = time.Minute
			f := newFixture(t, ns)
			f.log.store("other", `0`)
			f.log.store("other", `0`)
			empty := EmptyEpoch("inc", f.log.LastSeq(""))
			for range tt.stored {
				f.log.store("a", `1`)
			}
			epoch := LifeEpoch("inc", f.log.head("a").Life)
			f.log.do(func() {
				stored := f.log.keys["a"]
				for i := range stored[:max(len(stored)-1, 0)] {
					stored[i].Time = stored[i].Time.Add(-tt.age)
				}
				if tt.evicted {
					f.log.firstSeq = f.log.seq
				}
			})
			c, res := f.subscribe("h:a", recoverAt(tt.pos(epoch, empty)))
			if res.Recovered != tt.recovered || len(res.Publications) != tt.pubs || !res.WasRecovering {
				t.Fatalf("recovered %v with %d publications, want %v with %d", res.Recovered, len(res.Publications), tt.recovered, tt.pubs)
			}
			if res.Position.Offset != uint64(tt.stored) {
				t.Errorf("position %d, want %d", res.Position.Offset, tt.stored)
			}
			next := f.log.publish(t, "a", `"next"`)
			if got, want := <-c.events, next.Number; got != itoa(want)+`:"next"` {
				t.Errorf("then got %q, want number %d", got, want)
			}
		})
	}
}

func TestR1UnrecoveredIsRefusedOnRequest(t *testing.T) {
	f := newFixture(t, historyNamespace)
	c := f.start("h:a", SubscribeRequest{Recover: true, Position: Position{3, "inc.other"}, RejectUnrecovered: true})
	select {
	case err := <-c.failed:
		if CodeOf(err) != CodeUnrecoverable {
			t.Errorf("error %v", err)
		}
	case r := <-c.result:
		t.Errorf("subscribed with %+v", r)
	}
}

func TestW5ClearedEntriesAreNotRecoveredFromTheRing(t *testing.T) {
	f := newFixture(t, historyNamespace)
	c, _ := f.subscribe("h:a", recoverable)
	f.log.publish(t, "a", `1`)
	f.log.publish(t, "a", `2`)
	f.expect(c, "1:1", "2:2")
	epoch := LifeEpoch("inc", f.log.head("a").Life)
	marker := f.log.store("a", ``)
	f.log.do(func() {
		f.log.keys["a"] = f.log.keys["a"][2:]
		f.log.keys["a"][0].Cleared = true
	})
	marker.Cleared = true
	f.log.live(t, "a", marker)
	f.log.publish(t, "a", `4`)
	f.expect(c, "4:4") // the marker has a number and nothing to deliver
	if _, res := f.subscribe("h:a", recoverAt(Position{1, epoch})); res.Recovered {
		t.Error("recovered across a removed history")
	}
	if _, res := f.subscribe("h:a", recoverAt(Position{2, epoch})); !res.Recovered || len(res.Publications) != 1 {
		t.Errorf("a client that had everything before the removal got %+v", res)
	}
}

// TestR1ANodeThatIsBehindAsksTheLeader: copies reached another node first, or ours
// were lost. The client was there; it must not be told that its position is worth
// nothing. However many come, the leader is asked once for all who wait.
func TestR1ANodeThatIsBehindAsksTheLeader(t *testing.T) {
	for name, behind := range map[string]int{"by an entry": 1, "by the whole life": 0} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, historyNamespace)
			for range behind {
				f.log.store("a", `1`)
			}
			f.subscribe("h:a", recoverable)
			for range 3 - behind {
				f.log.store("a", `2`) // no copy comes
			}
			epoch := LifeEpoch("inc", f.log.head("a").Life)
			heads, _ := f.log.counts()
			var clients []*client
			for range 100 {
				clients = append(clients, f.start("h:a", recoverAt(Position{2, epoch})))
			}
			for _, c := range clients {
				if res := f.await(c); !res.Recovered || len(res.Publications) != 1 {
					t.Fatalf("recovered %v with %d publications", res.Recovered, len(res.Publications))
				}
			}
			if h, _ := f.log.counts(); h > heads+5 {
				t.Errorf("the leader was asked %d times for 100 clients", h-heads)
			}
		})
	}
}

func TestR2MassReconnectCostsOneRead(t *testing.T) {
	f := newFixture(t, historyNamespace)
	for range 5 {
		f.log.store("a", `1`)
	}
	epoch := LifeEpoch("inc", f.log.head("a").Life)
	var clients []*client
	for range 500 {
		clients = append(clients, f.start("h:a", recoverAt(Position{2, epoch})))
	}
	for _, c := range clients {
		if res := f.await(c); !res.Recovered || len(res.Publications) != 3 {
			t.Fatalf("recovered %v with %d publications", res.Recovered, len(res.Publications))
		}
	}
	if heads, reads := f.log.counts(); heads != 1 || reads != 1 {
		t.Errorf("%d head and %d body reads for 500 clients, want 1 and 1", heads, reads)
	}
}

func TestInterestLingers(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := newFixture(t, historyNamespace)
		c, _ := f.subscribe("h:a", recoverable)
		f.log.publish(t, "a", `1`)
		f.expect(c, "1:1")
		epoch := LifeEpoch("inc", f.log.head("a").Life)
		f.node.Unsubscribe(c.sub, nil)
		f.log.publish(t, "a", `2`)
		time.Sleep(20 * time.Second) // virtual
		heads, reads := f.log.counts()
		c, res := f.subscribe("h:a", recoverAt(Position{1, epoch}))
		if !res.Recovered || len(res.Publications) != 1 {
			t.Errorf("recovered %v with %d", res.Recovered, len(res.Publications))
		}
		if h, r := f.log.counts(); h != heads || r != reads {
			t.Error("a lingering channel asked the store")
		}
		f.node.Unsubscribe(c.sub, nil)
		time.Sleep(40 * time.Second) // virtual
		_, _ = f.subscribe("h:a", recoverable)
		if h, _ := f.log.counts(); h != heads+1 {
			t.Error("interest outlived the linger time")
		}
	})
}

func TestCacheModeGivesTheLastOne(t *testing.T) {
	ns := historyNamespace
	ns.CacheMode = true
	f := newFixture(t, ns)
	for range 3 {
		f.log.store("a", `1`)
	}
	_, res := f.subscribe("h:a", recoverAt(Position{}))
	if !res.Recovered || len(res.Publications) != 1 || res.Publications[0].Offset != 3 {
		t.Errorf("got %+v", res)
	}
	_, res = f.subscribe("h:a", recoverAt(res.Position))
	if !res.Recovered || len(res.Publications) != 0 {
		t.Errorf("current client got %+v", res)
	}
}

func TestRepairWaitsForTheStore(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := newFixture(t, historyNamespace)
		c, _ := f.subscribe("h:a", recoverable)
		f.log.do(func() { f.log.fail = Unavailable("store", errors.New("election")) })
		f.log.store("a", `1`)
		f.log.publish(t, "a", `2`)
		time.Sleep(9 * time.Second) // virtual
		f.log.do(func() { f.log.fail = nil })
		f.log.publish(t, "a", `3`)
		f.expect(c, "1:1", "2:2", "3:3")
	})
}

func TestHistory(t *testing.T) {
	f := newFixture(t, historyNamespace)
	for range 5 {
		f.log.store("a", `1`)
	}
	epoch := LifeEpoch("inc", f.log.head("a").Life)
	for name, tt := range map[string]struct {
		req  HistoryRequest
		want []uint64
	}{
		"position only":   {HistoryRequest{}, nil},
		"all":             {HistoryRequest{Limit: -1}, []uint64{1, 2, 3, 4, 5}},
		"first two":       {HistoryRequest{Limit: 2}, []uint64{1, 2}},
		"last two":        {HistoryRequest{Limit: 2, Reverse: true}, []uint64{5, 4}},
		"since":           {HistoryRequest{Limit: -1, Since: &Position{3, epoch}}, []uint64{4, 5}},
		"before, reverse": {HistoryRequest{Limit: -1, Reverse: true, Since: &Position{3, epoch}}, []uint64{2, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := f.node.History(t.Context(), "h:a", tt.req)
			if err != nil {
				t.Fatal(err)
			}
			var got []uint64
			for _, p := range res.Publications {
				got = append(got, p.Offset)
			}
			if !slices.Equal(got, tt.want) || res.Position != (Position{5, epoch}) {
				t.Errorf("got %v at %v, want %v", got, res.Position, tt.want)
			}
		})
	}
	_, err := f.node.History(t.Context(), "h:a", HistoryRequest{Limit: -1, Since: &Position{3, "inc.other"}})
	if CodeOf(err) != CodeUnrecoverable {
		t.Errorf("other epoch: %v", err)
	}
}
