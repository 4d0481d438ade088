package natstest

import (
	"bytes"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Recorder notes the subjects that connections publish to and subscribe to, by
// reading what they send.
type Recorder struct {
	mu         sync.Mutex // guards the fields below
	published  map[string]bool
	subscribed map[string]bool
}

// NewRecorder returns a Recorder without subjects.
func NewRecorder() *Recorder {
	return &Recorder{published: make(map[string]bool), subscribed: make(map[string]bool)}
}

// Option makes a connection recorded. It needs a server that listens.
func (r *Recorder) Option() nats.Option { return nats.SetCustomDialer(recordingDialer{r}) }

// Published and Subscribed return the subjects so far, sorted.
func (r *Recorder) Published() []string { return r.sorted(&r.published) }

// Subscribed returns the subjects subscribed to so far, sorted.
func (r *Recorder) Subscribed() []string { return r.sorted(&r.subscribed) }

func (r *Recorder) sorted(m *map[string]bool) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(*m))
}

type recordingDialer struct{ r *Recorder }

func (d recordingDialer) Dial(network, address string) (net.Conn, error) {
	c, err := net.DialTimeout(network, address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return &recordingConn{Conn: c, r: d.r}, nil
}

// recordingConn reads the client protocol of NATS as it passes by. Writes of one
// connection come one after the other.
type recordingConn struct {
	net.Conn
	r    *Recorder
	line []byte // begun, not ended
	skip int    // bytes of payload still to pass
}

func (c *recordingConn) Write(p []byte) (int, error) {
	c.scan(p)
	return c.Conn.Write(p)
}

func (c *recordingConn) scan(p []byte) {
	for len(p) > 0 {
		if c.skip > 0 {
			n := min(c.skip, len(p))
			c.skip -= n
			p = p[n:]
			continue
		}
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			c.line = append(c.line, p...)
			return
		}
		c.line = append(c.line, p[:i]...)
		p = p[i+1:]
		c.take(bytes.Fields(c.line))
		c.line = c.line[:0]
	}
}

// take notes the subject of one protocol line.
func (c *recordingConn) take(f [][]byte) {
	if len(f) < 3 {
		return
	}
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	switch verb := string(bytes.ToUpper(f[0])); verb {
	case "PUB", "HPUB":
		c.r.published[string(f[1])] = true
		size, _ := strconv.Atoi(string(f[len(f)-1]))
		c.skip = size + 2
	case "SUB":
		c.r.subscribed[string(f[1])] = true
	}
}
