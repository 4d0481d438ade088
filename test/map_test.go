package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
	"github.com/headrace/headrace/test/rawclient"
)

// mapNamespaces have channels that are maps.
func mapNamespaces() []router.Namespace {
	base := router.Namespace{HistorySize: 300, Partitions: 1, Payload: router.PayloadJSON, TagsFilter: true, DeltaTypes: []string{router.DeltaFossil}}
	persistent, ephemeral, own := base, base, base
	persistent.Name, persistent.Map = "map", &router.MapOptions{Mode: router.MapPersistent}
	ephemeral.Name, ephemeral.Map = "mapeph", &router.MapOptions{Mode: router.MapEphemeral, KeyTTL: 2 * time.Second}
	own.Name, own.Presence, own.JoinLeave = "mapown", true, true
	own.Map = &router.MapOptions{Mode: router.MapEphemeral, KeyTTL: 5 * time.Second, ClientKey: router.ClientKeyClient, RemoveOnUnsubscribe: true}
	who := router.Namespace{Name: "who", Payload: router.PayloadJSON, Members: router.MembersClients}
	users := router.Namespace{Name: "users", Payload: router.PayloadJSON, Members: router.MembersUsers}
	return []router.Namespace{persistent, ephemeral, own, who, users, {Name: "room", Payload: router.PayloadJSON, Presence: true, JoinLeave: true}}
}

// TestS2SnapshotAndLive: clients that walk the state in pages, each page perhaps on
// another edge, and then follow it, have no hole and no double under constant writes,
// lost copies and edges that are killed.
func TestS2SnapshotAndLive(t *testing.T) {
	const channel, keys = "map:board", 60
	h := newHarness(t, 1, 3)
	h.faults.dropPerMille.Store(10)
	stop, finished := make(chan struct{}), make(chan struct{})
	var followers []*mapFollower
	var workers, readers sync.WaitGroup
	var changes atomic.Int64
	for i := range 3 {
		workers.Go(func() { changes.Add(writeMap(h, channel, keys, i, stop)) })
	}
	for i := range 8 {
		m := &mapFollower{channel: channel, limit: []int{7, 20, 100, 0}[i%4], edge: func() string { return h.any().url },
			stay: func() time.Duration { return rand.N(500 * time.Millisecond) }, delta: i > 2}
		followers = append(followers, m)
		readers.Go(func() { m.run(stop, finished) })
	}
	for range 4 {
		time.Sleep(1500 * time.Millisecond) // the load lasts this long; nothing is waited for
		h.replace(rand.IntN(3))
	}
	close(stop)
	workers.Wait()
	h.faults.dropPerMille.Store(0)

	want, at := readMap(t, h.any().node, channel)
	var pages, split, joined, deltas int
	for i, m := range followers {
		natstest.Eventually(t, 30*time.Second, fmt.Sprintf("follower %d to be level", i), func() bool { return m.compare(want, at) == nil })
		m.mu.Lock()
		for _, f := range m.faults {
			t.Errorf("follower %d: %s", i, f)
		}
		pages, split, joined = pages+m.pages, split+m.split, joined+m.joined
		deltas += m.deltas.Count
		m.mu.Unlock()
	}
	close(finished)
	readers.Wait()
	t.Logf("%d changes; %d joins, %d walks went on at another edge, %d pages of the feed, %d deltas", changes.Load(), joined, split, pages, deltas)
	if deltas == 0 || split == 0 || joined < 20 || pages == 0 {
		t.Error("the test did not get where it was to go")
	}
}

// writeMap changes keys of channel through random edges until stop is closed, and
// returns how many changes were acknowledged.
func writeMap(h *harness, channel string, keys, writer int, stop <-chan struct{}) (acked int64) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return acked
		default:
		}
		c := router.Change{Key: fmt.Sprintf("key %d", rand.IntN(keys)), Data: fmt.Appendf(nil, `{"by":%d,"n":%d,"and":"what all versions of all keys have in common"}`, writer, n)}
		if rand.IntN(8) == 0 {
			c.Remove, c.Data = true, nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		if _, err := h.any().node.ChangeState(ctx, channel, c); err == nil {
			acked++
		}
		cancel()
	}
}

// readMap returns the state of channel and its position.
func readMap(t *testing.T, node *router.Node, channel string) (map[string]rawclient.Publication, uint64) {
	t.Helper()
	all := make(map[string]rawclient.Publication)
	for cursor := ""; ; {
		page, err := node.StatePage(t.Context(), channel, cursor, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			all[e.Key] = rawclient.Publication{Key: e.Key, Version: e.Version, Data: e.Data, Offset: e.Offset}
		}
		if cursor = page.Next; cursor == "" {
			return all, page.Position.Offset
		}
	}
}

// follower returns one that stays where it is.
func stayOn(e *edgeProc, channel string) *mapFollower {
	return &mapFollower{channel: channel, edge: func() string { return e.url }, stay: func() time.Duration { return time.Hour }}
}

// TestS2LargeSnapshot reads 10,000 keys in pages.
func TestS2LargeSnapshot(t *testing.T) {
	const channel, keys = "map:large", 10_000
	h := newHarness(t, 1, 2)
	node := h.list()[0].node
	start := time.Now()
	for i := 0; i < keys; i += router.MaxSync {
		var changes []router.Change
		for j := range router.MaxSync {
			changes = append(changes, router.Change{Key: fmt.Sprint("key", i+j), Data: []byte(`{"name":"somebody","score":12345}`)})
		}
		results, err := node.SyncState(t.Context(), channel, changes)
		if err != nil || results[router.MaxSync-1].Err != nil {
			t.Fatalf("sync: %v %v", err, results)
		}
	}
	filled := time.Since(start)
	stop, finished := make(chan struct{}), make(chan struct{})
	m := stayOn(h.list()[1], channel)
	m.limit = 1000
	start = time.Now()
	done := make(chan struct{})
	go func() { defer close(done); m.run(stop, finished) }()
	natstest.Eventually(t, 30*time.Second, "the snapshot", m.isLive)
	t.Logf("%d keys written in %v, read in %v", keys, filled, time.Since(start))
	want, at := readMap(t, node, channel)
	if err := m.compare(want, at); err != nil || len(want) != keys {
		t.Errorf("%d keys stored; %v", len(want), err)
	}
	close(finished)
	<-done
}

// TestS2KeysEnd: keys that expire are removed at their subscribers within seconds, and
// so are those of clients that leave, with or without their edge.
func TestS2KeysEnd(t *testing.T) {
	h := newHarness(t, 1, 3)
	finished := make(chan struct{})
	var readers sync.WaitGroup
	watch := func(channel string) *mapFollower {
		m := stayOn(h.list()[0], channel)
		readers.Go(func() { m.run(finished, finished) })
		natstest.Eventually(t, 10*time.Second, "live", m.isLive)
		return m
	}
	has := func(m *mapFollower, n int) func() bool {
		return func() bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.keys) == n }
	}
	expiring, own := watch("mapeph:a"), watch("mapown:a")
	if _, err := h.list()[1].node.ChangeState(t.Context(), "mapeph:a", router.Change{Key: "k", Data: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, 10*time.Second, "the key", has(expiring, 1))
	natstest.Eventually(t, 10*time.Second, "its end", has(expiring, 0))

	var clients []*rawclient.Client
	for _, e := range h.list()[1:] {
		answered := make(chan *rawclient.Reply, 10)
		c, err := rawclient.Dial(t.Context(), e.url, func(ev rawclient.Event) {
			if ev.Reply != nil {
				answered <- ev.Reply
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients = append(clients, c)
		for _, command := range []struct {
			name string
			body any
		}{
			{"subscribe", subscribeMap{Channel: "mapown:a", Type: 1, Phase: 2}},
			{"publish", map[string]any{"channel": "mapown:a", "type": 1, "key": "whatever", "data": 1}},
		} {
			if _, err := c.Send(command.name, command.body); err != nil {
				t.Fatal(err)
			}
			if r := within(t, answered, "answer"); r.Error != nil {
				t.Fatal(r.Error)
			}
		}
	}
	natstest.Eventually(t, 10*time.Second, "two clients' keys", has(own, 2))
	start := time.Now()
	clients[0].Close()
	natstest.Eventually(t, 10*time.Second, "one key less", has(own, 1))
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("it took %v, which is the end of its time to live", took)
	}
	h.list()[2].kill()
	natstest.Eventually(t, 15*time.Second, "the key of the killed edge's client to expire", has(own, 0))
	close(finished)
	readers.Wait()
}

// TestS2TagsFilter: who wants a part of a map has that part, also of what it missed, and
// also when a key's tags change.
func TestS2TagsFilter(t *testing.T) {
	h := newHarness(t, 1, 2)
	var got []string
	answered := make(chan *rawclient.Reply, 10)
	pushed := make(chan *rawclient.Publication, 100)
	c, err := rawclient.Dial(t.Context(), h.list()[0].url, func(e rawclient.Event) {
		if e.Reply != nil {
			answered <- e.Reply
		} else if e.Push.Pub != nil {
			pushed <- e.Push.Pub
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	set := func(key, team string) { setTagged(t, h.list()[1].node, key, team) }
	subscribe := func(phase int, at rawclient.SubscribeReply) *rawclient.SubscribeReply {
		if _, err := c.Send("subscribe", map[string]any{"channel": "map:tagged", "type": 1, "phase": phase, "offset": at.Offset, "epoch": at.Epoch,
			"recover": phase == 1, "tf": map[string]string{"key": "team", "cmp": "eq", "val": "eng"}}); err != nil {
			t.Fatal(err)
		}
		r := within(t, answered, "answer")
		if r.Error != nil {
			t.Fatal(r.Error)
		}
		return r.Subscribe
	}
	show := func(p *rawclient.Publication) { got = append(got, fmt.Sprint(p.Offset, p.Key, p.Removed)) }
	expect := func(what string, want ...string) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
		got = nil
	}
	set("a", "eng")
	set("b", "sales")
	at := subscribe(2, rawclient.SubscribeReply{})
	for i := range at.State {
		show(&at.State[i])
	}
	expect("state", "1afalse")
	set("b", "eng")
	set("c", "sales")
	set("a", "")
	for range 2 {
		show(within(t, pushed, "push"))
	}
	expect("live", "3bfalse", "5atrue")
	if _, err := c.Send("unsubscribe", map[string]string{"channel": "map:tagged"}); err != nil {
		t.Fatal(err)
	}
	within(t, answered, "answer")
	set("b", "sales")
	set("c", "eng")
	set("d", "sales")
	at.Offset = 5
	back := subscribe(1, *at)
	for i := range back.Publications {
		show(&back.Publications[i])
	}
	for len(got) < 2 { // its node may hear of the last changes after the subscription
		show(within(t, pushed, "push"))
	}
	expect("recovery", "6btrue", "7cfalse")
	if back.Offset < 5 || back.Offset > 8 || !back.Recovered {
		t.Errorf("offset %d, recovered %v", back.Offset, back.Recovered)
	}
}

// setTagged sets key of map:tagged with the tag team, "" for no tag.
func setTagged(t *testing.T, node *router.Node, key, team string) {
	t.Helper()
	change := router.Change{Key: key, Data: []byte("1")}
	if team != "" {
		change.Tags = map[string]string{"team": team}
	}
	if _, err := node.ChangeState(t.Context(), "map:tagged", change); err != nil {
		t.Fatal(err)
	}
}
