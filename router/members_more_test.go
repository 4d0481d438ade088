package router

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/natstest"
)

// TestR4Storm: whatever is lost, cut and killed while clients come and go, every picture
// made of joins and leaves is in the end who is there, without a join twice or a leave
// of one that was not there.
func TestR4Storm(t *testing.T) {
	for _, seed := range []uint64{0, 1, 2, 3, 4, 5, 6, 236} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) { storm(t, rand.New(rand.NewPCG(seed, 4))) })
		})
	}
}

type guest struct {
	p  *person
	at *memberNode
}

func storm(t *testing.T, random *rand.Rand) {
	srv := natstest.Run(t)
	var nodes []*memberNode
	next := 0
	start := func() *memberNode { next++; return startMembers(t, srv, fmt.Sprint("n", next)) }
	for range 4 {
		nodes = append(nodes, start())
	}
	time.Sleep(4 * time.Second) // virtual
	var guests, watchers []guest
	for i := range 3 { // at nodes that are cut off, not killed
		watchers = append(watchers, guest{nodes[i].mustWatch(), nodes[i]})
	}
	var meanwhile sync.WaitGroup
	for range 400 {
		i := random.IntN(len(nodes))
		switch what := random.IntN(100); {
		case what < 45:
			next++
			id := fmt.Sprintf("u%d.%d", random.IntN(5), next)
			guests = append(guests, guest{nodes[i].join(&Subscription{Channel: room, Info: &ClientInfo{Client: id, User: "u"}}, SubscribeRequest{JoinLeave: true}), nodes[i]})
		case what < 75 && len(guests) > 0:
			j := random.IntN(len(guests))
			guests[j].at.Unsubscribe(guests[j].p.sub, nil)
			guests = slices.Delete(guests, j, j+1)
		case what < 85:
			nodes[i].deafen(random.IntN(2) == 0)
		case what < 89:
			nodes[i].setCut(true)
		case what < 94:
			nodes[i].setCut(false)
		case what < 96:
			nodes[3].kill()
			guests = slices.DeleteFunc(guests, func(g guest) bool { return g.at == nodes[3] })
			nodes[3] = start()
		case what < 98:
			n, d := nodes[i], time.Duration(random.IntN(5000))*time.Millisecond
			meanwhile.Go(func() { n.standStill(d) })
		default:
			n := nodes[i]
			meanwhile.Go(func() { n.Presence(t.Context(), room) }) //nolint:errcheck // what matters is what it does to what the node follows
		}
		time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond) // virtual
	}
	meanwhile.Wait()
	for _, n := range nodes {
		n.setCut(false)
		n.deafen(false)
	}
	time.Sleep(15 * time.Second)                                                          // virtual
	guests = slices.DeleteFunc(guests, func(g guest) bool { return <-g.p.failed != nil }) // the channel could not be opened
	var want []string
	for _, g := range guests {
		want = append(want, g.p.sub.Info.Client)
	}
	for _, w := range watchers {
		w.p.sees(t, w.at, want...)
		w.p.check(t, w.at.cfg.NodeID)
	}
	for _, g := range guests {
		g.p.check(t, g.p.sub.Info.Client)
	}
}

// TestR4TooManyMembers: above the limit joins and leaves are passed on as they come, and
// who needs all of them is told so. It is over when the members become fewer.
func TestR4TooManyMembers(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 2, func(c *Config) { c.PresenceMembers = 4 })
		a := nodes[0].enter("a")
		w := nodes[0].mustWatch()
		var there []*person
		for i := range 5 {
			there = append(there, nodes[1].enter(fmt.Sprint("b", i)))
			time.Sleep(10 * time.Millisecond) // virtual
		}
		a.expect(t, "to the limit and above", "+a", "+b0", "+b1", "+b2", "+b3", "+b4")
		w.mu.Lock()
		ended := w.ended
		w.mu.Unlock()
		if ended != UnsubscribedInsufficientState {
			t.Errorf("who watches them was told %d", ended)
		}
		var limit *Error
		if _, err := nodes[0].watch(); !errors.As(err, &limit) || limit.Code != CodeLimit {
			t.Errorf("to watch more than the limit: %v", err)
		}
		nodes[0].present(t, "a", "b0", "b1", "b2", "b3", "b4")
		if held := nodes[0].heldMembers.Load(); held != 0 {
			t.Errorf("%d members are held", held)
		}
		nodes[1].leave(there[0])
		nodes[1].leave(there[1])
		time.Sleep(10 * time.Millisecond) // virtual
		a.expect(t, "passed on", "-b0", "-b1")
		time.Sleep(2 * plainInterval) // virtual
		again := nodes[0].mustWatch()
		again.sees(t, nodes[0], "a", "b2", "b3", "b4")
		nodes[1].kill()
		time.Sleep(8 * time.Second) // virtual
		a.expect(t, "followed again", "-b2", "-b3", "-b4")
		again.expect(t, "followed again", "-b2", "-b3", "-b4")
	})
}

// TestR4NodeLimit: the members of all channels together are bounded, too.
func TestR4NodeLimit(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 2, func(c *Config) { c.PresenceNodeMembers = 3 })
		a := nodes[0].enter("a")
		for i := range 5 {
			nodes[1].enter(fmt.Sprint("b", i))
		}
		time.Sleep(10 * time.Millisecond) // virtual
		a.expect(t, "above the limit", "+a", "+b0", "+b1", "+b2", "+b3", "+b4")
		if held := nodes[0].heldMembers.Load(); held != 0 {
			t.Errorf("%d members are held", held)
		}
	})
}

// TestR4Overrides: who is hidden from presence is not shown as a member, though its joins
// are told; whose joins are not told comes and goes in presence only.
func TestR4Overrides(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 2)
		a := nodes[0].enter("a")
		w := nodes[0].mustWatch()
		for _, s := range []*Subscription{
			{Channel: room, Info: &ClientInfo{Client: "hidden"}, NoPresence: true},
			{Channel: room, Info: &ClientInfo{Client: "quiet"}, NoJoinLeave: true},
			{Channel: room, Info: &ClientInfo{Client: "neither"}, NoPresence: true, NoJoinLeave: true},
		} {
			p := nodes[1].join(s, SubscribeRequest{JoinLeave: true})
			if err := <-p.failed; err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Millisecond) // virtual
		a.expect(t, "told", "+a", "+hidden")
		nodes[0].present(t, "a", "quiet")
		again := nodes[0].mustWatch()
		if got := slices.Sorted(maps.Keys(again.there)); !slices.Equal(got, []string{"a"}) {
			t.Errorf("shown as members: %q", got)
		}
		w.check(t, "watcher")
		nodes[1].kill()
		time.Sleep(8 * time.Second) // virtual
		a.expect(t, "gone", "-hidden")
		nodes[0].present(t, "a")
	})
}

// TestR4Users: the first client of a user and the last one are told apart, wherever they
// are.
func TestR4Users(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 2)
		first := nodes[0].enter("u.1")
		var users []string
		seen := &userWatcher{users: &users}
		sub := &Subscription{Channel: room, Subscriber: seen, NoPresence: true, NoJoinLeave: true}
		nodes[0].Subscribe(sub, SubscribeRequest{JoinLeave: true, Exact: true, Users: true}, func(_ SubscribeResult, err error) {
			if err != nil {
				t.Error(err)
			}
		})
		second := nodes[1].enter("u.2")
		other := nodes[1].enter("v.1")
		time.Sleep(10 * time.Millisecond) // virtual
		nodes[0].leave(first)
		time.Sleep(10 * time.Millisecond) // virtual
		nodes[1].leave(second)
		nodes[1].leave(other)
		time.Sleep(10 * time.Millisecond) // virtual
		nodes[1].enter("v.2")
		time.Sleep(10 * time.Millisecond) // virtual
		nodes[1].kill()
		time.Sleep(8 * time.Second) // virtual
		onShard(t.Context(), nodes[0].shardOf(room), func() {
			if want := []string{"+v", "-u", "-v", "+v", "-v"}; !slices.Equal(users, want) {
				t.Errorf("users: %q, want %q", users, want)
			}
		})
	})
}

// userWatcher is called, and read, on one shard.
type userWatcher struct{ users *[]string }

func (w *userWatcher) Deliver(_ *Subscription, b *Batch) {
	for _, p := range b.Pushes {
		switch {
		case p.User && p.Join != nil:
			*w.users = append(*w.users, "+"+p.Join.User)
		case p.User:
			*w.users = append(*w.users, "-"+p.Leave.User)
		}
	}
}

func (w *userWatcher) Dropped(*Subscription, UnsubscribeReason) {}

// Channels that do not tell joins, or where nobody wants to hear of them, cost nothing.
func TestMembersCostNothingElsewhere(t *testing.T) {
	f := newFixture(t, Namespace{Name: "e", Payload: PayloadJSON, Presence: true})
	f.subscribe("e:a", SubscribeRequest{JoinLeave: true})
	g := newFixture(t, roomNamespace)
	g.subscribe("p:a", SubscribeRequest{})
	for name, n := range map[string]*Node{"not told": f.node, "not asked for": g.node} {
		for _, sh := range n.shards {
			onShard(t.Context(), sh, func() {
				if len(sh.replicas) > 0 || len(sh.bySub) > 1 {
					t.Errorf("%s: %d replicas, %d NATS subscriptions", name, len(sh.replicas), len(sh.bySub))
				}
				if name == "not told" && len(sh.changed) > 0 {
					t.Errorf("%s: heartbeats tell of it", name)
				}
			})
		}
	}
}

func TestNewsInSeveralHeartbeats(t *testing.T) {
	var list []toldVersion
	for i := range uint64(2*maxNews + 500) {
		list = append(list, toldVersion{hash: i * 7, version: 3000 - i})
	}
	all := newNews(slices.Clone(list), 100, 2900)
	if len(all) != 3 {
		t.Fatalf("%d heartbeats", len(all))
	}
	covered, got := uint64(100), map[uint64]uint64{}
	for _, n := range all {
		if n.Since != covered {
			t.Errorf("since %d follows %d", n.Since, covered)
		}
		told, err := n.decode()
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range told {
			got[v.hash] = v.version
			if v.version <= n.Since || v.version > n.Upto {
				t.Errorf("version %d in (%d, %d]", v.version, n.Since, n.Upto)
			}
		}
		covered = n.Upto
	}
	want := map[uint64]uint64{}
	for _, v := range list {
		if v.version > 100 && v.version <= 2900 {
			want[v.hash] = v.version
		}
	}
	if covered != 2900 || !reflect.DeepEqual(got, want) {
		t.Errorf("up to %d, %d channels of %d", covered, len(got), len(want))
	}
}

func FuzzMemberMessage(f *testing.F) {
	f.Add([]byte(`{"node":"n1","prev":1,"version":2,"changes":[{"join":true,"info":{"user":"u","client":"c"},"hidden":true}]}`))
	f.Add([]byte(`{"node":"n1","version":2,"changes":[{"info":{}}]}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMemberMessage(b)
		if err != nil {
			return
		}
		if m.node == "" || m.prev >= m.version {
			t.Errorf("%+v passed", m)
		}
		for _, ch := range m.changes {
			if ch.info == nil || ch.info.Client == "" {
				t.Error("a member without id passed")
			}
			w := ch.wire()
			if back, err := w.decode(); err != nil || !back.same(ch.member) {
				t.Errorf("%+v became %+v (%v)", ch.member, back, err)
			}
		}
	})
}

func FuzzMemberNews(f *testing.F) {
	f.Add(encodeTold([]toldVersion{{1, 5}, {2, 6}}, 3), uint64(3), uint64(6))
	f.Add([]byte("short"), uint64(0), uint64(9))
	f.Fuzz(func(t *testing.T, b []byte, since, upto uint64) {
		list, err := (&memberNews{Since: since, Upto: upto, Channels: b}).decode()
		if err != nil {
			return
		}
		last := since
		for _, v := range list {
			if v.version < last || v.version > upto {
				t.Errorf("version %d after %d, up to %d", v.version, last, upto)
			}
			last = v.version
		}
	})
}
