package test

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/test/rawclient"
)

const roomChannel = "room:lobby"

// onlooker is a client whose picture of who is in the room comes from what it is told:
// from presence, joins and leaves, or from a map of the members.
type onlooker struct {
	c       *rawclient.Client
	replies chan *rawclient.Reply

	mu     sync.Mutex // guards the fields below
	there  map[string]bool
	leaves map[string]int
	joins  map[string]int
	faults []string
}

func (o *onlooker) event(e rawclient.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	set := func(key string, there bool) {
		switch {
		case there && o.there[key]:
			o.faults = append(o.faults, "joined twice: "+key)
		case !there && !o.there[key]:
			o.faults = append(o.faults, "left without being there: "+key)
		case there:
			o.there[key], o.joins[key] = true, o.joins[key]+1
		default:
			delete(o.there, key)
			o.leaves[key]++
		}
	}
	switch {
	case e.Reply != nil:
		if s := e.Reply.Subscribe; s != nil {
			for i := range s.State {
				o.there[s.State[i].Key] = true
			}
		}
		if e.Reply.Presence != nil { // in order with joins and leaves
			o.there = make(map[string]bool)
			for id := range e.Reply.Presence.Presence {
				o.there[id] = true
			}
		}
		o.replies <- e.Reply
	case e.Push.Join != nil:
		set(e.Push.Join.Info.Client, true)
	case e.Push.Leave != nil:
		set(e.Push.Leave.Info.Client, false)
	case e.Push.Pub != nil:
		set(e.Push.Pub.Key, !e.Push.Pub.Removed)
	}
}

// look connects user to e and subscribes to channel, as a map of that type or with joins
// and leaves for 0.
func look(t *testing.T, e *edgeProc, user, channel string, kind int) *onlooker {
	t.Helper()
	o := &onlooker{replies: make(chan *rawclient.Reply, 10), there: map[string]bool{}, leaves: map[string]int{}, joins: map[string]int{}}
	var err error
	o.c, err = rawclient.DialToken(t.Context(), e.url, mint(t, token.Connection{User: user}), 0, o.event)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.c.Close)
	o.ask(t, "subscribe", map[string]any{"channel": channel, "type": kind, "phase": 2 * min(kind, 1), "join_leave": kind == 0})
	if kind == 0 {
		o.ask(t, "presence", map[string]any{"channel": channel})
	}
	return o
}

func (o *onlooker) ask(t *testing.T, command string, body any) {
	t.Helper()
	if _, err := o.c.Send(command, body); err != nil {
		t.Fatal(err)
	}
	if r := within(t, o.replies, command); r.Error != nil {
		t.Fatalf("%s: %v", command, r.Error)
	}
}

func (o *onlooker) sees(want ...string) func() bool {
	slices.Sort(want)
	return func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return slices.Equal(slices.Sorted(maps.Keys(o.there)), want)
	}
}

func (o *onlooker) check(t *testing.T, who string) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range o.faults {
		t.Errorf("%s: %s", who, f)
	}
}

// TestR4KilledEdge: what clients are told over real sockets when an edge is killed.
func TestR4KilledEdge(t *testing.T) {
	h := newHarness(t, 1, 3)
	edges := h.list()
	stay := []*onlooker{look(t, edges[0], "1", roomChannel, 0), look(t, edges[1], "2", roomChannel, 0)}
	gone := []*onlooker{look(t, edges[2], "2", roomChannel, 0), look(t, edges[2], "3", roomChannel, 0)}
	clients := look(t, edges[0], "9", "who:"+roomChannel, 2)
	users := look(t, edges[1], "9", "users:"+roomChannel, 3)
	left := []string{stay[0].c.ID(), stay[1].c.ID()}
	all := append(slices.Clone(left), gone[0].c.ID(), gone[1].c.ID())
	for name, o := range map[string]*onlooker{"first": stay[0], "second": stay[1], "clients": clients} {
		natstest.Eventually(t, 5*time.Second, name+" to see all", o.sees(all...))
	}
	natstest.Eventually(t, 5*time.Second, "all users", users.sees("1", "2", "3"))

	edges[2].kill()
	killed := time.Now()
	for name, o := range map[string]*onlooker{"first": stay[0], "second": stay[1], "clients": clients} {
		natstest.Eventually(t, 10*time.Second, name+" to see who left", o.sees(left...))
	}
	natstest.Eventually(t, 10*time.Second, "the user without another client to leave", users.sees("1", "2"))
	t.Logf("all were told after %v", time.Since(killed).Round(10*time.Millisecond))

	late := look(t, edges[1], "4", roomChannel, 0)
	natstest.Eventually(t, 5*time.Second, "one more", clients.sees(append(left, late.c.ID())...))
	natstest.Eventually(t, 5*time.Second, "one more user", users.sees("1", "2", "4"))
	for i, o := range stay {
		o.check(t, fmt.Sprint("client ", i))
		o.mu.Lock()
		for _, g := range gone {
			if n := o.leaves[g.c.ID()]; n != 1 {
				t.Errorf("client %d was told %d times that %s left", i, n, g.c.ID())
			}
		}
		o.mu.Unlock()
	}
	clients.check(t, "clients")
	users.check(t, "users")
}

// TestR4DrainedEdge: those at an edge that stops leave when their sessions end, once.
func TestR4DrainedEdge(t *testing.T) {
	h := newHarness(t, 1, 2)
	edges := h.list()
	o := look(t, edges[0], "1", roomChannel, 0)
	look(t, edges[1], "2", roomChannel, 0)
	look(t, edges[1], "3", roomChannel, 0)
	natstest.Eventually(t, 5*time.Second, "all", func() bool { o.mu.Lock(); defer o.mu.Unlock(); return len(o.there) == 3 })
	if err := edges[1].srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	edges[1].cancel()
	natstest.Eventually(t, time.Second, "both to leave", o.sees(o.c.ID()))
	o.check(t, "the client")
}
