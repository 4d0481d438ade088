package test

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// balancer forwards connections to the edges in turn, those that are alive: a
// TCP load balancer without affinity.
type balancer struct {
	net.Listener
	h  *harness
	wg sync.WaitGroup

	mu   sync.Mutex // guards next
	next int
}

func newBalancer(t *testing.T, h *harness) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{Listener: l, h: h}
	b.wg.Go(b.serve)
	t.Cleanup(func() {
		l.Close()
		b.wg.Wait()
	})
	return b
}

func (b *balancer) url() string { return "ws://" + b.Addr().String() + "/connection/websocket" }

func (b *balancer) serve() {
	for {
		client, err := b.Accept()
		if err != nil {
			return
		}
		b.wg.Go(func() { b.forward(client) })
	}
}

func (b *balancer) forward(client net.Conn) {
	defer client.Close()
	for range b.h.list() {
		b.mu.Lock()
		edges := b.h.list()
		e := edges[b.next%len(edges)]
		b.next++
		b.mu.Unlock()
		server, err := net.Dial("tcp", strings.TrimPrefix(e.url, "http://"))
		if err != nil {
			continue
		}
		defer server.Close()
		done := make(chan struct{}, 2)
		for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
			go func() {
				io.Copy(pair[0], pair[1]) //nolint:errcheck // a cut connection is what ends it
				done <- struct{}{}
			}()
		}
		<-done
		return
	}
}
