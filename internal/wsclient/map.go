package wsclient

import (
	"encoding/json"

	"github.com/gorilla/websocket"
)

// The kind and the phases of a subscription to a map, as the protocol numbers them.
const (
	typeMap     = 1
	phaseLive   = 0
	phaseStream = 1 // what was missed, a part at a time
	phaseState  = 2 // the keys, a page at a time
)

// codeUnrecoverable answers who has missed more than is kept, or whose map was
// cleared.
const codeUnrecoverable = 112

// mapWalk is how far a map has been read.
type mapWalk struct {
	cursor string
	at     Position // of the first page
	lost   bool     // what was missed is not kept any more
}

// subscribeMap asks for the next page, or for what was missed since f.since.
func (f *follower) subscribeMap(conn *websocket.Conn) error {
	sub := map[string]any{"channel": f.cfg.Channel, "type": typeMap, "phase": phaseState}
	switch {
	case f.since != nil:
		sub["phase"], sub["recover"] = phaseStream, true
		sub["offset"], sub["epoch"] = f.since.Offset, f.since.Epoch
	case f.walk.cursor != "":
		sub["cursor"], sub["offset"], sub["epoch"] = f.walk.cursor, f.walk.at.Offset, f.walk.at.Epoch
	}
	if f.cfg.SubToken != "" {
		sub["token"] = f.cfg.SubToken
	}
	return send(conn, map[string]any{"id": 2, "subscribe": sub})
}

// readAgain begins with the first page.
func (f *follower) readAgain(conn *websocket.Conn) error {
	f.since, f.walk = nil, mapWalk{lost: true}
	return f.subscribeMap(conn)
}

// mapSubscribed passes a page on and asks for what follows, or goes live.
func (f *follower) mapSubscribed(conn *websocket.Conn, m *reply) error {
	f.progress = true
	for _, entry := range m.Subscribe.State {
		if err := f.entry(entry); err != nil {
			return err
		}
	}
	at := m.Subscribe.Position
	switch m.Subscribe.Phase {
	case phaseState:
		if f.walk.cursor == "" {
			f.walk.at = at
		}
		f.walk.cursor = m.Subscribe.Cursor
		return f.subscribeMap(conn)
	case phaseStream:
		f.since = &at
		for _, pub := range m.Subscribe.Publications {
			if err := f.publication(pub); err != nil {
				return err
			}
		}
		return f.subscribeMap(conn)
	}
	if f.walk.lost {
		m.Subscribe.WasRecovering = true
	}
	f.walk = mapWalk{}
	return f.subscribed(m)
}

// entry passes on a key of the map.
func (f *follower) entry(entry json.RawMessage) error {
	if err := f.h.Publication(entry); err != nil {
		return &stopError{err}
	}
	return nil
}
