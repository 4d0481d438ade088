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

	"github.com/gorilla/websocket"

	"github.com/headrace/headrace/internal/natstest"
	"github.com/headrace/headrace/router"
	"github.com/headrace/headrace/test/check"
	"github.com/headrace/headrace/test/follow"
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
	ctx, cancel := context.WithTimeout(context.Background(), natstest.Patience(30*time.Second))
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

// chat is 1,000 clients in rooms of ten while all edges are replaced.
type chat struct {
	h       *harness
	history *check.History
	quiet   chan struct{} // closed when nobody talks any more
	talking sync.WaitGroup
	ends    atomic.Int64 // connections that ended while their client talked
	answers sync.Map     // payload → true: the publications that were answered
	unknown sync.Map     // payload → true: those of which nobody knows, and which were not repeated
	repeats atomic.Int64 // publications without an answer when the edge said that it stops
}

// chatter is one client that talks in its room and repeats what was not answered,
// without an idempotency key, when the edge said that it stops: so what an edge
// has taken it must answer.
type chatter struct {
	*chat
	follow.Follower
	next    int // number of the message to send
	replies chan *rawclient.Reply
	silent  func() // all is said
}

const (
	chatClients = 1000
	chatRooms   = 100
	chatPause   = 2 * time.Second // between two messages of a client
)

func TestE7RollingRestartLosesNothing(t *testing.T) {
	c := &chat{h: newHarness(t, 1, 3), history: check.NewHistory(nil), quiet: make(chan struct{})}
	finished := make(chan struct{})
	var clients sync.WaitGroup
	var all []*chatter
	for i := range chatClients {
		m := c.client(i)
		all = append(all, m)
		clients.Go(func() { m.Run(finished) })
	}
	for i := range 3 {
		c.h.restart(i)
	}
	close(c.quiet)
	c.talking.Wait()
	targets, stored := c.compareWithHistory(t)
	deadline := time.Now().Add(30 * time.Second)
	for _, m := range all {
		for time.Now().Before(deadline) {
			if offset, _ := m.Position(m.Channels[0]); m.Attached() && offset >= targets[m.Channels[0]] {
				break
			}
			time.Sleep(10 * time.Millisecond) // a poll with a deadline
		}
	}
	events, err := c.history.Events()
	if err != nil {
		t.Fatal(err)
	}
	close(finished)
	clients.Wait()
	r := check.Verify(events, check.Rules{History: map[string]int{"h": 300}, Late: time.Minute, Gone: time.Minute})
	for i, bad := range r.Violations {
		if i < 10 {
			t.Error(bad)
		}
	}
	t.Logf("%d publications stored, %d deliveries, %d recoveries, %d connections ended, %d publications repeated", stored, r.Delivered, r.Recovered, c.ends.Load(), c.repeats.Load())
	if r.Told > 0 || c.ends.Load() < chatClients*9/10 || stored < chatClients {
		t.Errorf("told of losses %d times; %d connections ended, %d publications", r.Told, c.ends.Load(), stored)
	}
}

func (c *chat) client(i int) *chatter {
	m := &chatter{chat: c, replies: make(chan *rawclient.Reply, 4)}
	m.Follower = follow.Follower{
		Name: fmt.Sprintf("c%d", i), Channels: []string{fmt.Sprintf("h:room%d", i%chatRooms)}, History: c.history,
		Edge: func() (string, string) { e := c.h.any(); return e.url, e.id },
		Talk: m.talk, Reply: func(r *rawclient.Reply) { m.replies <- r },
	}
	c.talking.Add(1)
	m.silent = sync.OnceFunc(c.talking.Done)
	return m
}

// compareWithHistory checks that what was answered is in the history, and
// everything there once: an edge that stores a message and does not answer makes
// its client repeat it.
func (c *chat) compareWithHistory(t *testing.T) (targets map[string]uint64, stored int) {
	targets = make(map[string]uint64)
	for room := range chatRooms {
		channel := fmt.Sprintf("h:room%d", room)
		ctx, cancel := context.WithTimeout(context.Background(), natstest.Patience(10*time.Second))
		res, err := c.h.any().node.History(ctx, channel, router.HistoryRequest{Limit: -1})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		for _, pub := range res.Publications {
			_, answered := c.answers.LoadAndDelete(string(pub.Data))
			if _, unknown := c.unknown.LoadAndDelete(string(pub.Data)); !answered && !unknown {
				t.Errorf("%s: %s at %d was never answered, or is there twice", channel, pub.Data, pub.Offset)
			}
			c.history.Add(check.Event{Kind: check.Final, Channel: channel, Offset: pub.Offset, Epoch: res.Position.Epoch, Payload: string(pub.Data)})
		}
		c.history.Add(check.Event{Kind: check.Target, Channel: channel, Offset: res.Position.Offset, Epoch: res.Position.Epoch})
		targets[channel] = res.Position.Offset
		stored += len(res.Publications)
	}
	c.answers.Range(func(payload, _ any) bool {
		t.Errorf("%v was answered and is not in the history", payload)
		return true
	})
	return targets, stored
}

// talk is a client's part of one connection.
func (m *chatter) talk(c *rawclient.Client) {
	pause := time.NewTimer(rand.N(chatPause))
	defer pause.Stop()
	for {
		select {
		case <-m.quiet:
			m.silent()
			<-c.Done()
			return
		case <-c.Done():
			m.ends.Add(1)
			return
		case <-pause.C:
		}
		payload, _ := json.Marshal(fmt.Sprintf("%s-%d", m.Name, m.next))
		e := check.Event{Kind: check.Send, Who: m.Name, Channel: m.Channels[0], Payload: string(payload)}
		m.history.Add(e)
		e.Kind = check.Refuse
		switch m.publish(c, payload) {
		case answered:
			e.Kind = check.Ack
			m.answers.Store(string(payload), true)
			m.next++
		case notTaken:
			m.repeats.Add(1)
		case nobodyKnows:
			m.unknown.Store(string(payload), true)
			m.next++
		}
		m.history.Add(e)
		pause.Reset(chatPause)
	}
}

// outcome is what a client knows of a publication.
type outcome int

const (
	answered    outcome = iota
	notTaken            // no answer, and the edge stops: it must not have taken it
	nobodyKnows         // an error, or a connection that broke
)

func (m *chatter) publish(c *rawclient.Client, payload []byte) outcome {
	known := func(r *rawclient.Reply) outcome {
		if r.Error != nil {
			return nobodyKnows // it took too long
		}
		return answered
	}
	if _, err := c.Send("publish", map[string]any{"channel": m.Channels[0], "data": json.RawMessage(payload)}); err == nil {
		select {
		case r := <-m.replies:
			return known(r)
		case <-c.Done():
		}
	}
	<-c.Done() // a connection that takes nothing has ended
	select {   // the answer may have come just before the end
	case r := <-m.replies:
		return known(r)
	default:
	}
	if websocket.IsCloseError(c.Err(), 3001) {
		return notTaken
	}
	return nobodyKnows
}
