package router

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/headrace/headrace/internal/natstest"
)

// What is answered late, asked early, or said by nodes that have just come.

// TestR4PresenceAskedBefore: an answer to a question from before the node followed the
// channel is too old to begin with.
func TestR4PresenceAskedBefore(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 4)
		nodes[3].kill() // presence waits until it is gone
		ms := nodes[0].members
		ms.mu.Lock()
		gone, tick := ms.nodes["n4"].seen.Add(missedHeartbeats*time.Second), ms.nodes["n1"].seen
		ms.mu.Unlock()
		for !tick.After(gone) {
			tick = tick.Add(time.Second)
		}
		time.Sleep(10 * time.Millisecond) // virtual: when the node is dropped, presence notices before who is asked later
		answer := make(chan map[string]*ClientInfo, 1)
		go func() {
			members, err := nodes[0].Presence(t.Context(), room)
			if err != nil {
				t.Error(err)
			}
			answer <- members
		}()
		time.Sleep(10 * time.Millisecond) // virtual: n2 has answered
		nodes[1].enter("b")
		time.Sleep(time.Until(tick) - recheckInterval/2) // virtual: heartbeats have told it, too
		nodes[0].enter("a")
		if got := slices.Sorted(maps.Keys(<-answer)); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("presence: %q", got)
		}
		nodes[0].mustWatch().sees(t, nodes[0], "a", "b")
	})
}

// TestR4ComesWhileAsked: a node that comes while all are asked, and whose first joins
// are lost, is asked too.
func TestR4ComesWhileAsked(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		quick := func(c *Config) { c.HeartbeatInterval = 100 * time.Millisecond }
		nodes := startCluster(t, 4, quick)
		nodes[3].kill() // so that asking takes its time
		failed := nodes[0].join(&Subscription{Channel: room, Info: &ClientInfo{Client: "a"}}, SubscribeRequest{JoinLeave: true}).failed
		time.Sleep(10 * time.Millisecond) // virtual: the others have answered
		nodes[0].deafen(true)
		late := startMembers(t, nodes[0].srv, "late", quick)
		if err := <-late.join(&Subscription{Channel: room, Info: &ClientInfo{Client: "b"}}, SubscribeRequest{}).failed; err != nil {
			t.Fatal(err)
		}
		time.Sleep(150 * time.Millisecond) // virtual: its heartbeats have told it
		onShard(t.Context(), nodes[0].shardOf(room), func() {
			if !nodes[0].shardOf(room).channels[room].members.replica.loading {
				t.Error("all have answered already: the test is worth nothing")
			}
		})
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
		nodes[0].deafen(false)
		nodes[0].mustWatch().sees(t, nodes[0], "a", "b")
	})
}

// TestR4FreshNode: nodes that come with nobody, and others that follow many channels,
// have nothing to ask each other.
func TestR4FreshNode(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 2)
		nodes[0].enter("a")
		before := testutil.ToFloat64(nodes[0].cfg.Metrics.members.asked)
		late := startMembers(t, nodes[0].srv, "late")
		time.Sleep(10 * time.Second) // virtual
		if after := testutil.ToFloat64(nodes[0].cfg.Metrics.members.asked); after != before {
			t.Errorf("%v questions", after-before)
		}
		late.enter("b")
		time.Sleep(10 * time.Millisecond) // virtual
		nodes[0].mustWatch().sees(t, nodes[0], "a", "b")
	})
}

// TestR4FollowedAgain: what happens while a channel that had too many members is
// learned again is told once, and not missed.
func TestR4FollowedAgain(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 2, func(c *Config) { c.PresenceMembers = 4 })
		a := nodes[0].enter("a")
		there := map[string]*person{}
		for _, id := range []string{"b", "c", "d", "e", "f"} {
			there[id] = nodes[1].enter(id)
		}
		for _, id := range []string{"b", "c"} {
			nodes[1].leave(there[id])
		}
		got := map[string]*nodeViews{}
		sh := nodes[0].shardOf(room)
		who := func(id string) member { return member{info: &ClientInfo{Client: id, User: id}} }
		onShard(t.Context(), nodes[1].shardOf(room), func() {
			version := nodes[1].versions.Load()
			got["n2"] = &nodeViews{upto: version, views: map[int]*viewAnswer{0: {version: version, count: 3, members: []member{who("d"), who("e"), who("f")}}}}
		})
		nodes[1].leave(there["d"])  // after that answer
		time.Sleep(4 * time.Second) // virtual: heartbeats have told all of it
		a.expect(t, "passed on", "+a", "+b", "+c", "+d", "+e", "+f", "-b", "-c", "-d")
		onShard(t.Context(), sh, func() {
			r := sh.channels[room].members.replica
			if !r.plain {
				t.Error("it is followed already: the test is worth nothing")
			}
			r.unplain(0, got)
			nodes[1].enter("x")
		})
		time.Sleep(2 * time.Second) // virtual
		a.expect(t, "while it was asked", "+x")
		nodes[0].mustWatch().sees(t, nodes[0], "a", "e", "f", "x")
	})
}

// TestR4SameHash: channels whose names have one hash are followed side by side.
func TestR4SameHash(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 4)
		names := []string{room}
		for _, name := range []string{"p:1", "p:2", "p:3", "p:4", "p:5", "p:6", "p:7", "p:8", "p:9"} {
			if nodes[0].shardOf(name) == nodes[0].shardOf(room) {
				names = append(names, name)
			}
		}
		var here, there []*person
		for _, name := range names {
			for i, n := range nodes[:2] {
				p := n.join(&Subscription{Channel: name, Info: &ClientInfo{Client: n.cfg.NodeID}}, SubscribeRequest{JoinLeave: true})
				if err := <-p.failed; err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					here = append(here, p)
				} else {
					there = append(there, p)
				}
				sh := n.shardOf(name)
				onShard(t.Context(), sh, func() {
					m := sh.channels[name].members
					sh.unfollow(m.replica)
					m.hash = newChannelMembers(&liveChannel{name: room}).hash
					m.replica.next, sh.replicas[m.hash] = sh.replicas[m.hash], m.replica
				})
			}
		}
		time.Sleep(4 * time.Second) // virtual
		nodes[0].deafen(true)
		for _, p := range there[1:] {
			nodes[1].leave(p)
		}
		time.Sleep(tickInterval) // virtual
		nodes[0].deafen(false)
		time.Sleep(healBound) // virtual
		for _, p := range here[1:] {
			p.expect(t, "healed", "+n1", "+n2", "-n2")
		}
		nodes[1].kill()
		time.Sleep(8 * time.Second) // virtual
		here[0].expect(t, "gone", "+n1", "+n2", "-n2")
		sh := nodes[0].shardOf(room)
		for i, p := range here {
			nodes[0].leave(p)
			onShard(t.Context(), sh, func() {
				sh.channels[names[i]].end()
				if n := len(slices.Collect(sh.followed())); n != len(here)-1-i {
					t.Errorf("%d replicas after %d have ended", n, i+1)
				}
			})
		}
	})
}

// TestR4UserComesBackElsewhere: a user who comes back at another node before the one that
// was killed is known to be gone has neither left nor come again.
func TestR4UserComesBackElsewhere(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 4)
		var users []string
		sub := &Subscription{Channel: room, Subscriber: &userWatcher{users: &users}, NoPresence: true, NoJoinLeave: true}
		nodes[0].Subscribe(sub, SubscribeRequest{JoinLeave: true, Exact: true, Users: true}, func(SubscribeResult, error) {})
		w := nodes[0].mustWatch()
		nodes[1].enter("u.1")
		time.Sleep(10 * time.Millisecond) // virtual
		nodes[1].kill()
		time.Sleep(time.Second) // virtual
		back := nodes[2].enter("u.2")
		time.Sleep(10 * time.Second) // virtual
		w.expect(t, "clients", "+u.1", "+u.2", "-u.1")
		nodes[2].leave(back)
		time.Sleep(10 * time.Millisecond) // virtual
		onShard(t.Context(), nodes[0].shardOf(room), func() {
			if want := []string{"+u", "-u"}; !slices.Equal(users, want) {
				t.Errorf("users: %q, want %q", users, want)
			}
		})
	})
}

// TestR4HeldIsBounded: what is held for an answer is bounded by changes, not messages.
func TestR4HeldIsBounded(t *testing.T) {
	r, v := &replica{}, &memberView{}
	for i := range uint64(20) {
		r.hold(v, memberMessage{version: i + 1, changes: make([]memberChange, maxAnswerItems)})
	}
	if v.holds > maxHeld || v.holds != len(v.held)*maxAnswerItems || v.held[len(v.held)-1].version != 20 {
		t.Errorf("%d messages with %d changes are held", len(v.held), v.holds)
	}
}

// TestR4OlderNode: a node from before there were views knows nothing of them. Its members
// are in presence and ours are in its; who watches members is told that they are unknown.
func TestR4OlderNode(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 2)
		nodes[0].enter("a")
		old := &olderNode{t: t, nc: nodes[1].nc, prefix: nodes[0].cfg.Prefix}
		end := old.run()
		var unknown *Error
		if _, err := nodes[0].watch(); !errors.As(err, &unknown) || unknown.Code != CodeUnavailable {
			t.Errorf("members with an older node: %v", err)
		}
		nodes[0].present(t, "a", "old")
		nodes[1].present(t, "a", "old") // which does not follow the channel
		if got := old.asks(); !slices.Equal(got, []string{"a"}) {
			t.Errorf("the older node is told %q", got)
		}
		questions := testutil.ToFloat64(nodes[0].cfg.Metrics.members.asked)
		old.beat()
		nodes[0].join(&Subscription{Channel: "p:else"}, SubscribeRequest{JoinLeave: true}) // one question, and no other
		time.Sleep(2 * time.Second)                                                        // virtual
		if more := testutil.ToFloat64(nodes[0].cfg.Metrics.members.asked) - questions; more != 1 {
			t.Errorf("it is asked again and again: %v questions", more)
		}
		end()
		time.Sleep(8 * time.Second) // virtual
		nodes[0].mustWatch().sees(t, nodes[0], "a")
	})
}

// olderNode speaks as nodes did before there were views, over the connection of
// another one. It has the member old.
type olderNode struct {
	t      *testing.T
	nc     *nats.Conn
	prefix string
}

func (o *olderNode) run() (end func()) {
	sub, err := o.nc.Subscribe(o.prefix+ctlAsk, func(m *nats.Msg) {
		var q struct{ Kind string }
		if err := json.Unmarshal(m.Data, &q); err != nil {
			o.t.Error(err)
		}
		answer := `{"node":"old"}`
		if q.Kind == "presence" {
			info := string(Meta{Info: &ClientInfo{Client: "old"}}.Encode())
			answer = `{"node":"old","members":[` + info + `]}`
		}
		if err := m.Respond([]byte(answer)); err != nil {
			o.t.Error(err)
		}
	})
	if err != nil {
		o.t.Fatal(err)
	}
	o.beat()
	time.Sleep(10 * time.Millisecond)   // virtual
	return func() { sub.Unsubscribe() } //nolint:errcheck // then it answers still, which fails the test
}

func (o *olderNode) beat() {
	if err := o.nc.Publish(o.prefix+ctlHeartbeat, []byte(`{"uid":"old"}`)); err != nil {
		o.t.Fatal(err)
	}
}

// asks returns who is in the room, says the first new node that answers with anybody.
func (o *olderNode) asks() (clients []string) {
	inbox := o.nc.NewInbox()
	sub, err := o.nc.SubscribeSync(inbox)
	if err == nil {
		err = o.nc.PublishRequest(o.prefix+ctlAsk, inbox, []byte(`{"kind":"presence","channel":"`+room+`"}`))
	}
	for range 3 {
		var m *nats.Msg
		if err == nil {
			m, err = sub.NextMsg(time.Second)
		}
		var p struct {
			Node    string
			Members []json.RawMessage
		}
		if err == nil {
			err = json.Unmarshal(m.Data, &p)
		}
		if err != nil {
			o.t.Fatal(err)
		}
		for _, raw := range p.Members {
			meta, err := DecodeMeta(raw)
			if err != nil {
				o.t.Fatal(err)
			}
			if p.Node != "old" {
				clients = append(clients, meta.Info.Client)
			}
		}
	}
	return clients
}
