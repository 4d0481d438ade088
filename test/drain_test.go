package test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/router"
	"github.com/headrace/headrace/test/check"
	"github.com/headrace/headrace/test/rawclient"
)

// restart replaces edge i as a rolling update does: a new one takes clients
// before the old one is told to stop.
func (h *harness) restart(i int) {
	old := h.list()[i]
	fresh := h.startEdge()
	h.mu.Lock()
	h.edges[i] = fresh
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := old.srv.Shutdown(ctx); err != nil {
		h.t.Errorf("%s: shutdown: %v", old.id, err)
	}
	if err := old.http.Shutdown(ctx); err != nil {
		h.t.Errorf("%s: http shutdown: %v", old.id, err)
	}
	old.once.Do(func() {
		old.cancel()
		old.wg.Wait()
		for _, c := range old.conns {
			c.Close()
		}
	})
}

// chatter is one client that talks in its room and repeats what was not
// answered, without an idempotency key: what an edge has taken it must answer.
type chatter struct {
	t        *chat
	name     string
	observer *check.Observer
	next     int    // number of the message to send
	silent   func() // all is said
}

// chat is 1,000 clients in rooms of ten while all edges are replaced.
type chat struct {
	h         *harness
	k         *check.Checker
	quiet     chan struct{} // closed when nobody talks any more
	finished  chan struct{}
	acked     sync.Map // channel + payload → true
	count     atomic.Int64
	shutdowns atomic.Int64
}

const (
	chatClients = 1000
	chatRooms   = 100
	chatPause   = 2 * time.Second // between two messages of a client
)

func TestE7RollingRestartLosesNothing(t *testing.T) {
	c := &chat{h: newHarness(t, 1, 3), k: check.New(), quiet: make(chan struct{}), finished: make(chan struct{})}
	var talking, clients sync.WaitGroup
	var observers []*check.Observer
	for i := range chatClients {
		me := &chatter{t: c, name: fmt.Sprintf("c%d", i)}
		me.observer = c.k.Observer(me.name, fmt.Sprintf("h:room%d", i%chatRooms))
		observers = append(observers, me.observer)
		talking.Add(1)
		me.silent = sync.OnceFunc(talking.Done)
		clients.Go(me.run)
	}
	for i := range 3 {
		c.h.restart(i)
	}
	close(c.quiet)
	talking.Wait()
	stored := c.compareWithHistory(t)
	deadline := time.Now().Add(30 * time.Second)
	for _, o := range observers {
		for !o.CaughtUp() && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond) // a poll with a deadline
		}
	}
	close(c.finished)
	clients.Wait()
	res := c.k.Verify(observers)
	for _, p := range res.Problems {
		t.Error(p)
	}
	t.Logf("%d publications acknowledged, %d stored, %d deliveries, %d clients told to go", c.count.Load(), stored, res.Seen, c.shutdowns.Load())
	if res.Told > 0 || c.shutdowns.Load() < chatClients*9/10 || stored < chatClients {
		t.Errorf("told of losses %d times; %d shutdowns, %d publications", res.Told, c.shutdowns.Load(), stored)
	}
}

// compareWithHistory checks that what was acknowledged is in the history, and
// everything there once: an edge that stores a message and does not answer makes
// its client repeat it.
func (c *chat) compareWithHistory(t *testing.T) (stored int) {
	for room := range chatRooms {
		channel := fmt.Sprintf("h:room%d", room)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		res, err := c.h.any().node.History(ctx, channel, router.HistoryRequest{Limit: -1})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		c.k.Target(channel, check.Position{Epoch: res.Position.Epoch, Offset: res.Position.Offset})
		for _, pub := range res.Publications {
			payload := string(pub.Data)
			if _, acked := c.acked.LoadAndDelete(channel + payload); !acked {
				t.Errorf("%s: %s at %d was never acknowledged, or before", channel, payload, pub.Offset)
			}
			c.k.Ack(channel, payload, check.Position{Epoch: res.Position.Epoch, Offset: pub.Offset})
		}
		stored += len(res.Publications)
	}
	c.acked.Range(func(key, _ any) bool {
		t.Errorf("%v was acknowledged and is not in the history", key)
		return true
	})
	return stored
}

// run talks until quiet and listens until finished.
func (m *chatter) run() {
	for {
		select {
		case <-m.t.finished:
			return
		default:
			m.attend()
		}
	}
}

// attend is one connection: it returns when that ends.
func (m *chatter) attend() {
	channel := m.observer.Channel()
	replies := make(chan *rawclient.Reply, 4)
	_, _, known := m.observer.Position()
	c, err := rawclient.Dial(context.Background(), m.t.h.any().url, func(e rawclient.Event) {
		switch {
		case e.Reply != nil && e.Reply.Subscribe != nil:
			m.observer.Subscribed(known, e.Reply.Subscribe)
			replies <- e.Reply
		case e.Reply != nil:
			replies <- e.Reply
		case e.Push.Pub != nil:
			m.observer.Published(e.Push.Pub)
		}
	})
	if err != nil {
		time.Sleep(20 * time.Millisecond) // the reconnect pause of a client
		return
	}
	defer c.Close()
	ask := func(command string, body map[string]any) bool {
		if _, err := c.Send(command, body); err != nil {
			return false
		}
		select {
		case r := <-replies:
			return r.Error == nil
		case <-c.Done():
		}
		select { // it may have come just before the end
		case r := <-replies:
			return r.Error == nil
		default:
			return false
		}
	}
	if !ask("subscribe", subscribeBody(channel, m.observer)) {
		return
	}
	pause := time.NewTimer(rand.N(chatPause))
	defer pause.Stop()
	quiet := m.t.quiet
	for {
		select {
		case <-pause.C:
		case <-quiet:
			m.silent()
			quiet = nil
			pause.Stop()
			continue
		case <-m.t.finished:
			return
		case <-c.Done():
			m.t.shutdowns.Add(1)
			return
		}
		payload, _ := json.Marshal(fmt.Sprintf("%s-%d", m.name, m.next))
		m.t.k.Sending(channel, string(payload))
		if ask("publish", map[string]any{"channel": channel, "data": json.RawMessage(payload)}) {
			m.t.acked.Store(channel+string(payload), true)
			m.t.count.Add(1)
			m.next++
		}
		pause.Reset(chatPause)
	}
}
