// Package rawclient is a client of the JSON protocol for tests that want to see
// every frame.
package rawclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// Client is one connection of the JSON protocol that does nothing by itself: no
// reconnects, no recovery. The tests decide and the checker sees every frame.
type Client struct {
	conn   *websocket.Conn
	nextID atomic.Uint32
	doneC  chan struct{}
	err    error // set before doneC is closed: why reading ended
	id     string
	idle   time.Duration

	writing sync.Mutex // a pong and a command at the same time
}

// Reply is one reply.
type Reply struct {
	ID        uint32          `json:"id"`
	Error     *ReplyError     `json:"error"`
	Connect   *ConnectReply   `json:"connect"`
	Subscribe *SubscribeReply `json:"subscribe"`
	RPC       *Publication    `json:"rpc"`
	Presence  *PresenceReply  `json:"presence"`
	Push      *Push           `json:"push"`

	Raw string `json:"-"` // for those who keep what Event.Raw says
}

// ConnectReply is the reply to connect.
type ConnectReply struct {
	Client string                    `json:"client"`
	Subs   map[string]SubscribeReply `json:"subs"`
}

// ReplyError is an error of the protocol.
type ReplyError struct {
	Code      uint32 `json:"code"`
	Message   string `json:"message"`
	Temporary bool   `json:"temporary"`
}

func (e *ReplyError) Error() string { return fmt.Sprintf("%d: %s", e.Code, e.Message) }

// SubscribeReply is the reply to subscribe.
type SubscribeReply struct {
	Recoverable   bool          `json:"recoverable"`
	Recovered     bool          `json:"recovered"`
	WasRecovering bool          `json:"was_recovering"`
	Epoch         string        `json:"epoch"`
	Offset        uint64        `json:"offset"`
	Publications  []Publication `json:"publications"`
	Delta         bool          `json:"delta"`

	// Of subscriptions to maps.
	Phase  int           `json:"phase"`
	Cursor string        `json:"cursor"`
	State  []Publication `json:"state"`
}

// PresenceReply is the reply to presence.
type PresenceReply struct {
	Presence map[string]ClientInfo `json:"presence"`
}

// ClientInfo is what a client is to others.
type ClientInfo struct {
	User   string `json:"user"`
	Client string `json:"client"`
}

// Member is the body of a join or leave.
type Member struct {
	Info ClientInfo `json:"info"`
}

// Publication is a publication as on the wire.
type Publication struct {
	Data   json.RawMessage `json:"data"`
	Offset uint64          `json:"offset"`
	Epoch  string          `json:"epoch"`
	Delta  bool            `json:"delta"`

	// Of maps.
	Key     string `json:"key"`
	Removed bool   `json:"removed"`
	Version uint64 `json:"version"`
}

// Push is one push.
type Push struct {
	Channel     string       `json:"channel"`
	Pub         *Publication `json:"pub"`
	Join        *Member      `json:"join"`
	Leave       *Member      `json:"leave"`
	Unsubscribe *struct {
		Code   uint32 `json:"code"`
		Reason string `json:"reason"`
	} `json:"unsubscribe"`
	Disconnect *struct {
		Code uint32 `json:"code"`
	} `json:"disconnect"`
	Subscribe *SubscribeReply `json:"subscribe"`
	Message   *Publication    `json:"message"`
	Refresh   *struct {
		Expires bool `json:"expires"`
	} `json:"refresh"`
}

// Event is what a reader sees, in the order of the wire.
type Event struct {
	Reply *Reply
	Push  *Push
	Raw   string // as on the wire
}

// Dial connects and starts reading; on receives every event in order, on the
// reading goroutine.
func Dial(ctx context.Context, url string, on func(Event)) (*Client, error) {
	return DialIdle(ctx, url, 0, on)
}

// DialIdle is Dial for a client that gives up a connection which was silent for
// idle, pings included; 0 is for ever.
func DialIdle(ctx context.Context, url string, idle time.Duration, on func(Event)) (*Client, error) {
	return DialToken(ctx, url, "", idle, on)
}

// DialToken is DialIdle with a connection token; "" is none.
func DialToken(ctx context.Context, url, token string, idle time.Duration, on func(Event)) (*Client, error) {
	c, _, err := dial(ctx, url, struct {
		Token string `json:"token,omitempty"`
	}{token}, idle, on)
	return c, err
}

// DialWith is Dial with the body of the connect command, and returns its reply.
func DialWith(ctx context.Context, url string, connect any, on func(Event)) (*Client, *ConnectReply, error) {
	return dial(ctx, url, connect, 0, on)
}

func dial(ctx context.Context, url string, connect any, idle time.Duration, on func(Event)) (*Client, *ConnectReply, error) {
	command, err := json.Marshal(connect)
	if err != nil {
		return nil, nil, err
	}
	d := websocket.Dialer{HandshakeTimeout: 5 * time.Second}
	conn, _, err := d.DialContext(ctx, strings.Replace(url, "http", "ws", 1)+"/connection/websocket", nil)
	if err != nil {
		return nil, nil, err
	}
	c := &Client{conn: conn, doneC: make(chan struct{}), idle: idle}
	reply := &ConnectReply{}
	connected := make(chan error, 1)
	first := true
	go func() {
		defer close(c.doneC)
		c.err = c.read(func(e Event) {
			if first {
				first = false
				switch {
				case e.Reply == nil:
					connected <- errors.New("no connect reply first")
				case e.Reply.Error != nil:
					connected <- e.Reply.Error
				default:
					if e.Reply.Connect != nil {
						c.id, reply = e.Reply.Connect.Client, e.Reply.Connect
					}
					connected <- nil
				}
				return
			}
			on(e)
		})
	}()
	if err := c.write(`{"id":1,"connect":` + string(command) + `}`); err != nil {
		conn.Close()
		return nil, nil, err
	}
	c.nextID.Store(1)
	select {
	case err = <-connected:
	case <-c.doneC:
		err = c.err
	case <-time.After(10 * time.Second):
		err = errors.New("no connect reply")
	}
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, reply, nil
}

func (c *Client) read(on func(Event)) error {
	for {
		if c.idle > 0 {
			c.conn.SetReadDeadline(time.Now().Add(c.idle)) //nolint:errcheck // a closed connection fails below
		}
		_, frame, err := c.conn.ReadMessage()
		if err != nil {
			return err
		}
		for line := range bytes.SplitSeq(frame, []byte("\n")) {
			if string(line) == "{}" {
				if err := c.write("{}"); err != nil {
					return err
				}
				continue
			}
			var r Reply
			if err := json.Unmarshal(line, &r); err != nil {
				return fmt.Errorf("frame %q: %w", line, err)
			}
			if r.Push != nil {
				on(Event{Push: r.Push, Raw: string(line)})
			} else {
				on(Event{Reply: &r, Raw: string(line)})
			}
		}
	}
}

func (c *Client) write(frame string) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.conn.SetWriteDeadline(time.Now().Add(5 * time.Second)) //nolint:errcheck // never fails in gorilla
	return c.conn.WriteMessage(websocket.TextMessage, []byte(frame))
}

// Send writes one command and returns its id.
func (c *Client) Send(command string, body any) (uint32, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	id := c.nextID.Add(1)
	return id, c.write(fmt.Sprintf(`{"id":%d,%q:%s}`, id, command, b))
}

// Close cuts the connection without a goodbye and waits for the reader.
func (c *Client) Close() {
	c.conn.Close()
	<-c.doneC
}

// CloseCode waits for the end and returns the code of the server's close frame, or
// 0 when there was none.
func (c *Client) CloseCode() int {
	<-c.doneC
	var closed *websocket.CloseError
	if errors.As(c.err, &closed) {
		return closed.Code
	}
	return 0
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.doneC }

// Err is why reading ended, once Done is closed.
func (c *Client) Err() error { return c.err }

// ID is the client id that the server gave.
func (c *Client) ID() string { return c.id }

// LocalAddr is the client's address, which the server sees as the peer's.
func (c *Client) LocalAddr() string { return c.conn.LocalAddr().String() }
