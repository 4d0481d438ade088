package router

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/headrace/headrace/internal/natstest"
)

// Whoever was deaf has not heard the others either: it does not take them for gone when
// it hears itself again before it hears them.
func TestR4DeafIsNotAlone(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 4)
		ms := nodes[0].members
		ms.mu.Lock()
		for _, p := range ms.nodes {
			p.seen = time.Now().Add(-time.Minute)
		}
		ms.mu.Unlock()
		ms.expire()
		b, err := json.Marshal(heartbeat{NodeInfo: NodeInfo{ID: "n1"}})
		if err != nil {
			t.Fatal(err)
		}
		ms.receive(&nats.Msg{Data: b})
		ms.expire()
		if alive := ms.alive(); len(alive) != 4 {
			t.Errorf("alive: %v", alive)
		}
	})
}

// Answers and heartbeats come in any order.
func TestR4AnswersOutOfOrder(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 2)
		nodes[1].versions.Store(1012)
		w := nodes[0].mustWatch()
		sh := nodes[0].shardOf(room)
		x := member{info: &ClientInfo{Client: "x"}}
		onShard(t.Context(), sh, func() {
			r := sh.channels[room].members.replica
			clear(r.views) // what n2 said before
			r.snapshot("n2", viewAnswer{version: 1005, count: 1, members: []member{x}})
			r.snapshot("n2", viewAnswer{upto: 1009, version: 1009})
			r.snapshot("n2", viewAnswer{version: 1005, count: 1, members: []member{x}}) // was on its way for longer
			r.receive(memberMessage{node: "n2", version: 1007, changes: []memberChange{{join: true, member: x}}})
			if n := r.count; n != 0 {
				t.Errorf("%d members after what is old", n)
			}
			r.view("n2").told = 1012 // while it is asked again
			r.snapshot("n2", viewAnswer{upto: 1010, version: 1010})
		})
		time.Sleep(time.Second) // virtual
		onShard(t.Context(), sh, func() {
			if v := sh.channels[room].members.replica.view("n2"); v.version != 1012 {
				t.Errorf("an answer that was older than what a heartbeat told is taken for the last word: %+v", v)
			}
		})
		w.expect(t, "each once", "+x", "-x")
	})
}

// An answer may have what a heartbeat told although its node looked at the version before
// it changed. Then the next heartbeat is looked at again.
func TestR4ToldAndAnswered(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 2)
		b := nodes[1].enter("b")
		w := nodes[0].mustWatch()
		there := []member{{info: &ClientInfo{Client: "b", User: "b"}}}
		sh := nodes[0].shardOf(room)
		nodes[0].deafen(true)
		onShard(t.Context(), sh, func() {
			r := sh.channels[room].members.replica
			v := r.view("n2")
			told := v.version + 1
			nodes[1].versions.Store(told)
			v.asking = true
			r.toldOf("n2", told)
			sh.memberChecks = nil // it was due while the node was asked
			r.snapshot("n2", viewAnswer{upto: told - 1, version: told, count: 1, members: there})
		})
		nodes[1].leave(b)
		time.Sleep(healBound) // virtual
		w.expect(t, "after it", "-b")
	})
}

// What happened in a pass before a subscriber was added, or asked who is there, is not
// told to it afterwards.
func TestR4OrderWithinAPass(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 1)
		n := nodes[0]
		x, y := n.enter("x"), n.enter("y")
		sh := n.shardOf(room)
		late := &person{there: make(map[string]bool)}
		asked := &person{exact: true, there: make(map[string]bool)}
		asked.sub = &Subscription{Channel: room, Subscriber: asked, NoPresence: true, NoJoinLeave: true}
		ch, ns, err := n.resolve(room)
		if err != nil {
			t.Fatal(err)
		}
		subscribe := func(s *Subscription) {
			sh.subscribe(ch, ns, &joiner{sub: s, req: SubscribeRequest{JoinLeave: true}, done: func(SubscribeResult, error) {}})
		}
		onShard(t.Context(), sh, func() {
			sh.unsubscribe(x.sub, nil)
			subscribe(&Subscription{Channel: room, Subscriber: late, Info: &ClientInfo{Client: "late"}})
			subscribe(asked.sub)
			sh.unsubscribe(y.sub, nil)
			members, followed, _ := sh.presence(room, memberAnswers{})
			if !followed || len(members) != 1 || members["late"] == nil {
				t.Errorf("members: %v", members)
			}
			asked.told = true
			asked.there["late"] = true
		})
		time.Sleep(time.Millisecond) // virtual
		late.expect(t, "since it came", "+late", "-y")
		asked.expect(t, "since it asked")
	})
}
