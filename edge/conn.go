package edge

import (
	"bytes"
	"io"
	"sync"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// wsConn is a WebSocket connection served by one goroutine that reads.
type wsConn struct {
	outConn
	ws *websocket.Conn // used for reading only: it must never write
}

func newWSConn(ws *websocket.Conn, k kind, cfg *Config, m *metrics) *wsConn {
	c := &wsConn{outConn: outConn{nc: ws.NetConn(), cfg: cfg, metrics: m, kind: k}, ws: ws}
	c.setRaw()
	// gorilla answers pings and closes by itself, past our queue: take that over.
	ws.SetPingHandler(func(data string) error {
		c.Send(sealFrame(opPong, append(newFrame(len(data)), data...)))
		return nil
	})
	ws.SetCloseHandler(func(int, string) error {
		c.Close(disconnectNormal)
		return nil
	})
	// No SetReadLimit: at the limit gorilla would write a close frame of its own,
	// past our queue. readMessage bounds what is read.
	return c
}

// readLoop hands every message to sess until the connection ends, and returns
// why.
func (c *wsConn) readLoop(sess *session) disconnect {
	for {
		messageType, r, err := c.ws.NextReader()
		if err != nil {
			return disconnectClosed
		}
		if why := c.take(sess, messageType, r); why.code != 0 {
			return why
		}
	}
}

// take reads one message and hands it to sess. It returns a code when the
// connection has to end.
func (c *wsConn) take(sess *session, messageType int, r io.Reader) disconnect {
	wantType := websocket.TextMessage
	if sess.kind.protobuf() {
		wantType = websocket.BinaryMessage
	}
	if messageType != wantType {
		return disconnectBadRequest
	}
	data, err := c.readMessage(r)
	switch {
	case err != nil:
		return disconnectClosed
	case len(data) > c.cfg.MaxMessageBytes:
		c.metrics.refuse(refusedMessageSize)
		return disconnectTooBig
	case wantType == websocket.TextMessage && !utf8.Valid(data):
		return disconnectNotText // gorilla does not look (RFC 6455 section 8.1)
	case !sess.onFrame(data):
		return disconnectNormal // our side has closed already, and said why
	}
	return disconnect{}
}

// readMessage reads one message, at most one byte more than allowed, into a slice
// of its own size: decoded strings point into it and publications keep it. The
// buffer is borrowed for the message only, an idle connection holds none.
func (c *wsConn) readMessage(r io.Reader) ([]byte, error) {
	buf := readBuffers.Get().(*bytes.Buffer)
	defer readBuffers.Put(buf)
	buf.Reset()
	_, err := buf.ReadFrom(io.LimitReader(r, int64(c.cfg.MaxMessageBytes)+1))
	c.metrics.bytesIn.Add(int64(buf.Len()))
	return bytes.Clone(buf.Bytes()), err
}

var readBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// discard reads on after our close frame until the peer answers with its own, for
// as long as finish allows: a socket closed with unread bytes in it is reset, and
// the peer might never see what we sent last.
func (c *wsConn) discard() {
	for range discardFrames {
		if _, _, err := c.ws.NextReader(); err != nil {
			return
		}
	}
}

// discardFrames bounds what is read of a peer that goes on sending.
const discardFrames = 10_000
