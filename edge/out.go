package edge

import (
	"crypto/tls"
	"net"
	"sync"
	"syscall"
	"time"
)

// transport carries the frames of one session. Neither method blocks.
type transport interface {
	// Send writes a frame or queues it. The frame is shared: nobody changes it.
	// Frames arrive in the order of the calls; after Close none is sent.
	Send(frame []byte)
	// Close tells the peer d and ends the connection.
	Close(d disconnect)
}

// outConn is the writing side of a connection, whatever its frames are. There is
// no writing goroutine: a frame goes to the socket from whoever sends it, and
// only what the socket does not take is queued and flushed by a goroutine that
// lives as long as the queue.
type outConn struct {
	// Set before use, read-only afterwards.
	nc      net.Conn
	raw     syscall.RawConn // nil when the connection is not a plain socket (TLS, pipe)
	cfg     *Config
	metrics *metrics

	mu       sync.Mutex // guards the fields below
	queue    [][]byte   // frames the socket did not take, oldest first
	queued   int        // bytes in queue and with the flusher; at most cfg.QueueBytes
	flushing bool       // a flusher owns the socket's write side
	partial  bool       // queue[0] is the rest of a frame that was written in part
	closing  bool       // the last frame was sent or queued; nothing follows it
	drained  bool       // reading has ended: close the socket when the queue is empty
	kind     kind       // read-only
	why      disconnect // why our side ended the connection; zero while it has not
	try      tryWrite
}

// Send implements transport.
func (c *outConn) Send(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.send(frame)
}

func (c *outConn) send(frame []byte) {
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

func (c *outConn) enqueue(frame []byte) {
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
func (c *outConn) tooSlow(rest []byte, partial bool) {
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
func (c *outConn) finish(d disconnect) {
	c.closing, c.why = true, d
	switch rest, err := c.writeNow(c.kind.farewell(d)); {
	case err != nil:
		c.hangUp()
	case len(rest) > 0:
		c.enqueue(rest)
	default:
		c.endStream()
	}
	// The peer answers with its close frame, or closes a stream that has ended; a
	// peer that does not is cut by the read deadline.
	c.nc.SetReadDeadline(time.Now().Add(closeTimeout)) //nolint:errcheck // then it is closed already
}

// closeTimeout is how long a peer may take to answer a close frame.
const closeTimeout = 3 * time.Second

// flush writes the queue to the socket until it is empty.
func (c *outConn) flush() {
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
			closing := c.closing
			c.mu.Unlock()
			if closing {
				c.endStream()
			}
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
func (c *outConn) abort() {
	c.closing = true
	if (c.why == disconnect{}) {
		c.why = disconnectWriteError
	}
	c.metrics.drop(dropClosing, len(c.queue))
	c.queue = nil
	c.hangUp()
}

// Close implements transport.
func (c *outConn) Close(d disconnect) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.finish(d)
	}
}

// reason returns why the connection ended: for our reason if we had one, else for
// seen, which is what the reader saw.
func (c *outConn) reason(seen disconnect) disconnect {
	c.mu.Lock()
	defer c.mu.Unlock()
	if (c.why == disconnect{}) || c.why == disconnectNormal {
		return seen
	}
	return c.why
}

// drain closes the socket once what is queued has gone out. It is called when
// reading has ended: nothing more will come from the peer.
func (c *outConn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing, c.drained = true, true
	if !c.flushing {
		c.hangUp()
	}
}

// endStream tells the peer of a stream that nothing follows what was written. A
// WebSocket has its close frame for that.
func (c *outConn) endStream() {
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok && c.kind.stream() {
		half.CloseWrite() //nolint:errcheck // then it is closed already
	}
}

// hangUp closes the socket. It does not block: over TLS the goodbye could wait
// for a peer that takes nothing, so it is sent elsewhere.
func (c *outConn) hangUp() {
	if _, ok := c.nc.(*tls.Conn); ok {
		go c.nc.Close() // at most 5 s (crypto/tls, Conn.Close)
		return
	}
	c.nc.Close()
}
