package edge

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// streamConn is the response to a request that goes on: HTTP streaming or
// Server-Sent Events. The body ends with the connection, so that the same bytes
// serve every receiver and every version of HTTP. As for a WebSocket, the
// connection is taken from net/http and one goroutine waits for its end.
type streamConn struct {
	outConn
	box    *postbox // nil for one-way streams
	secret string   // of the session, for requests of the same client; see Sessions.Post
	junk   [1]byte  // what the peer sends is thrown away

	// Guarded by outConn.mu.
	head  http.Header // goes before the first frame; nil when it has gone
	proto int         // major version of HTTP: 1 needs the head as bytes
	began func(status int)
}

// streamHeaders keep caches and proxies from holding back or changing what is
// written. X-Accel-Buffering is understood by nginx and those who follow it.
func streamHeaders(h http.Header, contentType string) {
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no")
	h.Set("X-Content-Type-Options", "nosniff")
}

// Send implements transport.
func (c *streamConn) Send(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begin(http.StatusOK, nil)
	c.send(frame)
}

// Close implements transport. A plain EventSource that cannot be served gets an
// HTTP status, as long as nothing was sent: it is what stops it from trying again.
func (c *streamConn) Close(d disconnect) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing:
	case c.head != nil && c.kind == uniSSE && final(d):
		c.head.Set("Content-Type", "text/plain; charset=utf-8")
		c.begin(refusalStatus(d), []byte(d.reason+"\n"))
		c.closing, c.why = true, d
		if !c.flushing {
			c.endStream()
		}
		c.nc.SetReadDeadline(time.Now().Add(closeTimeout)) //nolint:errcheck // then it is closed already
	default:
		c.begin(http.StatusOK, nil)
		c.finish(d)
	}
}

// begin sends the head of the response, once, and body after it.
func (c *streamConn) begin(status int, body []byte) {
	if c.head == nil || c.closing {
		return
	}
	head := c.head
	c.head = nil
	if c.proto != 1 {
		c.began(status)
		if len(body) > 0 {
			c.send(body)
		}
		return
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	head.Set("Connection", "close")
	head.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	head.Write(&b) //nolint:errcheck // a buffer takes everything
	b.WriteString("\r\n")
	b.Write(body)
	c.send(b.Bytes())
}

// await reads until the connection ends. The client has nothing to say; what it
// sends all the same is thrown away, up to a bound.
func (c *streamConn) await() {
	for range discardFrames {
		if _, err := c.nc.Read(c.junk[:]); err != nil {
			return
		}
	}
}

// takeOver makes a streamConn of a request whose body was read.
func (s *Server) takeOver(w http.ResponseWriter, r *http.Request, k kind) (*streamConn, error) {
	c := &streamConn{outConn: outConn{cfg: s.cfg, metrics: s.metrics, kind: k}, proto: r.ProtoMajor, head: w.Header()}
	if r.ProtoMajor == 1 {
		nc, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return nil, err
		}
		c.nc, c.head = nc, w.Header().Clone()
		c.setRaw()
		freeHalfOpen(nc, s.cfg.PingInterval+s.cfg.PongTimeout)
		return c, nil
	}
	ctx, cancel := context.WithCancel(r.Context())
	response := &responseConn{w: w, rc: http.NewResponseController(w), ctx: ctx, cancel: cancel}
	c.nc, c.began = response, response.begin
	return c, nil
}

// responseConn lets a response of HTTP/2 be written to as a connection. It may be
// used until the handler returns, which happens after Close.
type responseConn struct {
	net.Conn // nil: what is not overridden is not used
	w        http.ResponseWriter
	rc       *http.ResponseController
	ctx      context.Context
	cancel   context.CancelFunc

	mu   sync.Mutex // guards over, and is held while w is used
	over bool
}

func (c *responseConn) Read([]byte) (int, error) {
	<-c.ctx.Done()
	return 0, io.EOF
}

func (c *responseConn) begin(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.w.WriteHeader(status)
	}
}

func (c *responseConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return 0, net.ErrClosed
	}
	n, err := c.w.Write(b)
	if err == nil {
		err = c.rc.Flush()
	}
	return n, err
}

func (c *responseConn) CloseWrite() error { return c.Close() }

func (c *responseConn) Close() error { c.cancel(); return nil }

// finished keeps late writers from a response whose handler has returned.
func (c *responseConn) finished() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
}

func (c *responseConn) SetReadDeadline(time.Time) error { return nil }

func (c *responseConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return net.ErrClosed
	}
	return c.rc.SetWriteDeadline(t)
}

// openStream makes a session of a request that has place, and calls begin with it.
// Over HTTP/1 it returns at once.
func (s *Server) openStream(w http.ResponseWriter, r *http.Request, k kind, place *seat, begin func(*session, *streamConn)) {
	conn, err := s.takeOver(w, r, k)
	if err != nil {
		place.release()
		http.Error(w, "this connection cannot be used for streaming", http.StatusInternalServerError)
		return
	}
	sess := newSession(s, k, conn, time.Now())
	if k.emulated() {
		conn.box, conn.secret = newPostbox(sess), newSecret()
	}
	sess.carry(s.requestToken(r))
	sess.seat = place
	response, isResponse := conn.nc.(*responseConn)
	admitted := s.sessions.add(sess, func() {
		s.opened(k)
		if !isResponse {
			go s.readStream(conn, sess)
		}
	})
	if !admitted {
		conn.Close(disconnectShutdown)
		conn.drain()
		place.release()
	} else {
		begin(sess, conn)
	}
	if !isResponse {
		return
	}
	if admitted {
		s.readStream(conn, sess)
	}
	<-response.ctx.Done()
	response.finished()
}

// readStream waits for the end of a stream and ends its session.
func (s *Server) readStream(conn *streamConn, sess *session) {
	conn.await()
	s.leaveStream(conn, sess)
}

func (s *Server) leaveStream(conn *streamConn, sess *session) {
	defer s.readers.Done()
	sess.ended(conn.reason(disconnectClosed))
	conn.drain()
	sess.seat.release()
	conn.box.stop()
	sess.settle()
}

// final reports whether a client that is told d must not come back by itself.
func final(d disconnect) bool {
	return d == disconnectExpired || d.code >= 3500 && d.code < 4000 || d.code >= 4500
}

// refusalStatus is the status of an answer that stands for d.
func refusalStatus(d disconnect) int {
	switch d.code {
	case disconnectInvalidToken.code, disconnectExpired.code:
		return http.StatusUnauthorized
	case codeDenied:
		return http.StatusForbidden
	case disconnectConnLimit.code, disconnectChannelLimit.code:
		return http.StatusTooManyRequests
	}
	return http.StatusBadRequest
}

// codeDenied ends a one-way connection that asks for a channel it may not have.
const codeDenied = 3507
