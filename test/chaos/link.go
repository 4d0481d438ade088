package main

import (
	"net"
	"sync"
	"time"
)

// link is the way from one process to another: a TCP proxy that can stop, delay
// or reset what goes through, each direction by itself. While a direction is
// stopped nothing is lost, as with TCP on a broken network: bytes wait, and
// whether the connection survives is for its ends to decide.
type link struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	change *sync.Cond // of stopped, or closed
	// stopped counts the reasons to stop a direction, since faults overlap.
	stopped [2]int
	delay   time.Duration
	conns   map[net.Conn]struct{}
	closed  bool
}

// The directions of a link.
const (
	forth = 0 // from who dials
	reply = 1
)

// chunk is bytes on their way.
type chunk struct {
	data []byte
	due  time.Time
}

// maxChunks bounds what a delayed direction holds, in reads of up to 32 KiB.
const maxChunks = 256

func newLink(target string) (*link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	k := &link{listener: l, target: target, conns: make(map[net.Conn]struct{})}
	k.change = sync.NewCond(&k.mu)
	k.wg.Go(k.accept)
	return k, nil
}

func (k *link) addr() string { return k.listener.Addr().String() }

func (k *link) accept() {
	for {
		in, err := k.listener.Accept()
		if err != nil {
			return
		}
		k.wg.Go(func() { k.serve(in) })
	}
}

func (k *link) serve(in net.Conn) {
	// A stopped way lets no connection be made, as if the first packet was lost.
	if !k.pass(forth) || !k.pass(reply) {
		in.Close()
		return
	}
	out, err := net.DialTimeout("tcp", k.target, 2*time.Second)
	if err != nil {
		in.Close()
		return
	}
	k.mu.Lock()
	k.conns[in], k.conns[out] = struct{}{}, struct{}{}
	k.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { k.pump(out, in, forth) })
	both.Go(func() { k.pump(in, out, reply) })
	both.Wait()
	k.mu.Lock()
	delete(k.conns, in)
	delete(k.conns, out)
	k.mu.Unlock()
}

// pump moves bytes one way until either end closes.
func (k *link) pump(dst, src net.Conn, way int) {
	queue := make(chan chunk, maxChunks)
	var writer sync.WaitGroup
	writer.Go(func() {
		broken := false
		for c := range queue {
			if wait := time.Until(c.due); wait > 0 && !broken {
				time.Sleep(wait) // the delay of the way
			}
			if broken || !k.pass(way) {
				broken = true
				continue // let the reader end
			}
			if _, err := dst.Write(c.data); err != nil {
				broken = true
				src.Close()
			}
		}
		dst.Close()
	})
	for {
		buf := make([]byte, 32<<10)
		n, err := src.Read(buf)
		if n > 0 {
			k.mu.Lock()
			due := time.Now().Add(k.delay)
			k.mu.Unlock()
			queue <- chunk{buf[:n], due}
		}
		if err != nil {
			break
		}
	}
	close(queue)
	writer.Wait()
	src.Close()
}

// pass waits until way is open. It is false when the link was closed.
func (k *link) pass(way int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.stopped[way] > 0 && !k.closed {
		k.change.Wait()
	}
	return !k.closed
}

// stop stops or, with open, no longer stops the directions of w as seen by who
// dials.
func (k *link) stop(w ways, open bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	by := 1
	if open {
		by = -1
	}
	if w != back {
		k.stopped[forth] += by
	}
	if w != there {
		k.stopped[reply] += by
	}
	k.change.Broadcast()
}

func (k *link) setDelay(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.delay = d
}

// reset breaks every connection.
func (k *link) reset() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.conns {
		if t, ok := c.(*net.TCPConn); ok {
			t.SetLinger(0) //nolint:errcheck // then it is closed in the usual way
		}
		c.Close()
	}
}

func (k *link) close() {
	k.listener.Close()
	k.mu.Lock()
	k.closed = true
	k.change.Broadcast()
	k.mu.Unlock()
	k.reset()
	k.wg.Wait()
}
