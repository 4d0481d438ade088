package main

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/headrace/headrace/edge/token"
	"github.com/headrace/headrace/test/rawclient"
)

// wire is one connection of the client protocol that waits for its replies.
type wire struct {
	c    *rawclient.Client
	edge string
	job  func(channel string, data json.RawMessage) // takes publications; may be nil

	mu      sync.Mutex // guards waiting
	waiting map[uint32]chan *rawclient.Reply
}

// connect makes a connection of user, "" for an anonymous one, to any edge, as a
// load balancer would.
func (r *run) connect(user string, job func(channel string, data json.RawMessage)) (*wire, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	i := rand.IntN(size)
	w := &wire{edge: r.c.edges[i].name, job: job, waiting: make(map[uint32]chan *rawclient.Reply)}
	var bearer string
	if user != "" {
		var err error
		if bearer, err = token.MintConnection(tokenSecret, token.Connection{User: user}); err != nil {
			return nil, err
		}
	}
	c, err := rawclient.DialToken(ctx, r.c.url(i), bearer, clientIdle, w.take)
	w.c = c
	return w, err
}

// take runs on the reading goroutine, which begins before connect has returned.
func (w *wire) take(e rawclient.Event) {
	switch {
	case e.Push != nil && e.Push.Pub != nil:
		w.job(e.Push.Channel, e.Push.Pub.Data)
	case e.Reply != nil:
		w.mu.Lock()
		defer w.mu.Unlock()
		if answer := w.waiting[e.Reply.ID]; answer != nil {
			delete(w.waiting, e.Reply.ID)
			answer <- e.Reply
		}
	}
}

// call sends a command and returns its reply; errLost when nobody can know.
func (w *wire) call(command string, body any) (*rawclient.Reply, error) {
	answer := make(chan *rawclient.Reply, 1)
	w.mu.Lock() // the reply may come before Send returns
	id, err := w.c.Send(command, body)
	w.waiting[id] = answer
	w.mu.Unlock()
	if err != nil {
		return nil, errLost
	}
	select {
	case reply := <-answer:
		if reply.Error != nil {
			return nil, reply.Error
		}
		return reply, nil
	case <-w.c.Done():
		return nil, errLost
	case <-time.After(20 * time.Second):
		return nil, errors.New("no reply within 20s")
	}
}

// rpc calls a method of the node's own.
func (w *wire) rpc(method string, body any) (*rawclient.Reply, error) {
	return w.call("rpc", map[string]any{"method": method, "data": body})
}
