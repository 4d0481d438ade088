package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// wsClient is a client of the JSON protocol that does nothing by itself: no
// reconnects, no recovery. The tests decide and the checker sees every frame.
type wsClient struct {
	conn    *websocket.Conn
	nextID  atomic.Uint32
	replies chan reply // every reply with an id, in order
	pushes  chan push  // every push, in order, and {} pings answered by pongs
	done    chan struct{}
	err     error // set before done is closed: why reading ended
}

type reply struct {
	ID        uint32          `json:"id"`
	Error     *replyError     `json:"error"`
	Connect   json.RawMessage `json:"connect"`
	Subscribe *subscribeReply `json:"subscribe"`
	Push      *push           `json:"push"`
}

type replyError struct {
	Code      uint32 `json:"code"`
	Message   string `json:"message"`
	Temporary bool   `json:"temporary"`
}

func (e *replyError) Error() string { return fmt.Sprintf("%d: %s", e.Code, e.Message) }

type subscribeReply struct {
	Recoverable   bool          `json:"recoverable"`
	Recovered     bool          `json:"recovered"`
	WasRecovering bool          `json:"was_recovering"`
	Epoch         string        `json:"epoch"`
	Offset        uint64        `json:"offset"`
	Publications  []publication `json:"publications"`
}

type publication struct {
	Data   json.RawMessage `json:"data"`
	Offset uint64          `json:"offset"`
	Epoch  string          `json:"epoch"`
}

type push struct {
	Channel     string       `json:"channel"`
	Pub         *publication `json:"pub"`
	Unsubscribe *struct {
		Code   uint32 `json:"code"`
		Reason string `json:"reason"`
	} `json:"unsubscribe"`
	Disconnect *struct {
		Code uint32 `json:"code"`
	} `json:"disconnect"`
}

// event is what a reader sees, in the order of the wire.
type event struct {
	reply *reply
	push  *push
}

// dial connects and starts reading; on receives every event in order, on the
// reading goroutine.
func dial(ctx context.Context, url string, on func(event)) (*wsClient, error) {
	d := websocket.Dialer{HandshakeTimeout: 5 * time.Second}
	conn, _, err := d.DialContext(ctx, strings.Replace(url, "http", "ws", 1)+"/connection/websocket", nil)
	if err != nil {
		return nil, err
	}
	c := &wsClient{conn: conn, done: make(chan struct{})}
	connected := make(chan error, 1)
	first := true
	go func() {
		defer close(c.done)
		c.err = c.read(func(e event) {
			if first {
				first = false
				switch {
				case e.reply == nil:
					connected <- errors.New("no connect reply first")
				case e.reply.Error != nil:
					connected <- e.reply.Error
				default:
					connected <- nil
				}
				return
			}
			on(e)
		})
	}()
	if err := c.write(`{"id":1,"connect":{}}`); err != nil {
		conn.Close()
		return nil, err
	}
	c.nextID.Store(1)
	select {
	case err = <-connected:
	case <-c.done:
		err = c.err
	case <-time.After(10 * time.Second):
		err = errors.New("no connect reply")
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *wsClient) read(on func(event)) error {
	for {
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
			var r reply
			if err := json.Unmarshal(line, &r); err != nil {
				return fmt.Errorf("frame %q: %w", line, err)
			}
			if r.Push != nil {
				on(event{push: r.Push})
			} else {
				on(event{reply: &r})
			}
		}
	}
}

func (c *wsClient) write(frame string) error {
	c.conn.SetWriteDeadline(time.Now().Add(5 * time.Second)) //nolint:errcheck // never fails in gorilla
	return c.conn.WriteMessage(websocket.TextMessage, []byte(frame))
}

// send writes one command and returns its id.
func (c *wsClient) send(command string, body any) (uint32, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	id := c.nextID.Add(1)
	return id, c.write(fmt.Sprintf(`{"id":%d,%q:%s}`, id, command, b))
}

// close cuts the connection without a goodbye and waits for the reader.
func (c *wsClient) close() {
	c.conn.Close()
	<-c.done
}
