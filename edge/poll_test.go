package edge

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// net/http keeps a write deadline for the requests that follow on a connection, and
// balancers send those of other clients over it.
func TestE3APollLeavesTheConnectionAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRouter()
		f.ns.HistorySize, f.result = 10, historyResult(7)
		s := newTestServer(t, f, nil)
		l, srv := newPipeListener(), &http.Server{Handler: s.Handler()}
		served := make(chan error)
		go func() { served <- srv.Serve(l) }()
		c := l.dial()
		in := bufio.NewReader(c)
		for _, path := range []string{"/poll?channel=a", "/poll?channel=none:a", "/health"} {
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path) //nolint:errcheck // reading tells
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if res.ContentLength < 0 || res.Close {
				t.Errorf("%s: %+v", path, res)
			}
			if strings.HasPrefix(path, "/poll") && res.StatusCode == 200 && res.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: %v", path, res.Header)
			}
			res.Write(discard{}) //nolint:errcheck // reads the body
			time.Sleep(2 * s.cfg.WriteTimeout)
		}
		c.Close()
		srv.Close()
		<-served
		s.stop()
	})
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// pipeListener accepts the other ends of pipes, which a bubble can wait for.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial() net.Conn {
	ours, theirs := net.Pipe()
	l.conns <- theirs
	return ours
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.done); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }
