// Package wsclient is a small client of the Centrifuge client protocol (JSON
// over WebSocket) for the command line: one channel, followed across
// reconnects. Applications use an SDK.
package wsclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// Config says what to follow.
type Config struct {
	URL   string // of the server: http://127.0.0.1:8000
	Token string // connection token, "" for none
	// SubToken is a subscription token for Channel, "" for none.
	SubToken string
	Channel  string
	// Since, when set, asks for what was published after it.
	Since     *Position
	JoinLeave bool
	// Map follows a map: all its keys, then what changes.
	Map bool
}

// Position is a place in a channel's history.
type Position struct {
	Offset uint64 `json:"offset"`
	Epoch  string `json:"epoch"`
}

// String is the form that command lines take.
func (p Position) String() string { return fmt.Sprintf("%d:%s", p.Offset, p.Epoch) }

// Handler is told what happens, on the goroutine of Follow. An error it returns
// ends Follow with that error.
type Handler struct {
	// Subscribed tells the outcome of a (re)subscription.
	Subscribed func(Subscribed) error
	// Publication and Event get the JSON as the server sent it.
	Publication func(pub json.RawMessage) error
	Event       func(kind string, info json.RawMessage) error // "join" or "leave"
	// Lost tells why the connection was lost and when the next try is.
	Lost func(err error, retry time.Duration)
}

// Subscribed is what the server told about the subscription.
type Subscribed struct {
	Position      Position
	WasRecovering bool `json:"was_recovering"`
	Recovered     bool `json:"recovered"`
}

// ServerError is a refusal of the server that repeating does not change.
type ServerError struct {
	Code    int
	Message string
}

func (e *ServerError) Error() string {
	return fmt.Sprintf("the server answered error %d: %s", e.Code, e.Message)
}

// Timings of a connection.
const (
	dialTimeout  = 10 * time.Second
	replyTimeout = 10 * time.Second
	minBackoff   = 200 * time.Millisecond
	maxBackoff   = 10 * time.Second
	// defaultPing is assumed when the server does not tell its ping interval.
	defaultPing = 60 * time.Second
	pingSlack   = 10 * time.Second
)

// Follow connects, subscribes and passes on everything until ctx ends (nil), the
// server refuses (*ServerError) or a handler returns an error. It reconnects and
// recovers in between; a first connection that fails is an error.
func Follow(ctx context.Context, cfg Config, h Handler) error {
	f := &follower{cfg: cfg, h: h, since: cfg.Since}
	for attempt := 0; ; attempt++ {
		err := f.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var refused *ServerError
		var stop *stopError
		switch {
		case errors.As(err, &stop):
			return stop.err
		case errors.As(err, &refused), !f.connected:
			return err
		}
		if f.progress {
			attempt, f.progress = 0, false
		}
		wait := min(minBackoff<<min(attempt, 10), maxBackoff)
		wait = wait/2 + rand.N(wait/2) // jitter: not everyone at once
		if h.Lost != nil {
			h.Lost(err, wait)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// stopError carries an error of a handler out of the read loop.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }

type follower struct {
	cfg       Config
	h         Handler
	since     *Position
	walk      mapWalk
	connected bool // ever
	progress  bool // since the last backoff
}

type reply struct {
	ID    uint32 `json:"id"`
	Error *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
	Connect *struct {
		Ping int  `json:"ping"`
		Pong bool `json:"pong"`
	} `json:"connect"`
	Subscribe *struct {
		Subscribed
		Position
		Recoverable  bool              `json:"recoverable"`
		Publications []json.RawMessage `json:"publications"`

		// Of maps.
		Phase  int               `json:"phase"`
		Cursor string            `json:"cursor"`
		State  []json.RawMessage `json:"state"`
	} `json:"subscribe"`
	Push *push `json:"push"`
}

type push struct {
	Channel string `json:"channel"`

	Pub  json.RawMessage `json:"pub"`
	Join *struct {
		Info json.RawMessage `json:"info"`
	} `json:"join"`
	Leave *struct {
		Info json.RawMessage `json:"info"`
	} `json:"leave"`
	Unsubscribe *struct {
		Code   int    `json:"code"`
		Reason string `json:"reason"`
	} `json:"unsubscribe"`
	Disconnect *struct {
		Code   int    `json:"code"`
		Reason string `json:"reason"`
	} `json:"disconnect"`
}

// once runs one connection until it is lost.
func (f *follower) once(ctx context.Context) error {
	conn, err := dial(ctx, f.cfg.URL)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() }) // unblocks the reader
	defer stop()
	return f.session(conn)
}

// endpoint turns the address of a server into that of its WebSocket.
func endpoint(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", fmt.Errorf("server url: %w", err)
	}
	switch u.Scheme {
	case "http", "ws":
		u.Scheme = "ws"
	case "https", "wss":
		u.Scheme = "wss"
	default:
		return "", fmt.Errorf("server url %q does not begin with http:// or https://", server)
	}
	if !strings.HasSuffix(u.Path, "/connection/websocket") {
		u = u.JoinPath("connection", "websocket")
	}
	return u.String(), nil
}

func dial(ctx context.Context, server string) (*websocket.Conn, error) {
	target, err := endpoint(server)
	if err != nil {
		return nil, err
	}
	dialer := websocket.Dialer{HandshakeTimeout: dialTimeout, Proxy: http.ProxyFromEnvironment}
	conn, resp, err := dialer.DialContext(ctx, target, nil)
	if err != nil && resp != nil {
		return nil, fmt.Errorf("connect to %s: the server answered %s", target, resp.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", target, err)
	}
	return conn, nil
}

func (f *follower) session(conn *websocket.Conn) error {
	connect := map[string]any{"name": "headrace-cli"}
	if f.cfg.Token != "" {
		connect["token"] = f.cfg.Token
	}
	if err := send(conn, map[string]any{"id": 1, "connect": connect}); err != nil {
		return err
	}
	idle := replyTimeout
	for {
		if err := conn.SetReadDeadline(time.Now().Add(idle)); err != nil {
			return fmt.Errorf("set deadline: %w", err)
		}
		_, frame, err := conn.ReadMessage()
		if err != nil {
			return closed(err)
		}
		for line := range bytes.SplitSeq(frame, []byte("\n")) {
			if len(bytes.TrimSpace(line)) == 0 {
				continue
			}
			next, err := f.message(conn, line)
			if err != nil {
				return err
			}
			if next > 0 {
				idle = next
			}
		}
	}
}

// closed turns a close frame that forbids reconnecting into *ServerError. The
// client protocol says which codes do.
func closed(err error) error {
	var ce *websocket.CloseError
	if errors.As(err, &ce) && (ce.Code >= 3500 && ce.Code < 4000 || ce.Code >= 4500 && ce.Code < 5000) {
		return &ServerError{Code: ce.Code, Message: ce.Text}
	}
	return err
}

// message handles one message of the server. The duration, when above 0, is how
// long the connection may be silent from now on.
func (f *follower) message(conn *websocket.Conn, line []byte) (time.Duration, error) {
	var m reply
	if err := json.Unmarshal(line, &m); err != nil {
		return 0, fmt.Errorf("decode message: %w", err)
	}
	switch {
	case m.Error != nil && m.Error.Code == codeUnrecoverable && f.cfg.Map && (f.since != nil || f.walk.cursor != ""):
		return 0, f.readAgain(conn)
	case m.Error != nil:
		if m.Error.Code == 100 || m.Error.Code == 111 || m.Error.Code == 113 { // temporary
			f.connected = true // there is a server that will let us in
			return 0, fmt.Errorf("the server answered error %d: %s", m.Error.Code, m.Error.Message)
		}
		return 0, &ServerError{Code: m.Error.Code, Message: m.Error.Message}
	case m.Connect != nil:
		f.connected = true
		idle := defaultPing
		if m.Connect.Ping > 0 {
			idle = time.Duration(m.Connect.Ping)*time.Second + pingSlack
		}
		return idle, f.subscribe(conn)
	case m.Subscribe != nil && f.cfg.Map:
		return 0, f.mapSubscribed(conn, &m)
	case m.Subscribe != nil:
		return 0, f.subscribed(&m)
	case m.Push != nil:
		return 0, f.push(m.Push)
	case m.ID == 0: // a ping
		return 0, send(conn, struct{}{})
	}
	return 0, nil
}

func (f *follower) subscribe(conn *websocket.Conn) error {
	if f.cfg.Map {
		f.walk.cursor = "" // a walk goes on within one connection only
		return f.subscribeMap(conn)
	}
	sub := map[string]any{"channel": f.cfg.Channel, "recoverable": true}
	if f.cfg.JoinLeave {
		sub["join_leave"] = true
	}
	if f.since != nil {
		sub["recover"] = true
		sub["offset"], sub["epoch"] = f.since.Offset, f.since.Epoch
	}
	if f.cfg.SubToken != "" {
		sub["token"] = f.cfg.SubToken
	}
	return send(conn, map[string]any{"id": 2, "subscribe": sub})
}

func (f *follower) subscribed(m *reply) error {
	f.progress = true
	s := m.Subscribe.Subscribed
	s.Position = m.Subscribe.Position
	if f.h.Subscribed != nil {
		if err := f.h.Subscribed(s); err != nil {
			return &stopError{err}
		}
	}
	if m.Subscribe.Recoverable {
		p := s.Position
		f.since = &p
	}
	for _, pub := range m.Subscribe.Publications {
		if err := f.publication(pub); err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) publication(pub json.RawMessage) error {
	var p struct {
		Offset uint64 `json:"offset"`
		Epoch  string `json:"epoch"`
	}
	if err := json.Unmarshal(pub, &p); err != nil {
		return fmt.Errorf("decode publication: %w", err)
	}
	if f.since != nil && p.Offset > 0 {
		f.since.Offset = p.Offset
		if p.Epoch != "" { // the first publication of a life names it
			f.since.Epoch = p.Epoch
		}
	}
	if err := f.h.Publication(pub); err != nil {
		return &stopError{err}
	}
	return nil
}

func (f *follower) push(p *push) error {
	event := func(kind string, info json.RawMessage) error {
		if f.h.Event == nil {
			return nil
		}
		if err := f.h.Event(kind, info); err != nil {
			return &stopError{err}
		}
		return nil
	}
	switch {
	case p.Channel != "" && p.Channel != f.cfg.Channel:
		return nil // of a channel that the server subscribed, by the token say
	case p.Pub != nil:
		return f.publication(p.Pub)
	case p.Join != nil:
		return event("join", p.Join.Info)
	case p.Leave != nil:
		return event("leave", p.Leave.Info)
	case p.Unsubscribe != nil:
		if p.Unsubscribe.Code < 2500 {
			return &ServerError{Code: p.Unsubscribe.Code, Message: p.Unsubscribe.Reason}
		}
		return fmt.Errorf("unsubscribed: %s (%d)", p.Unsubscribe.Reason, p.Unsubscribe.Code)
	case p.Disconnect != nil:
		return closed(&websocket.CloseError{Code: p.Disconnect.Code, Text: p.Disconnect.Reason})
	}
	return nil
}

func send(conn *websocket.Conn, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode command: %w", err)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(replyTimeout)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	if err := conn.WriteMessage(websocket.TextMessage, data); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}
