// Package follow is a subscriber for tests that break things: it follows channels
// over one connection at a time, comes back on any edge with the position it
// holds, and records everything it is told.
package follow

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/headrace/headrace/test/check"
	"github.com/headrace/headrace/test/rawclient"
)

// Follower is one client. Set its fields, then call Run.
type Follower struct {
	Name     string
	Channels []string
	History  *check.History
	// Edge picks where to connect, as a load balancer would.
	Edge func() (url, id string)
	// Stay is how long a connection is kept before the client cuts it; nil or 0
	// is for ever. Once Settled is closed, connections are kept.
	Stay    func() time.Duration
	Settled <-chan struct{}
	// Away is how long the client stays away after it has cut its connection; nil is
	// not at all. Once Settled is closed, it comes back.
	Away func() time.Duration
	// Idle is how long a silent connection is trusted; 0 is for ever.
	Idle time.Duration
	// Pause is how long the client stops reading when a delivery comes, nearly
	// always 0; nil is never.
	Pause func() time.Duration
	// Talk, when set, uses each connection meanwhile, on a goroutine of its own. It
	// returns when c is done. Reply gets the replies to its commands.
	Talk  func(c *rawclient.Client)
	Reply func(r *rawclient.Reply)
	// Delta asks for deltas, where there are any.
	Delta bool
	// Members makes it ask for joins and leaves, and for presence once it is subscribed.
	Members bool
	// Retry is the pause before it comes back, 20 ms by default.
	Retry time.Duration

	mu       sync.Mutex // guards the fields below
	decoded  int        // deltas
	position map[string]position
	attached map[string]bool // channels of this connection
}

type position struct {
	offset uint64
	epoch  string
	known  bool
}

// Run follows until finished is closed.
func (f *Follower) Run(finished <-chan struct{}) {
	f.position = make(map[string]position)
	if f.Retry == 0 {
		f.Retry = 20 * time.Millisecond
	}
	for {
		wait := time.Duration(0)
		wanted := f.attend(finished)
		switch {
		case !wanted:
			wait = f.Retry/2 + rand.N(f.Retry)
		case f.Away != nil:
			wait = f.Away()
		}
		settled := f.Settled
		if !wanted {
			settled = nil
		}
		select {
		case <-finished:
			return
		case <-settled:
		case <-time.After(wait):
		}
	}
}

// attend connects, subscribes and reads until the connection ends. It returns
// false when it was not the client who wanted that.
func (f *Follower) attend(finished <-chan struct{}) (wanted bool) {
	url, edge := f.Edge()
	a := &attendance{f: f, edge: edge, trouble: make(chan string, 1), asked: make(map[uint32]string), recover: make(map[string]bool), deltas: make(map[string]*rawclient.Deltas)}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := rawclient.DialIdle(ctx, url, f.Idle, a.event)
	if err != nil {
		return false
	}
	a.mu.Lock()
	a.id, a.c = c.ID(), c
	a.mu.Unlock()
	why := "lost"
	defer func() {
		c.Close()
		f.mu.Lock()
		f.attached = nil
		f.mu.Unlock()
		f.History.Add(check.Event{Kind: check.Detach, Who: f.Name, At: edge, Payload: why})
	}()
	for _, channel := range f.Channels {
		if a.subscribe(c, channel) != nil {
			return false
		}
	}
	if f.Talk != nil {
		var talk sync.WaitGroup
		talk.Go(func() { f.Talk(c) })
		defer talk.Wait()
		defer c.Close() // before the wait
	}
	settled := f.Settled
	var cut <-chan time.Time
	if f.Stay != nil {
		if stay := f.Stay(); stay > 0 {
			t := time.NewTimer(stay)
			defer t.Stop()
			cut = t.C
		}
	}
	for {
		select {
		case <-cut:
			why = "cut by the client"
			return true
		case <-settled:
			settled, cut = nil, nil // stay from now on
		case why = <-a.trouble:
			return false
		case <-c.Done():
			return false
		case <-finished:
			why = "finished"
			return true
		}
	}
}

// attendance is one connection's time.
type attendance struct {
	f       *Follower
	edge    string
	trouble chan string
	deltas  map[string]*rawclient.Deltas // of channels with deltas; owned by the reader

	mu      sync.Mutex // guards the fields below
	id      string
	c       *rawclient.Client
	asked   map[uint32]string // command id → channel
	whose   map[uint32]string // likewise, of presence commands
	recover map[string]bool   // channels that asked for what they had missed
}

func (a *attendance) subscribe(c *rawclient.Client, channel string) error {
	a.f.mu.Lock()
	at := a.f.position[channel]
	a.f.mu.Unlock()
	body := map[string]any{"channel": channel}
	if a.f.Members {
		body["join_leave"] = true
	}
	if at.known {
		body["recover"], body["offset"], body["epoch"] = true, at.offset, at.epoch
	}
	if a.f.Delta {
		body["delta"] = "fossil"
	}
	a.mu.Lock() // the reply may come before Send returns
	defer a.mu.Unlock()
	a.recover[channel] = at.known
	id, err := c.Send("subscribe", body)
	a.asked[id] = channel
	return err
}

// leave makes the client come back, elsewhere.
func (a *attendance) leave(why string) {
	select {
	case a.trouble <- why:
	default:
	}
}

// event takes what the server says, on the reading goroutine.
func (a *attendance) event(e rawclient.Event) {
	h, name := a.f.History, a.f.Name
	switch {
	case a.f.Members && a.memberEvent(e):
	case e.Reply != nil:
		a.mu.Lock()
		channel, id := a.asked[e.Reply.ID], a.id
		_, mine := a.asked[e.Reply.ID]
		asked := a.recover[channel]
		a.mu.Unlock()
		if !mine && a.f.Reply != nil {
			a.f.Reply(e.Reply)
			return
		}
		r := e.Reply.Subscribe
		if e.Reply.Error != nil || r == nil {
			a.leave(fmt.Sprintf("refused %s: %v", channel, e.Reply.Error))
			return
		}
		h.Add(check.Event{
			Kind: check.Subscribed, Who: name, At: a.edge, Channel: channel, Payload: id,
			Offset: r.Offset, Epoch: r.Epoch, Asked: asked, Recovered: r.Recovered,
		})
		a.f.subscribed(channel, asked, r)
		if r.Delta {
			d := new(rawclient.Deltas)
			d.Reset()
			a.deltas[channel] = d
		}
		if a.f.Members {
			a.askMembers(channel)
		}
		for i := range r.Publications {
			a.publication(channel, &r.Publications[i])
		}
	case e.Push.Pub != nil:
		a.publication(e.Push.Channel, e.Push.Pub)
		if a.f.Pause != nil {
			a.stall(a.f.Pause())
		}
	case e.Push.Unsubscribe != nil:
		a.f.mu.Lock()
		delete(a.f.attached, e.Push.Channel)
		a.f.mu.Unlock()
		h.Add(check.Event{Kind: check.Unsub, Who: name, At: a.edge, Channel: e.Push.Channel, Code: e.Push.Unsubscribe.Code})
		a.leave("unsubscribed from " + e.Push.Channel)
	}
}

func (a *attendance) stall(d time.Duration) {
	if d <= 0 {
		return
	}
	a.f.History.Add(check.Event{Kind: check.Stall, Who: a.f.Name})
	time.Sleep(d) // the client does not read: this is what is tried
	a.f.History.Add(check.Event{Kind: check.Resume, Who: a.f.Name})
}

func (a *attendance) publication(channel string, p *rawclient.Publication) {
	a.decode(channel, p)
	a.f.History.Add(check.Event{
		Kind: check.Deliver, Who: a.f.Name, Channel: channel, Offset: p.Offset, Epoch: p.Epoch, Payload: string(p.Data),
	})
	if p.Offset == 0 {
		return
	}
	a.f.mu.Lock()
	defer a.f.mu.Unlock()
	at := a.f.position[channel]
	at.offset = p.Offset
	if p.Epoch != "" {
		at.epoch = p.Epoch
	}
	a.f.position[channel] = at
}

// decode makes p whole where the channel has deltas. What cannot be made whole is
// recorded as it is, and is something that nobody sent.
func (a *attendance) decode(channel string, p *rawclient.Publication) {
	d := a.deltas[channel]
	if d == nil {
		return
	}
	before := d.Count
	if err := d.Decode(p); err != nil {
		p.Data = json.RawMessage(err.Error())
		a.leave(err.Error())
	}
	a.f.mu.Lock()
	a.f.decoded += d.Count - before
	a.f.mu.Unlock()
}

// Decoded is how many deltas came.
func (f *Follower) Decoded() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.decoded
}

// subscribed takes a reply as an SDK does: what was recovered goes on from the
// position held, anything else replaces it.
func (f *Follower) subscribed(channel string, asked bool, r *rawclient.SubscribeReply) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.attached == nil {
		f.attached = make(map[string]bool)
	}
	f.attached[channel] = true
	at := f.position[channel]
	switch {
	case r.Epoch == "" && r.Offset == 0: // without history
		return
	case asked && r.Recovered:
		if r.Epoch != "" {
			at.epoch = r.Epoch
		}
	default:
		at = position{offset: r.Offset, epoch: r.Epoch, known: true}
	}
	f.position[channel] = at
}

// Attached reports whether the follower is subscribed to all its channels.
func (f *Follower) Attached() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.attached) == len(f.Channels)
}

// Position returns what the follower holds of channel.
func (f *Follower) Position(channel string) (offset uint64, epoch string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := f.position[channel]
	return at.offset, at.epoch
}
