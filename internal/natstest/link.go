package natstest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// link carries the routes that node from dials to node to. While it is cut, open
// routes are closed and new ones refused.
type link struct {
	from, to int
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	target string // "" until the node has an address
	cut    bool
	conns  map[net.Conn]struct{}
}

func newLink(tb testing.TB, from, to int) *link {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("natstest: listen: %v", err)
	}
	l := &link{from: from, to: to, listener: ln, conns: make(map[net.Conn]struct{})}
	l.wg.Go(l.accept)
	return l
}

func (l *link) address() string { return l.listener.Addr().String() }

func (l *link) accept() {
	for {
		in, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		target := l.target
		l.mu.Unlock()
		out, err := net.Dial("tcp", target)
		if err != nil {
			in.Close()
			continue
		}
		if !l.keep(in, out) {
			continue
		}
		l.wg.Go(func() { l.pipe(in, out) })
		l.wg.Go(func() { l.pipe(out, in) })
	}
}

// keep registers both ends unless the link is cut.
func (l *link) keep(in, out net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		in.Close()
		out.Close()
		return false
	}
	l.conns[in], l.conns[out] = struct{}{}, struct{}{}
	return true
}

func (l *link) pipe(dst, src net.Conn) {
	_, _ = io.Copy(dst, src) // either end closing ends both
	dst.Close()
	src.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, src)
}

func (l *link) setTarget(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.target = address
}

func (l *link) setCut(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	if cut {
		for c := range l.conns {
			c.Close()
		}
	}
}

func (l *link) close() {
	l.setCut(true)
	l.listener.Close()
	l.wg.Wait()
}
