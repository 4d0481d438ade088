package main

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"time"

	"github.com/headrace/headrace/test/check"
	"github.com/headrace/headrace/test/rawclient"
)

// mapFollower is a subscriber of a map that walks from the state over the changes to
// live, on any edge, and comes back to where it was.
type mapFollower struct {
	r             *run
	name, channel string
	settled       <-chan struct{} // from then on it stays where it is

	// at is where it stands; known says that there is something to recover.
	at    check.Position
	known bool

	delta  bool // asks for deltas
	deltas rawclient.Deltas

	c      *rawclient.Client
	edge   string
	events chan rawclient.Event
}

// Phases of a map subscription on the wire.
const (
	phaseLive   = 0
	phaseStream = 1
	phaseState  = 2
)

// codeUnrecoverable is the protocol's error for a position out of reach.
const codeUnrecoverable = 112

func (f *mapFollower) follow(finished <-chan struct{}) {
	for {
		f.session(finished)
		select {
		case <-finished:
			return
		case <-time.After(100*time.Millisecond + rand.N(time.Second)): // before it comes back
		}
	}
}

// session subscribes on one connection and follows until something ends it.
func (f *mapFollower) session(finished <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	i := rand.IntN(size)
	events, gone := make(chan rawclient.Event, 1024), make(chan struct{})
	c, err := rawclient.DialIdle(ctx, f.r.c.url(i), clientIdle, func(e rawclient.Event) {
		select {
		case events <- e:
		case <-gone:
		}
	})
	if err != nil {
		return
	}
	defer c.Close()
	defer close(gone)
	f.c, f.edge, f.events = c, f.r.c.edges[i].name, events
	if !f.subscribe() {
		return
	}
	f.listen(finished)
}

// subscribe gets live. It reports whether it is.
func (f *mapFollower) subscribe() bool {
	if f.known && rand.IntN(3) > 0 {
		reply, code := f.ask(map[string]any{"phase": phaseLive, "recover": true, "offset": f.at.Offset, "epoch": f.at.Epoch})
		if reply != nil {
			f.live(reply)
			return true
		}
		if code != codeUnrecoverable {
			return false
		}
	}
	for range 5 {
		if live, again := f.walk(); !again {
			return live
		}
	}
	return false
}

// walk reads the state and what changed meanwhile. again says that it has to be
// begun again.
func (f *mapFollower) walk() (live, again bool) {
	f.known = false
	f.record(check.MapBegin, check.Position{}, 0, nil)
	limit := 20 + rand.IntN(80)
	body := map[string]any{"phase": phaseState, "limit": limit}
	for pages := 0; ; pages++ {
		began := f.r.history.Since()
		reply, code := f.ask(body)
		switch {
		case reply == nil:
			return false, code == codeUnrecoverable
		case pages > 0 && reply.Epoch != f.at.Epoch:
			return false, true
		}
		position := check.Position{Epoch: reply.Epoch, Offset: reply.Offset}
		if pages == 0 {
			f.at = position
		}
		if reply.Phase == phaseLive {
			if n := len(reply.Publications); n > 0 && pages == 0 { // its offset is where it is live
				f.at.Offset = reply.Publications[0].Offset - 1
			}
			f.record(check.MapPage, f.at, began, reply.State)
			f.live(reply)
			return true, false
		}
		f.record(check.MapPage, f.at, began, reply.State)
		if reply.Cursor == "" {
			break
		}
		body = map[string]any{"phase": phaseState, "limit": limit, "cursor": reply.Cursor, "offset": f.at.Offset, "epoch": f.at.Epoch}
	}
	for {
		reply, code := f.ask(map[string]any{"phase": phaseStream, "limit": limit, "offset": f.at.Offset, "epoch": f.at.Epoch})
		switch {
		case reply == nil:
			return false, code == codeUnrecoverable
		case reply.Phase == phaseLive:
			f.live(reply)
			return true, false
		}
		f.at.Offset = reply.Offset
		f.record(check.MapStream, f.at, 0, reply.Publications)
	}
}

// ask sends a subscribe command and returns its reply, or the code of its error; 0
// when the connection is worth nothing any more.
func (f *mapFollower) ask(body map[string]any) (*rawclient.SubscribeReply, uint32) {
	body["channel"], body["type"] = f.channel, 1
	if f.delta {
		body["delta"] = "fossil"
	}
	if _, err := f.c.Send("subscribe", body); err != nil {
		return nil, 0
	}
	timeout := time.After(15 * time.Second)
	for {
		select {
		case e := <-f.events:
			switch {
			case e.Reply == nil:
			case e.Reply.Error != nil:
				return nil, e.Reply.Error.Code
			case e.Reply.Subscribe != nil:
				f.deltas.Reset()
				f.decode(e.Reply.Subscribe.State)
				f.decode(e.Reply.Subscribe.Publications)
				return e.Reply.Subscribe, 0
			}
		case <-f.c.Done():
			return nil, 0
		case <-timeout:
			return nil, 0
		}
	}
}

// decode makes pubs whole. What cannot be made whole is recorded as it is, and is
// nothing that anybody set.
func (f *mapFollower) decode(pubs []rawclient.Publication) {
	for i := range pubs {
		if !f.delta {
			continue
		}
		if err := f.deltas.Decode(&pubs[i]); err != nil {
			pubs[i].Data = json.RawMessage(err.Error())
		}
	}
}

func (f *mapFollower) live(reply *rawclient.SubscribeReply) {
	f.at, f.known = check.Position{Epoch: reply.Epoch, Offset: reply.Offset}, true
	e := f.event(check.MapLive, f.at, 0, reply.Publications)
	e.Recovered = reply.Recovered
	f.r.history.Add(e)
}

// listen takes what is pushed until the subscription ends.
func (f *mapFollower) listen(finished <-chan struct{}) {
	defer func() { f.record(check.MapEnd, f.at, 0, nil) }()
	stay := time.NewTimer(500*time.Millisecond + rand.N(12*time.Second))
	defer stay.Stop()
	cut := stay.C
	for {
		select {
		case e := <-f.events:
			if !f.take(e.Push) {
				return
			}
		case <-f.c.Done():
			for len(f.events) > 0 { // was there before it ended
				if e := <-f.events; !f.take(e.Push) {
					return
				}
			}
			return
		case <-cut:
			select {
			case <-f.settled:
				cut = nil
			default:
				return
			}
		case <-finished:
			return
		}
	}
}

// take takes a push, and reports whether the subscription goes on.
func (f *mapFollower) take(p *rawclient.Push) bool {
	switch {
	case p == nil || p.Channel != f.channel:
	case p.Pub != nil:
		if p.Pub.Epoch != "" {
			f.at.Epoch = p.Pub.Epoch
		}
		f.at.Offset = p.Pub.Offset
		changed := []rawclient.Publication{*p.Pub}
		f.decode(changed)
		f.record(check.MapChange, f.at, 0, changed)
	case p.Unsubscribe != nil:
		if p.Unsubscribe.Code >= 2500 {
			f.known = false // the position, or the state, is worth nothing
		}
		return false
	}
	return true
}

func (f *mapFollower) event(kind check.Kind, at check.Position, began time.Duration, pubs []rawclient.Publication) check.Event {
	s := &check.State{}
	for _, p := range pubs {
		v := check.Version{Key: p.Key, Version: p.Version, Value: string(p.Data), Removed: p.Removed, Offset: p.Offset}
		if p.Removed {
			v.Value = ""
		}
		s.Entries = append(s.Entries, v)
	}
	return check.Event{Kind: kind, Who: f.name, At: f.edge, Channel: f.channel, Offset: at.Offset, Epoch: at.Epoch, Began: began, State: s}
}

func (f *mapFollower) record(kind check.Kind, at check.Position, began time.Duration, pubs []rawclient.Publication) {
	f.r.history.Add(f.event(kind, at, began, pubs))
}
