package router

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/natstest"
)

// The tests of R4 run in virtual time with real NATS.

// TestR4KilledNode: who was at a node that is killed leaves, once, everywhere, within 10 s.
func TestR4KilledNode(t *testing.T) {
	for name, size := range map[string]int{"one of four": 4, "one of two, which might be us": 2} {
		t.Run(name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				nodes := startCluster(t, size)
				a := nodes[0].enter("a")
				b, bb := nodes[1].enter("b"), nodes[1].enter("b.2")
				w := nodes[0].mustWatch()
				time.Sleep(time.Second) // virtual
				a.expect(t, "those who came", "+a", "+b", "+b.2")
				w.sees(t, nodes[0], "a", "b", "b.2")
				nodes[1].leave(bb)
				time.Sleep(10 * time.Millisecond) // virtual: its leave is on the way
				nodes[1].kill()
				time.Sleep(2 * time.Second) // virtual
				w.expect(t, "silent, not gone", "-b.2")
				time.Sleep(8 * time.Second) // virtual
				w.expect(t, "gone", "-b")
				a.expect(t, "gone, for a client", "-b", "-b.2")
				w.sees(t, nodes[0], "a")
				time.Sleep(time.Minute) // virtual
				a.expect(t, "afterwards")
				b.check(t, "at the killed node")
			})
		})
	}
}

// TestR4Drain: a node that stops says goodbye, and who is left at it leaves at once.
func TestR4Drain(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 3)
		a := nodes[0].enter("a")
		b := nodes[1].enter("b")
		nodes[1].enter("c")
		w := nodes[2].mustWatch()
		time.Sleep(time.Second) // virtual
		a.expect(t, "those who came", "+a", "+b", "+c")
		nodes[1].leave(b) // its session was ended by the drain
		nodes[1].stop()
		time.Sleep(100 * time.Millisecond) // virtual
		a.expect(t, "goodbye", "-b", "-c")
		w.expect(t, "goodbye", "-b", "-c")
		w.sees(t, nodes[2], "a")
	})
}

// TestR4OwnNATSLost: a node without NATS does not know who is there, and says so; it does
// not take the others for dead. When it is back it tells who really came and went.
func TestR4OwnNATSLost(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 3)
		a := nodes[0].enter("a")
		b := nodes[1].enter("b")
		nodes[2].enter("c")
		w := nodes[0].mustWatch()
		other := nodes[2].mustWatch()
		time.Sleep(time.Second) // virtual
		a.expect(t, "those who came", "+a", "+b", "+c")

		nodes[0].setCut(true)
		nodes[1].leave(b)
		nodes[2].enter("d")
		time.Sleep(time.Minute) // virtual
		w.expect(t, "while cut off")
		var unknown *Error
		if _, err := nodes[0].watch(); !errors.As(err, &unknown) || unknown.Code != CodeUnavailable {
			t.Errorf("members while cut off: %v", err)
		}
		if _, err := nodes[0].Presence(t.Context(), room); !errors.As(err, &unknown) || unknown.Code != CodeUnavailable {
			t.Errorf("presence while cut off: %v", err)
		}
		nodes[0].enter("here")
		time.Sleep(time.Millisecond) // virtual
		w.expect(t, "at the node itself", "+here")
		other.expect(t, "the others", "-a", "-b", "+d")

		nodes[0].setCut(false)
		time.Sleep(5 * time.Second) // virtual
		w.expect(t, "back", "-b", "+d")
		w.sees(t, nodes[0], "a", "c", "d", "here")
		other.expect(t, "the others", "+a", "+here")
		a.expect(t, "a client", "+here", "-b", "+d")
		time.Sleep(time.Minute) // virtual
		w.expect(t, "afterwards")
		other.expect(t, "afterwards")
	})
}

// TestR4ShortCut: a connection that is lost for less than the others' patience shows
// nowhere, except for what happened meanwhile.
func TestR4ShortCut(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 3)
		nodes[0].enter("a")
		b := nodes[1].enter("b")
		w, other := nodes[0].mustWatch(), nodes[1].mustWatch()
		time.Sleep(time.Second) // virtual
		other.expect(t, "before")
		nodes[0].setCut(true)
		nodes[0].enter("late")
		nodes[1].leave(b)
		time.Sleep(1500 * time.Millisecond) // virtual
		nodes[0].setCut(false)
		time.Sleep(4 * time.Second) // virtual
		w.expect(t, "the one cut off", "+late", "-b")
		other.expect(t, "the others", "+late", "-b")
		w.sees(t, nodes[0], "a", "late")
		other.sees(t, nodes[1], "a", "late")
	})
}

// TestR4StandsStill: a node that stood still has not heard the others, which shows
// nowhere.
func TestR4StandsStill(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		srv := natstest.Run(t)
		var nodes []*memberNode
		start := time.Now()
		for _, at := range []time.Duration{0, 10, 20, 500} { // of their heartbeats
			time.Sleep(at*time.Millisecond - time.Since(start)) // virtual
			nodes = append(nodes, startMembers(t, srv, fmt.Sprint("n", at)))
		}
		time.Sleep(4 * time.Second) // virtual
		nodes[1].enter("b")
		nodes[2].enter("c")
		nodes[3].enter("d")
		w := nodes[0].mustWatch()
		for _, d := range []time.Duration{2500, 2900, 3100, 3400, 3900, 8000} {
			since := time.Since(start)
			time.Sleep(since.Truncate(time.Second) + 1050*time.Millisecond - since) // virtual: n0 has just heard itself, and n500 long ago
			nodes[0].standStill(d * time.Millisecond)
			time.Sleep(5 * time.Second) // virtual
			w.expect(t, (d * time.Millisecond).String())
			w.sees(t, nodes[0], "b", "c", "d")
		}
	})
}

// healBound is how late a join or leave may be whose message was lost: a heartbeat, the
// grace, a tick and the answer. Each heartbeat that is lost too adds one.
const healBound = time.Second + memberGrace + 2*tickInterval

// TestR4LostMessages: joins and leaves that are lost are told within the bound.
func TestR4LostMessages(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 2)
		b := nodes[1].enter("b")
		w := nodes[0].mustWatch()
		for what, lose := range map[string]func() []string{
			"a join":               func() []string { nodes[1].enter("c"); return []string{"+c"} },
			"a leave":              func() []string { nodes[1].leave(b); return []string{"-b"} },
			"the join of a second": func() []string { nodes[1].enter("d"); nodes[1].enter("e"); return []string{"+d", "+e"} },
		} {
			nodes[0].deafen(true)
			want := lose()
			time.Sleep(tickInterval) // virtual
			w.expect(t, what+", lost")
			nodes[0].deafen(false)
			time.Sleep(healBound) // virtual
			w.expect(t, what+", healed", want...)
		}
		w.sees(t, nodes[0], "c", "d", "e")

		nodes[0].deafen(true)
		nodes[1].enter("f")
		time.Sleep(time.Millisecond) // virtual
		nodes[0].deafen(false)
		nodes[1].enter("g")
		time.Sleep(10 * time.Millisecond) // virtual
		w.expect(t, "the next message shows that one is missing", "+f", "+g")
	})
}

// TestR4LostForAll: a node that loses everything for longer than heartbeats repeat
// themselves compares all channels.
func TestR4LostForAll(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 2)
		b := nodes[1].enter("b")
		w := nodes[0].mustWatch()
		for _, shard := range nodes[1].shards { // its news are gone before they are told
			shard.post(func() { shard.forgot = ^uint64(0) >> 1 })
		}
		nodes[0].deafen(true)
		nodes[1].leave(b)
		nodes[1].enter("c")
		time.Sleep(tickInterval) // virtual
		nodes[0].deafen(false)
		time.Sleep(healBound) // virtual
		w.expect(t, "compared", "-b", "+c")
	})
}

// TestR4FirstInterest: who was there before the first subscriber does not come; who comes
// while the others are asked does.
func TestR4FirstInterest(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 3)
		nodes[1].enter("b")
		nodes[2].enter("c")
		a := nodes[0].enter("a")
		w := nodes[0].mustWatch()
		w.sees(t, nodes[0], "a", "b", "c")
		nodes[2].enter("d")
		time.Sleep(time.Second) // virtual
		a.expect(t, "since", "+a", "+d")
		w.expect(t, "since", "+d")
	})
}

// TestR4SilentNode: a node that does not answer delays the first subscriber for a moment
// only. Who is there is unknown until it is known to be gone.
func TestR4SilentNode(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nodes := startCluster(t, 4)
		nodes[1].enter("b")
		nodes[2].enter("c")
		nodes[2].kill()
		start := time.Now()
		a := nodes[0].enter("a")
		if took := time.Since(start); took > maxOpenWait {
			t.Errorf("the first subscriber waited %v", took)
		}
		if _, err := nodes[0].watch(); err == nil {
			t.Error("it is known who is there, without the silent node")
		}
		time.Sleep(5 * time.Second) // virtual
		w := nodes[0].mustWatch()
		w.sees(t, nodes[0], "a", "b")
		a.expect(t, "since", "+a")
	})
}
