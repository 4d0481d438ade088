package edge

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// transport carries the frames of one session. Neither method blocks.
type transport interface {
	// Send writes a frame or queues it. The frame is shared: nobody changes it.
	// Frames arrive in the order of the calls; after Close none is sent.
	Send(frame []byte)
	// Close tells the peer d and ends the connection.
	Close(d disconnect)
}

// wsConn is a WebSocket connection served by one goroutine that reads. There is
// no writing goroutine: a frame goes to the socket from whoever sends it, and
// only what the socket does not take is queued and flushed by a goroutine that
// lives as long as the queue.
type wsConn struct {
	// Set by newWSConn, read-only afterwards.
	ws      *websocket.Conn // used for reading only: it must never write
	nc      net.Conn
	raw     syscall.RawConn // nil when the connection is not a plain socket (TLS, pipe)
	cfg     *Config
	metrics *metrics

	mu       sync.Mutex // guards the fields below
	queue    [][]byte   // frames the socket did not take, oldest first
	queued   int        // bytes in queue and with the flusher; at most cfg.QueueBytes
	flushing bool       // a flusher owns the socket's write side
	partial  bool       // queue[0] is the rest of a frame that was written in part
	closing  bool       // the close frame was sent or queued; nothing follows it
	drained  bool       // reading has ended: close the socket when the queue is empty
	why      disconnect // why our side ended the connection; zero while it has not
	try      tryWrite
}

func newWSConn(ws *websocket.Conn, cfg *Config, m *metrics) *wsConn {
	c := &wsConn{ws: ws, nc: ws.NetConn(), cfg: cfg, metrics: m}
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
	if sess.kind == protobufWS {
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

// Send implements transport.
func (c *wsConn) Send(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		c.metrics.drop(dropClosing, 1)
		return
	}
	c.metrics.framesOut.Add(1)
	c.metrics.bytesOut.Add(int64(len(frame)))
	rest, err := c.writeNow(frame)
	if err != nil {
		c.abort()
		return
	}
	if len(rest) == 0 {
		return
	}
	if c.queued+len(rest) > c.cfg.QueueBytes {
		c.tooSlow(rest, len(rest) < len(frame))
		return
	}
	c.partial = c.partial || len(rest) < len(frame)
	c.enqueue(rest)
}

func (c *wsConn) enqueue(frame []byte) {
	c.queue = append(c.queue, frame)
	c.queued += len(frame)
	if !c.flushing {
		c.flushing = true
		go c.flush()
	}
}

// tooSlow ends a connection whose queue has no room for rest: what has not been
// handed to the socket is dropped, and the client is told why after what has. A
// frame written in part must be completed, or the close frame would be taken for
// the rest of it.
func (c *wsConn) tooSlow(rest []byte, partial bool) {
	keep := [][]byte(nil)
	switch {
	case partial: // then the queue is empty: the socket was tried
		keep = [][]byte{rest}
	case c.partial:
		keep = c.queue[:1:1]
	}
	c.metrics.slow.Inc()
	c.metrics.drop(dropSlow, len(c.queue)+1-len(keep))
	for _, f := range c.queue {
		c.queued -= len(f)
	}
	c.queue = nil
	for _, f := range keep {
		c.enqueue(f)
	}
	c.finish(disconnectSlow)
}

// finish queues or writes the close frame as the last one.
func (c *wsConn) finish(d disconnect) {
	c.closing, c.why = true, d
	if rest, err := c.writeNow(closeFrame(d)); err != nil {
		c.hangUp()
	} else if len(rest) > 0 {
		c.enqueue(rest)
	}
	// The peer answers with its close frame; a peer that does not is cut by the
	// read deadline.
	c.nc.SetReadDeadline(time.Now().Add(closeTimeout)) //nolint:errcheck // then it is closed already
}

// closeTimeout is how long a peer may take to answer a close frame.
const closeTimeout = 3 * time.Second

// flush writes the queue to the socket until it is empty.
func (c *wsConn) flush() {
	var pending net.Buffers
	for {
		c.mu.Lock()
		if len(c.queue) == 0 {
			c.flushing = false
			if c.drained {
				c.hangUp()
			}
			// The deadline is sticky and would fail the next try.
			c.nc.SetWriteDeadline(time.Time{}) //nolint:errcheck // then it is closed already
			c.mu.Unlock()
			return
		}
		pending, c.queue, c.partial = c.queue, nil, false
		c.mu.Unlock()
		size := 0
		for _, f := range pending {
			size += len(f)
		}
		c.nc.SetWriteDeadline(time.Now().Add(c.cfg.WriteTimeout)) //nolint:errcheck // then Write fails
		_, err := pending.WriteTo(c.nc)
		c.mu.Lock()
		c.queued -= size
		if err != nil {
			c.abort()
			c.flushing = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
	}
}

// abort gives the connection up. The reader notices and ends the session.
func (c *wsConn) abort() {
	c.closing = true
	if (c.why == disconnect{}) {
		c.why = disconnectWriteError
	}
	c.metrics.drop(dropClosing, len(c.queue))
	c.queue = nil
	c.hangUp()
}

// Close implements transport.
func (c *wsConn) Close(d disconnect) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.finish(d)
	}
}

// reason returns why the connection ended: for our reason if we had one, else for
// seen, which is what the reader saw.
func (c *wsConn) reason(seen disconnect) disconnect {
	c.mu.Lock()
	defer c.mu.Unlock()
	if (c.why == disconnect{}) || c.why == disconnectNormal {
		return seen
	}
	return c.why
}

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

// drain closes the socket once what is queued has gone out. It is called when
// reading has ended: nothing more will come from the peer.
func (c *wsConn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing, c.drained = true, true
	if !c.flushing {
		c.hangUp()
	}
}

// hangUp closes the socket. It does not block: over TLS the goodbye could wait
// for a peer that takes nothing, so it is sent elsewhere.
func (c *wsConn) hangUp() {
	if _, ok := c.nc.(*tls.Conn); ok {
		go c.nc.Close() // at most 5 s (crypto/tls, Conn.Close)
		return
	}
	c.nc.Close()
}
